"""What is done for one call or event in the background: whatever is wrong with it, the others are not to blame."""

import asyncio
from collections.abc import Coroutine

import structlog

from mayfly_router.orders import Background

_log = structlog.get_logger()


class Errands:
    def __init__(self, background: Background) -> None:
        self._background = background
        self._under_way = 0
        self._none = asyncio.Event()
        self._none.set()

    def run(self, name: str, work: Coroutine[None, None, None]) -> None:
        self._under_way += 1
        self._none.clear()
        self._background(name, self._alone(name, work))

    async def over(self) -> None:
        """Wait until none is under way."""
        await self._none.wait()

    async def _alone(self, name: str, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except Exception:  # noqa: BLE001 - as said
            _log.exception("errand.broke", errand=name)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._none.set()
