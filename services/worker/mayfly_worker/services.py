"""Carries out what instances ask for, with the node's own connection. `asks` has allowed it."""

import asyncio
import time

from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus, Reply
from mayfly_chassis.errors import NoResponders, RequestTimeout
from mayfly_chassis.kv import Bucket
from mayfly_chassis.objects import ObjectInfo, ObjectStore
from mayfly_proto import errors, headers, names, storage, subjects
from mayfly_proto.errors import CallError, ErrorType
from mayfly_worker import answers, asks
from mayfly_worker.answers import Answer
from mayfly_worker.replies import COMPONENT

_RETRY_S = 0.03
_PATIENCE_S = 2.0  # for a function that nobody answers for: its router may be changing


class Services:
    """Every method raises `CallError` and `BusError`; whoever calls it ends it when the call's time is over."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    @property
    def payload_limit(self) -> int:
        return self._bus.payload_limit

    async def publish(self, ask: asks.Publish, fields: dict[str, str], payload: bytes) -> Answer:
        """Into EVENTS it is acknowledged and has an id; elsewhere it is gone, and nobody says whether anyone heard."""
        if ask.message_id is not None:
            fields = fields | {headers.MESSAGE_ID: ask.message_id}
        block = headers.block(fields)
        if not ask.durable:
            self._bus.publish(ask.subject, payload, headers=block)
            return Answer()
        sequence = await jetstream.publish(self._bus, ask.subject, payload, headers=block)
        return Answer(storage.invocation_id(storage.EVENTS, sequence))

    async def call(self, ask: asks.Call, fields: dict[str, str], payload: bytes, left_s: float) -> Answer:
        """While nobody listens nobody has seen the call, and only then is it sent again."""
        budget_s = left_s if ask.timeout_ms is None else min(left_s, ask.timeout_ms / 1000)
        until = time.monotonic() + budget_s
        patient_until = min(time.monotonic() + _PATIENCE_S, until - budget_s / 4)
        while True:
            try:
                reply = await self._request(ask.function, fields, payload, until)
            except RequestTimeout:
                sentence = f"{ask.function} did not answer within {budget_s:.3g} s"
                raise CallError(ErrorType.DEADLINE_EXCEEDED, sentence, component=COMPONENT) from None
            except NoResponders:
                if time.monotonic() >= patient_until:
                    sentence = f"nobody answers for the function {ask.function}"
                    raise CallError(ErrorType.NOT_FOUND, sentence, component=COMPONENT) from None
                await asyncio.sleep(_RETRY_S)
            else:
                return _result(reply)

    async def _request(self, function: str, fields: dict[str, str], payload: bytes, until: float) -> Reply:
        left_s = max(0.001, until - time.monotonic())
        block = headers.block(fields | {headers.TIMEOUT_MS: str(max(1, int(left_s * 1000)))})
        subject = subjects.call(*names.parse_target(function))
        return await self._bus.request(subject, payload, headers=block, timeout_s=left_s)

    async def kv(self, ask: asks.KvAsk, payload: bytes) -> Answer:
        bucket = Bucket(self._bus, ask.bucket)
        try:
            return await _kv(bucket, ask, payload)
        except NoResponders:
            raise answers.missing("bucket", bucket.name) from None

    async def objects(self, ask: asks.ObjectAsk, payload: bytes) -> Answer:
        store = ObjectStore(self._bus, ask.bucket)
        try:
            return await _objects(store, ask, payload)
        except NoResponders:
            raise answers.missing("object store", store.bucket) from None


async def _kv(bucket: Bucket, ask: asks.KvAsk, value: bytes) -> Answer:
    match ask:
        case asks.KvGet():
            entry = await bucket.get(ask.key)
            return Answer() if entry is None else Answer(entry.revision, entry.value)
        case asks.KvCreate():
            return Answer(await bucket.create(ask.key, value, ttl_s=ask.ttl_s))
        case asks.KvPut():
            return Answer(await bucket.put(ask.key, value, ttl_s=ask.ttl_s))
        case asks.KvUpdate():
            return Answer(await bucket.update(ask.key, value, ask.revision, ttl_s=ask.ttl_s))
        case asks.KvDelete():
            await bucket.delete(ask.key, tombstone_ttl_s=None)
        case asks.KvKeys():
            return Answer(await bucket.keys(ask.prefix, limit=asks.LISTED))
    return Answer()


async def _objects(store: ObjectStore, ask: asks.ObjectAsk, chunk: bytes) -> Answer:
    match ask:
        case asks.ObjectInfo():
            info = await store.info(ask.name)
            return Answer() if info is None else Answer((info.name, info.size, info.digest, info.mtime, info.nuid))
        case asks.ObjectRead():
            part = await store.read(ask.nuid, ask.sequence)
            return Answer(part.next, part.data)
        case asks.ObjectWrite():
            await store.put_chunk(ask.nuid, chunk)
        case asks.ObjectFinish():
            return Answer((await store.finish(_object(store.bucket, ask))).mtime)
        case asks.ObjectDiscard():
            await store.discard(ask.nuid)
        case asks.ObjectDelete():
            await store.delete(ask.name)
        case asks.ObjectList():
            return Answer(await store.names(limit=asks.LISTED))
    return Answer()


def _object(bucket: str, ask: asks.ObjectFinish) -> ObjectInfo:
    return ObjectInfo(name=ask.name, bucket=bucket, nuid=ask.nuid, size=ask.size, chunks=ask.chunks, digest=ask.digest)


def _result(reply: Reply) -> Answer:
    error = errors.from_reply(reply.headers, reply.payload)
    if error is not None:
        raise error
    content_type = headers.find(reply.headers, headers.CONTENT_TYPE.encode()) if reply.headers else None
    return Answer((content_type or b"application/json").decode("latin-1"), reply.payload)
