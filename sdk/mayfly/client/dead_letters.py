"""What failed for good."""

from collections.abc import Iterable

from mayfly.client.connection import Connection
from mayfly_proto import api


class DeadLetters(Connection):
    async def dead_letters(
        self, function: str | None = None, *, before: int | None = None, limit: int = 100
    ) -> list[api.DeadLetter]:
        """Newest first, without headers and payloads; ``before`` a sequence is the next page."""
        wanted = api.DeadLettersRequest(function=function, before=before, limit=limit)
        return await self._ask(api.LIST, wanted, list[api.DeadLetter], resource=api.DEAD_LETTERS)

    async def dead_letter(self, sequence: int) -> api.DeadLetter:
        """One, with the publisher's headers and payload."""
        wanted = api.DeadLetterRequest(sequence=sequence)
        return await self._ask(api.SHOW, wanted, api.DeadLetter, resource=api.DEAD_LETTERS)

    async def redrive(self, function: str, sequences: Iterable[int] | None = None) -> api.DeadLettersChanged:
        """Run them again, all or those named, as if for the first time; only this function gets them."""
        return await self._change(api.REDRIVE, function, sequences)

    async def purge(self, function: str, sequences: Iterable[int] | None = None) -> api.DeadLettersChanged:
        """Remove them, all or those named."""
        return await self._change(api.PURGE, function, sequences)

    async def _change(self, verb: str, function: str, sequences: Iterable[int] | None) -> api.DeadLettersChanged:
        named = None if sequences is None else list(sequences)
        wanted = api.DeadLettersChange(function=function, sequences=named)
        return await self._ask(verb, wanted, api.DeadLettersChanged, resource=api.DEAD_LETTERS)
