"""The stream of dead letters, read by a stock client as an operator would."""

import json
from dataclasses import dataclass

import nats
import nats.errors
import nats.js.errors

STREAM = "DLQ"
_PREFIX = "dlq."


@dataclass(frozen=True)
class DeadLetter:
    function: str
    id: str  # the event's, as its payload has it
    reason: str
    attempts: int


class DeadLetters:
    """All that have been seen; `read` adds those that are new."""

    def __init__(self, connection: nats.NATS) -> None:
        self.all: list[DeadLetter] = []
        self._jetstream = connection.jetstream(timeout=2)
        self._next = 1

    async def read(self) -> list[DeadLetter]:
        try:
            last = (await self._jetstream.stream_info(STREAM)).state.last_seq
            while self._next <= last:
                message = await self._jetstream.get_msg(STREAM, seq=self._next, next=True)
                headers = message.headers or {}
                self.all.append(
                    DeadLetter(
                        function=str(message.subject).removeprefix(_PREFIX),
                        id=json.loads(message.data or b"")["id"],
                        reason=headers.get("Mayfly-Reason", ""),
                        attempts=int(headers.get("Mayfly-Attempts", "0")),
                    )
                )
                self._next = (message.seq or self._next) + 1
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError):
            pass  # the server is just away: the next reading goes on from here
        return self.all
