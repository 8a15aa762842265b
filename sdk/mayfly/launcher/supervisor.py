"""Keeps the platform's processes running: each is started again when it dies, and all are stopped in order."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mayfly.launcher.log_file import tail
from mayfly.launcher.run import Run
from mayfly.platform_file import Process

FIRST_DELAY_S = 0.1
MAX_DELAY_S = 5.0
GOOD_RUN_S = 10.0  # after which a death counts as the first again
STOP_S = 70.0  # a worker finishes what it runs, for a minute at most
SLOW_STOP_S = 3.0  # after which the user is told what is waited for


class StartFailed(Exception):
    """A service could not be started; the message has the end of its log."""


def delay_s(deaths: int) -> float:
    """How long to wait before a start that follows so many deaths in a row; not at all after one."""
    return min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** (deaths - 2)) if deaths > 1 else 0.0


@dataclass(eq=False)
class Service:
    """One process that is to be there. `start` gives a new run of it, or raises."""

    name: str  # as its folder
    label: str  # to tell two of the same name apart
    log: Path
    start: Callable[[], Run]
    stop_s: float | None = STOP_S  # that it may take to end in good order; None: as long as it needs
    vital: bool = True  # without it there is no platform
    ready: asyncio.Event = field(default_factory=asyncio.Event)  # for the first time
    run: Run | None = None
    stopping: bool = False  # it was asked to; a second time would hurry it

    async def keep(self, on_change: Callable[[], None], say: Callable[[str], None]) -> None:
        """Until cancelled. Raises `StartFailed` when the first run of a vital one ends before it is ready."""
        loop = asyncio.get_running_loop()
        deaths = 0
        while True:
            started = loop.time()
            how = await self._once(on_change)
            if self.vital and not self.ready.is_set():
                raise StartFailed(f"{self.label} did not start ({how}). The end of {self.log}:\n{tail(self.log)}")
            deaths = 1 if loop.time() - started > GOOD_RUN_S else deaths + 1
            say(f"{self.label} died ({how}), starting it again")
            await asyncio.sleep(delay_s(deaths))

    async def _once(self, on_change: Callable[[], None]) -> str:
        """Start it and wait for its end; say how that came."""
        try:
            self.run = self.start()
        except Exception as error:  # noqa: BLE001 - whatever keeps it from starting, it is tried again
            return str(error)
        if self.run.ready:
            self.ready.set()
        on_change()
        return await asyncio.shield(self.run.ended)

    async def stop(self, say: Callable[[str], None]) -> None:
        """In good order if it can, else, where it has a limit, by force."""
        asked, self.stopping = self.stopping, True
        if self.run is None:
            return
        if not asked:
            self.run.terminate()
        if await _ended(self.run, SLOW_STOP_S):
            return
        limit = "for as long as it takes" if self.stop_s is None else f"for {self.stop_s:g} s at most"
        say(f"waiting for {self.label} to stop, {limit}; a further Ctrl-C ends it now")
        if not await _ended(self.run, None if self.stop_s is None else self.stop_s - SLOW_STOP_S):
            self.run.kill()
            await self.run.ended

    def kill(self) -> None:
        if self.run is not None:
            self.run.kill()


async def _ended(run: Run, within_s: float | None) -> bool:
    done, _ = await asyncio.wait([run.ended], timeout=within_s)
    return bool(done)


class Supervisor:
    def __init__(self, on_change: Callable[[], None], say: Callable[[str], None]) -> None:
        self.services: list[Service] = []
        self._keeping: dict[Service, asyncio.Task[None]] = {}
        self._on_change = on_change
        self._say = say

    def add(self, service: Service, tasks: asyncio.TaskGroup) -> None:
        self.services.append(service)
        keep = service.keep(self._on_change, self._say)
        self._keeping[service] = tasks.create_task(keep, name=f"keep {service.label}")

    async def remove(self, service: Service) -> None:
        """Stop it in good order, and keep it no longer."""
        self._keeping.pop(service).cancel()
        await service.stop(lambda _: None)  # nobody waits for it
        self.services.remove(service)
        self._on_change()

    def processes(self) -> tuple[Process, ...]:
        """Those that run now."""
        running = [(s.name, s.run) for s in self.services if s.run is not None and not s.run.ended.done()]
        return tuple(Process(name, run.pid) for name, run in running)

    def on_ready(self, pid: int) -> None:
        for service in self.services:
            if service.run is not None and service.run.pid == pid:
                service.ready.set()

    async def wait_ready(self, timeout_s: float) -> None:
        """Raises `StartFailed` with the names of those that are not."""
        try:
            async with asyncio.timeout(timeout_s):
                for service in self.services:
                    await service.ready.wait()
        except TimeoutError:
            slow = ", ".join(service.label for service in self.services if not service.ready.is_set())
            raise StartFailed(f"not ready after {timeout_s:g} s: {slow}; see the logs of each") from None

    async def stop(self, order: Sequence[Sequence[str]]) -> None:
        for names in order:
            await asyncio.gather(*(service.stop(self._say) for service in self.services if service.name in names))

    def kill(self) -> None:
        for service in self.services:
            service.kill()
