"""The resource `dlq`: list, show, redrive, purge.

A dead letter that is driven again is published first and deleted when that is acknowledged: whoever dies in between
leaves it in the stream, and the next time it is recognised by its message id.
"""

import asyncio
from collections.abc import AsyncIterator

from mayfly_chassis import durable, jetstream
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import JetStreamError
from mayfly_chassis.history import History
from mayfly_chassis.jetstream import Stored
from mayfly_proto import api, storage, subjects
from mayfly_registry import draft, letters
from mayfly_registry.errors import InvalidRequest, NotFound
from mayfly_registry.store import Store

LIMIT = 1000  # of one page
REDRIVE_S = 40.0  # for one request

_AT_ONCE = 64
_STORE_S = 10.0


class DeadLetters:
    """Each verb raises `Refusal` or `BusError`."""

    def __init__(self, bus: Bus, store: Store) -> None:
        self._bus = bus
        self._store = store
        self._payload_limit = bus.payload_limit * 2 // 3  # base64 in the reply

    async def page(self, request: api.DeadLettersRequest) -> list[api.DeadLetter]:
        """Newest first. Only as much of the stream is read as is answered."""
        if not 1 <= request.limit <= LIMIT:
            raise InvalidRequest(f"limit is {request.limit}: must be 1 to {LIMIT}")
        lies = self._history(request.function)
        newest, oldest = await lies.newest(), await lies.first({"seq": 1})
        before = newest.sequence + 1 if newest is not None and request.before is None else request.before or 0
        if newest is None or oldest is None or before <= oldest.message.sequence:
            return []
        beyond = await lies.first({"seq": before})
        start = await lies.back(request.limit, oldest, before - 1, 0 if beyond is None else beyond.left)
        found: list[api.DeadLetter] = []
        while page := await lies.page(start, request.limit, letters.letter):
            found += page
            start = page[-1].sequence + 1
            if start >= before:
                break
        return [each for each in found if each.sequence < before][::-1][: request.limit]

    async def show(self, request: api.DeadLetterRequest) -> api.DeadLetter:
        message = await self._message(request.sequence)
        if message is None:
            raise NotFound(f"there is no dead letter {request.sequence}")
        return letters.letter(message, full=True, payload_limit=self._payload_limit)

    async def redrive(self, request: api.DeadLettersChange) -> api.DeadLettersChanged:
        """Those that fail again meanwhile are not driven a second time."""
        await self._store.record(draft.check_name(request.function))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + REDRIVE_S
        count = left = 0
        async for messages in self._wanted(request):
            if loop.time() > deadline:
                left += len(messages)
                continue
            count += sum(await asyncio.gather(*(self._again(message) for message in messages)))
        return api.DeadLettersChanged(function=request.function, count=count, left=left)

    async def purge(self, request: api.DeadLettersChange) -> api.DeadLettersChanged:
        function = draft.check_name(request.function)
        if request.sequences is None:
            wanted = {"filter": subjects.dead_letter(function)}
            count = (await jetstream.api(self._bus, subjects.stream_purge(storage.DLQ), wanted))["purged"]
        else:
            count = 0
            async for messages in self._wanted(request):
                count += sum(await asyncio.gather(*(self._delete(message) for message in messages)))
        return api.DeadLettersChanged(function=function, count=count)

    async def _wanted(self, request: api.DeadLettersChange) -> AsyncIterator[list[Stored]]:
        """Those named that are still there, or all up to now, oldest first."""
        if request.sequences is not None:
            named = await self._checked(request.function, request.sequences)
            for start in range(0, len(named), _AT_ONCE):
                found = [await self._message(sequence) for sequence in named[start : start + _AT_ONCE]]
                yield [message for message in found if message is not None]
            return
        lies = self._history(request.function)
        newest, start = await lies.newest(), 1
        while newest is not None and start <= newest.sequence:
            page = await lies.page(start, _AT_ONCE, lambda message: message)
            if not page:
                break
            start = page[-1].sequence + 1
            yield [message for message in page if message.sequence <= newest.sequence]

    async def _checked(self, function: str, sequences: list[int]) -> list[int]:
        """Raises `NotFound` when none is there, `InvalidRequest` when one is another function's."""
        there = []
        for sequence in dict.fromkeys(sequences):
            message = await self._message(sequence)
            if message is not None and (owner := letters.function_of(message)) != function:
                raise InvalidRequest(f"sequences: dead letter {sequence} is of {owner}, not of {function}")
            there += [sequence] if message is not None else []
        if not there:
            raise NotFound(f"there is no dead letter {', '.join(map(str, sequences[:10])) or 'named'}")
        return there

    async def _again(self, message: Stored) -> bool:
        due = subjects.due(letters.function_of(message))
        await durable.store(self._bus, due, message.payload, headers=letters.again(message), wait_s=_STORE_S)
        return await self._delete(message)

    async def _delete(self, message: Stored) -> bool:
        """False when it is gone already."""
        try:
            await jetstream.api(self._bus, subjects.message_delete(storage.DLQ), {"seq": message.sequence})
        except JetStreamError:  # with one of several codes, when there is no such message
            if await self._message(message.sequence) is not None:
                raise
            return False
        return True

    async def _message(self, sequence: int) -> Stored | None:
        return await jetstream.at(self._bus, storage.DLQ, sequence) if sequence > 0 else None

    def _history(self, function: str | None) -> History:
        subject = subjects.DEAD_LETTERS if function is None else subjects.dead_letter(draft.check_name(function))
        return History(self._bus, storage.DLQ, subject)
