"""The few JetStream requests Mayfly makes: acknowledged publish, direct get of one message or of all, the admin API."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from mayfly_chassis.bus import Bus, Reply
from mayfly_chassis.errors import JetStreamError, NoResponders, RequestTimeout
from mayfly_proto import headers, subjects

WRONG_LAST_SEQUENCE = frozenset({10071, 10164})

_PAGE_MESSAGES = 1000
_PAGE_BYTES = 8 * 1024 * 1024
_SUBJECTS_AT_ONCE = 500  # the server refuses more than 1024


class Stored(NamedTuple):
    """A message as it lies in a stream; ``headers`` are the publisher's and the server's."""

    subject: str
    sequence: int
    headers: bytes
    payload: bytes

    @property
    def time(self) -> datetime:
        """When it was stored."""
        return datetime.fromisoformat((headers.find_last(self.headers, b"Nats-Time-Stamp") or b"").decode())


class _ApiError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Acknowledgement(msgspec.Struct):
    seq: int = 0
    error: _ApiError | None = None


_acknowledgement = msgspec.json.Decoder(_Acknowledgement)


async def publish(
    bus: Bus, subject: str, payload: bytes, *, headers: bytes | None = None, timeout_s: float = 5.0
) -> int:
    """Store a message; returns its sequence. Raises `JetStreamError`, `NoResponders` when no stream takes it."""
    return acknowledged((await bus.request(subject, payload, headers=headers, timeout_s=timeout_s)).payload)


def acknowledged(answer: bytes) -> int:
    """The sequence in a stream's acknowledgement. Raises `JetStreamError`."""
    try:
        acknowledgement = _acknowledgement.decode(answer)
    except msgspec.MsgspecError as error:
        raise JetStreamError(f"no acknowledgement: {answer[:200]!r}") from error
    if acknowledgement.error is not None:
        raise JetStreamError(acknowledgement.error.description, acknowledgement.error.err_code)
    return acknowledgement.seq


async def api(bus: Bus, subject: str, request: object = None, *, timeout_s: float = 5.0) -> dict[str, Any]:
    """A request to the admin API, such as `subjects.stream_info`. Raises `JetStreamError`."""
    body = b"" if request is None else json.dumps(request).encode()
    answer: dict[str, Any] = json.loads((await bus.request(subject, body, timeout_s=timeout_s)).payload)
    if "error" in answer:
        raise JetStreamError(answer["error"].get("description", ""), answer["error"].get("err_code", 0))
    return answer


async def counts(bus: Bus, stream: str, filter_subject: str) -> dict[str, int]:
    """How many messages there are, by subject. Raises as `api`."""
    found: dict[str, int] = {}
    while True:
        request = {"subjects_filter": filter_subject, "offset": len(found)}
        answer = await api(bus, subjects.stream_info(stream), request)
        page = answer["state"].get("subjects") or {}
        found |= page
        if not page or len(found) >= answer.get("total", 0):
            return found


async def last(bus: Bus, stream: str, subject: str, *, timeout_s: float = 5.0) -> Stored | None:
    """The newest message of one subject. Raises `NoResponders` when there is no such stream."""
    return _found(await bus.request(subjects.direct_get_last(stream, subject), timeout_s=timeout_s), subject)


async def first(
    bus: Bus,
    stream: str,
    filter_subject: str,
    *,
    sequence: int | None = None,
    since: datetime | None = None,
    timeout_s: float = 5.0,
) -> Stored | None:
    """The oldest message below a subject from a sequence or a time on; else as `last`."""
    start = {"seq": sequence or 1} if since is None else {"start_time": since.isoformat()}
    body = json.dumps({**start, "next_by_subj": filter_subject}).encode()
    return _found(await bus.request(subjects.direct_get(stream), body, timeout_s=timeout_s), filter_subject)


def _found(reply: Reply, wanted: str) -> Stored | None:
    if _is_message(reply.headers):
        return stored(reply.headers or b"", reply.payload)
    status = headers.status(reply.headers)
    if status == "404":
        return None
    raise JetStreamError(f"direct get of {wanted}: {(reply.headers or b'')[9:100]!r}")


def _is_message(raw: bytes | None) -> bool:
    """Not the server's word on the request. The first line does not tell: a publisher may have written anything."""
    return raw is not None and headers.find_last(raw, b"Nats-Sequence") is not None


