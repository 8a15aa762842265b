"""How a service starts and stops, in order, on this page:

    config → connect (until the server is there) → app: mirrors loaded, subscribed → flush → ready → wait
    → not ready → micro service: no new requests, running ones finished → app: stop intake, finish in-flight,
    withdraw → background tasks cancelled → close

`running` is one service inside the current loop; tests run any number of them side by side. `main` is a process with
one service, and exits by 0 (was told to stop), 1 (something broke) or 2 (the configuration is wrong).

A process may be told to stop at any moment. While the app is being entered, that is a cancellation inside it; from then
on it stops in order, ready or not, for others may have begun to count on it.
"""

import asyncio
import gc
import importlib.metadata
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import structlog
import uvloop

from mayfly_chassis import config as configuration
from mayfly_chassis import health, logs, supervisor
from mayfly_chassis.bus import Bus
from mayfly_chassis.config import ConfigError, ServiceConfig
from mayfly_chassis.errors import BusClosed, ConnectFailed, Unauthorized, Untrusted
from mayfly_chassis.micro import Micro

C = TypeVar("C", bound=ServiceConfig)

_CONNECT_RETRY_S = 0.2
_COLLECT_EVERY = (50_000, 20, 50)  # allocations; a start makes hundreds of thousands of objects, and keeps them all

log = structlog.get_logger()


class BackgroundTaskDied(Exception):
    """A task that was to run as long as its service has ended with an error."""


@dataclass(kw_only=True)
class Chassis:
    """What a service stands on."""

    name: str
    bus: Bus
    tasks: asyncio.TaskGroup
    micro: Micro
    log: structlog.typing.FilteringBoundLogger
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    error: BaseException | None = None
    _background: set[asyncio.Task[Any]] = field(default_factory=set)

    def background(self, name: str, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it as long as the service; if it fails, the service stops, and with that error.

        Cancelled when the app has exited.
        """
        task = self.tasks.create_task(self._watch(name, coroutine), name=f"{self.name}.{name}")
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def fail(self, error: BaseException) -> None:
        """Stop the service because of this; the first error is the one it ends with."""
        if self.error is None:
            self.error = error
        self.stopping.set()

    def cancel_background(self) -> None:
        for task in self._background:
            task.cancel()

    async def _watch(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            await coroutine
        except Exception as error:
            self.log.exception("background.died", task=name)
            died = BackgroundTaskDied(f"{self.name}: {name}: {error}")
            died.__cause__ = error
            self.fail(died)


App = Callable[[Chassis, C], AbstractAsyncContextManager[None]]
"""Entered: mirrors loaded, subscribed. Exited: stop intake, finish what is in flight, withdraw.

An app on which others count before it is entered (it has said that it is there) withdraws also when that is cancelled.
"""


@asynccontextmanager
async def running(name: str, app: App[C], config: C, *, role: str | None = None) -> AsyncIterator[Chassis]:
    """The whole service, ready inside the block. Raises what it died of, when the block is left."""
    bound = structlog.get_logger().bind(service=name)

    def connection_lost() -> None:
        chassis.fail(BusClosed("the connection to NATS is lost for good"))

    bus = await _connect(name, role or name, config, connection_lost)
    try:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(bus.close)
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            micro = Micro(bus, name, _version(), f"Mayfly {name}", tasks)
            chassis = Chassis(name=name, bus=bus, tasks=tasks, micro=micro, log=bound)
            stack.callback(chassis.cancel_background)
            await stack.enter_async_context(app(chassis, config))
            stack.push_async_callback(micro.stop)
            await micro.start()
            await bus.flush()
            bound.info("service.ready")
            yield chassis
            bound.info("service.stopping")
    except BaseExceptionGroup as group:
        raise group.exceptions[0] if len(group.exceptions) == 1 else group  # noqa: B904 - it is the same error
    if chassis.error is not None:
        raise chassis.error
    bound.info("service.stopped")


def main(name: str, app: App[C], config_type: type[C]) -> NoReturn:
    """Run one service as this process, until SIGTERM or SIGINT."""
    try:
        config = configuration.load(config_type, name)
        config.nats_password()
    except ConfigError as error:
        sys.stderr.write(f"{name}: {error}\n")
        sys.exit(2)
    logs.configure(name, config.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(_serve(name, app, config)))


async def _serve(name: str, app: App[C], config: C) -> int:
    entered: list[Chassis] = []
    ready: list[Chassis] = []
    task = asyncio.current_task()
    assert task is not None

    @asynccontextmanager
    async def noted(chassis: Chassis, config: C) -> AsyncIterator[None]:
        async with app(chassis, config):
            entered.append(chassis)
            yield

    def asked_to_stop() -> None:
        if entered and not entered[0].stopping.is_set():
            entered[0].stopping.set()
        else:
            task.cancel()  # the app withdraws as far as it has come; asked twice, it drops what it is about

    gc.set_threshold(*_COLLECT_EVERY)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked_to_stop)
    try:
        async with AsyncExitStack() as stack:
            if config.health_port is not None:
                await stack.enter_async_context(
                    health.serving(config.health_host, config.health_port, lambda: _takes_work(ready))
                )
            chassis = await stack.enter_async_context(running(name, noted, config))
            ready.append(chassis)
            gc.collect()
            gc.freeze()  # what was made at start stays; to go through it costs milliseconds
            supervisor.notify(supervisor.READY)
            await chassis.stopping.wait()
            supervisor.notify(supervisor.STOPPING)
    except asyncio.CancelledError:
        return 1 if entered else 0
    except Exception as error:
        log.exception("service.failed", error=str(error))
        return 1
    return 0


def _takes_work(ready: list[Chassis]) -> bool:
    return bool(ready) and not ready[0].stopping.is_set() and ready[0].bus.connected


async def _connect(name: str, role: str, config: ServiceConfig, on_closed: Callable[[], None]) -> Bus:
    password = config.nats_password()
    user = config.nats_user or (role if password is not None else None)
    waiting = False
    while True:
        try:
            return await Bus.connect(
                config.nats_url,
                name=name,
                role=role,
                user=user,
                password=password,
                ca_file=config.nats_ca_file,
                on_closed=on_closed,
            )
        except (Unauthorized, Untrusted):
            raise
        except ConnectFailed as error:
            if not waiting:
                log.warning("bus.waiting", url=config.nats_url, error=str(error))
            waiting = True
            await asyncio.sleep(_CONNECT_RETRY_S)


def _version() -> str:
    return importlib.metadata.version("mayfly")
