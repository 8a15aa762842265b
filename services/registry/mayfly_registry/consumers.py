"""The consumer API of JetStream, as far as the registry needs it."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import JetStreamError
from mayfly_proto import subjects
from mayfly_registry.errors import Conflict, InvalidManifest
from mayfly_registry.wanted import FUNCTION, PAUSED_UNTIL, Consumer

_NO_STREAM = 10_059
_NO_CONSUMER = 10_014
_EXISTS = 10_148  # and is not as it was asked for
_SAYS_NO = (10_026, 10_099, 10_100, 10_101)  # too many; a work queue with another on the subject, or start not all
_RESUME_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """A consumer as it is. ``function`` "": none of ours."""

    stream: str
    name: str
    function: str
    filter_subject: str
    created: datetime
    paused: bool
    pending: int  # messages that it has not delivered yet
    unacknowledged: int
    acknowledged_to: int  # sequence in the stream: all it wants up to here is acknowledged

    @property
    def key(self) -> tuple[str, str]:
        return self.stream, self.name

    def is_of(self, consumer: Consumer) -> bool:
        return (self.function, self.filter_subject) == (consumer.function, consumer.filter_subject)


class Consumers:
    """Each method raises `BusError`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def ensure(self, consumer: Consumer, *, paused: bool) -> None:
        """Make it unless it is there. Raises `InvalidManifest` when its stream does not let it be, `Conflict`."""
        subject = subjects.consumer_create(*consumer.key)
        request = {"stream_name": consumer.stream, "config": consumer.config(paused=paused), "action": "create"}
        try:
            await jetstream.api(self._bus, subject, request)
        except JetStreamError as error:
            if error.code != _EXISTS:
                raise _refusal(consumer, error) or error from None
            found = await self.find(*consumer.key)
            if found is not None and found.is_of(consumer):
                return
            if found is not None and found.function != consumer.function:
                theirs = f"stream {consumer.stream} has a consumer {consumer.name} that is none of Mayfly's"
                raise Conflict(f"{theirs}: delete it") from None
            # Left behind by a version that is no more: none that there is has this number for something else.
            await self.delete(*consumer.key)
            await jetstream.api(self._bus, subject, request)

    async def find(self, stream: str, name: str) -> Info | None:
        try:
            return _info(await jetstream.api(self._bus, subjects.consumer_info(stream, name)))
        except JetStreamError as error:
            if error.code in (_NO_STREAM, _NO_CONSUMER):
                return None
            raise

    async def on(self, streams: Iterable[str]) -> list[Info]:
        """All on these streams, page by page; one that there is not has none."""
        found: list[Info] = []
        for stream in streams:
            try:
                found += await self._of(stream)
            except JetStreamError as error:
                if error.code != _NO_STREAM:
                    raise
        return found

    async def remove(self, function: str, stream: str, name: str) -> bool:
        """Delete it if it is that function's. Whether it was."""
        found = await self.find(stream, name)
        return found is not None and found.function == function and await self.delete(stream, name)

    async def delete(self, stream: str, name: str) -> bool:
        try:
            await jetstream.api(self._bus, subjects.consumer_delete(stream, name))
        except JetStreamError as error:
            if error.code in (_NO_STREAM, _NO_CONSUMER):
                return False
            raise
        return True

    async def pause(self, stream: str, name: str, *, paused: bool) -> None:
        # A pause that runs out wakes the pulls that wait; one that is taken back leaves them asleep, for 20 s measured.
        until = PAUSED_UNTIL if paused else (datetime.now(UTC) + timedelta(seconds=_RESUME_S)).isoformat()
        request = {"pause_until": until}
        await jetstream.api(self._bus, subjects.consumer_pause(stream, name), request)
        if not paused:
            await asyncio.sleep(_RESUME_S)

    async def _of(self, stream: str) -> list[Info]:
        found: dict[str, Info] = {}
        offset, total = 0, -1
        while True:
            page = await jetstream.api(self._bus, subjects.consumer_list(stream), {"offset": offset})
            infos = [_info(entry) for entry in page.get("consumers") or ()]
            if offset and page["total"] != total:  # one of the pages before has gone: another has moved up, unseen
                found, offset, total = {}, 0, -1
                continue
            total = page["total"]
            found |= {info.name: info for info in infos}
            offset += len(infos)
            if not infos or offset >= total:
                return [*found.values()]


def _refusal(consumer: Consumer, error: JetStreamError) -> InvalidManifest | None:
    """What the user can do something about: a stream or bucket of theirs that is not there, or says no."""
    what = f"bucket {consumer.bucket}" if consumer.bucket else f"stream {consumer.stream}"
    if consumer.field and error.code == _NO_STREAM:
        return InvalidManifest([f"{consumer.field}: there is no {what}"])
    if consumer.field and error.code in _SAYS_NO:
        return InvalidManifest([f"{consumer.field}: {what} does not take this trigger: {error}"])
    return None


def _info(answer: dict[str, Any]) -> Info:
    config = answer["config"]
    return Info(
        stream=answer["stream_name"],
        name=answer["name"],
        function=(config.get("metadata") or {}).get(FUNCTION, ""),
        filter_subject=config.get("filter_subject", ""),
        created=datetime.fromisoformat(answer["created"]),
        paused=answer.get("paused", False),
        pending=answer.get("num_pending", 0),
        unacknowledged=answer.get("num_ack_pending", 0),
        acknowledged_to=answer["ack_floor"]["stream_seq"],
    )