async def at(bus: Bus, stream: str, sequence: int, *, timeout_s: float = 5.0) -> Stored | None:
    """The message of one sequence; None when it is gone. Raises `NoResponders` when there is no such stream."""
    request = json.dumps({"seq": sequence}).encode()
    found = _found(await bus.request(subjects.direct_get(stream), request, timeout_s=timeout_s), str(sequence))
    return found if found is not None and found.sequence == sequence else None


async def every(
    bus: Bus, stream: str, filter_subject: str, on_message: Callable[[Stored], None], *, timeout_s: float = 10.0
) -> None:
    """Hand over the newest messages below a subject, in the order of their sequences, page by page.

    No consumer is made. ``timeout_s`` is for each page. Raises `NoResponders` when there is no such stream,
    `JetStreamError`, `RequestTimeout`.
    """
    await _read(_Pages(bus, stream, {"next_by_subj": filter_subject}, on_message), bus, timeout_s)


async def newest(bus: Bus, stream: str, of: Sequence[str], *, timeout_s: float = 10.0) -> dict[str, Stored]:
    """The newest message of each of these subjects that has one, by subject; else as `every`."""
    messages: dict[str, Stored] = {}

    def keep(message: Stored) -> None:
        messages[message.subject] = message

    for start in range(0, len(of), _SUBJECTS_AT_ONCE):
        wanted = {"multi_last": list(of[start : start + _SUBJECTS_AT_ONCE])}
        await _read(_Pages(bus, stream, wanted, keep), bus, timeout_s)
    return messages


async def _read(reader: "_Pages", bus: Bus, timeout_s: float) -> None:
    subscription = await bus.subscribe(reader.inbox, reader.received)
    try:
        while await reader.page(timeout_s):
            pass
    finally:
        await subscription.unsubscribe()


async def page(
    bus: Bus,
    stream: str,
    filter_subject: str,
    on_message: Callable[[Stored], None],
    *,
    sequence: int,
    timeout_s: float = 10.0,
) -> bool:
    """One page of `every`, from a sequence on; whether there is another."""
    reader = _Pages(bus, stream, {"next_by_subj": filter_subject}, on_message, sequence)
    subscription = await bus.subscribe(reader.inbox, reader.received)
    try:
        return await reader.page(timeout_s)
    finally:
        await subscription.unsubscribe()


class _Pages:
    def __init__(
        self,
        bus: Bus,
        stream: str,
        wanted: Mapping[str, object],
        on_message: Callable[[Stored], None],
        sequence: int = 1,
    ) -> None:
        self.inbox = bus.new_inbox()
        self._bus = bus
        self._stream = stream
        self._wanted = wanted
        self._on_message = on_message
        self._next = sequence
        self._pending = 0
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def page(self, timeout_s: float) -> bool:
        """Whether there is another page."""
        self._ended = asyncio.get_running_loop().create_future()
        self._pending = 0
        request = {
            "seq": self._next,
            "batch": _PAGE_MESSAGES,
            "max_bytes": _PAGE_BYTES,
            **self._wanted,
        }
        self._bus.publish(subjects.direct_get(self._stream), json.dumps(request).encode(), reply=self.inbox)
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended
        except TimeoutError as error:
            raise RequestTimeout(f"{self._stream}: no page in {timeout_s} s") from error
        return self._pending > 0

    def received(self, _subject: bytes, _reply: bytes, raw: bytes | None, payload: bytes) -> None:
        if self._ended.done():
            return
        status = headers.status(raw)
        try:
            if raw is not None and _is_message(raw):
                message = stored(raw, payload)
                self._next = message.sequence + 1
                self._pending = int(headers.find(raw, b"Nats-Num-Pending") or 0)
                self._on_message(message)
            elif status in ("204", "404"):  # end of the page; nothing (more) of that kind
                self._ended.set_result(None)
            elif status == "503":
                raise NoResponders(f"there is no stream {self._stream}")
            else:
                raise JetStreamError(f"direct get from {self._stream}: {(raw or b'')[9:100]!r}")
        except Exception as error:  # noqa: BLE001 - whoever waits for the page gets it
            self._ended.set_exception(error)


def stored(raw: bytes, payload: bytes) -> Stored:
    """A reply to a direct get. Raises `JetStreamError`."""
    subject, sequence = headers.find_last(raw, b"Nats-Subject"), headers.find_last(raw, b"Nats-Sequence")
    if subject is None or sequence is None:
        raise JetStreamError(f"not a stored message: {raw[:200]!r}")
    return Stored(subject.decode("utf-8", "replace"), int(sequence), raw, payload)  # the server takes any bytes
