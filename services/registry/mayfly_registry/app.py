"""The registry: checks, stores and publishes functions.

The only writer of the buckets `functions`, `versions` and `numbers` and of the object store `code`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from mayfly_chassis.errors import BusError
from mayfly_chassis.micro import Request
from mayfly_chassis.service import Chassis
from mayfly_proto import api, subjects
from mayfly_registry.changes import Changes
from mayfly_registry.config import RegistryConfig
from mayfly_registry.dead_letters import DeadLetters
from mayfly_registry.errors import Refusal, to_call_error
from mayfly_registry.invocations import Invocations
from mayfly_registry.pausing import Pausing
from mayfly_registry.queries import Queries
from mayfly_registry.reconcile import Reconciler
from mayfly_registry.store import Store
from mayfly_registry.timetable import Timetable
from mayfly_registry.unknown_calls import UnknownCalls
from mayfly_registry.upkeep import Upkeep
from mayfly_registry.wiring import Wiring

R = TypeVar("R")

PACKAGES_AT_ONCE = 4  # requests that hold a whole package in memory


@asynccontextmanager
async def app(chassis: Chassis, config: RegistryConfig) -> AsyncIterator[None]:
    store, wiring = Store(chassis.bus), Wiring(chassis.bus)
    changes = Changes(chassis.bus, store, wiring, config)
    queries, pausing, timetable = Queries(store), Pausing(store, wiring), Timetable(store, wiring)

    async def offer(
        verb: str,
        handler: Callable[[Request], Awaitable[bytes]],
        limit: int = PACKAGES_AT_ONCE,
        *,
        resource: str = api.FUNCTION,
    ) -> None:
        name = verb if resource == api.FUNCTION else f"{resource}-{verb}"
        subject = subjects.api(resource, verb)
        await chassis.micro.endpoint(name, subject, handler, queue=subjects.REGISTRY_QUEUE, limit=limit)

    await offer(api.DEPLOY, _answering(api.DeployRequest, changes.deploy))
    await offer(api.CONFIGURE, _answering(api.ConfigureRequest, changes.configure))
    await offer(api.ROLLBACK, _answering(api.RollbackRequest, changes.rollback))
    await offer(api.DELETE, _answering(api.DeleteRequest, changes.delete))
    await offer(api.LIST, _answering(dict, lambda _: queries.functions()))
    await offer(api.VERSIONS, _answering(api.FunctionRequest, queries.versions), limit=64)
    await offer(api.DESCRIBE, _answering(api.FunctionRequest, queries.describe))
    await offer(api.CODE, _answering(api.FunctionRequest, queries.code))
    await offer(api.PAUSE, _answering(api.PauseRequest, pausing.pause))
    await offer(api.RESUME, _answering(api.PauseRequest, pausing.resume))
    listed = _answering(api.SchedulesRequest, lambda request: timetable.schedules(request, datetime.now(UTC)))
    await offer(api.LIST, listed, resource=api.SCHEDULE)
    calls, letters = Invocations(chassis.bus), DeadLetters(chassis.bus, store)
    await offer(api.GET, _answering(api.InvocationRequest, calls.get), resource=api.INVOCATION, limit=64)
    await offer(api.CANCEL, _answering(api.InvocationRequest, calls.cancel), resource=api.INVOCATION, limit=64)
    await offer(api.LIST, _answering(api.DeadLettersRequest, letters.page), resource=api.DEAD_LETTERS)
    await offer(api.SHOW, _answering(api.DeadLetterRequest, letters.show), resource=api.DEAD_LETTERS)
    await offer(api.REDRIVE, _answering(api.DeadLettersChange, letters.redrive), resource=api.DEAD_LETTERS)
    await offer(api.PURGE, _answering(api.DeadLettersChange, letters.purge), resource=api.DEAD_LETTERS)
    upkeep, leftovers = Upkeep(chassis.bus, store, wiring), Reconciler(chassis.bus, store, config.grace_s)

    async def reconcile() -> None:
        now = datetime.now(UTC)
        await upkeep.consumers_and_schedules(now - timedelta(seconds=config.grace_s))
        await leftovers.once(now)
        await upkeep.events(now, config.events_keep_s)

    async def sweep() -> None:
        await UnknownCalls(chassis.bus, store).sweep(datetime.now(UTC))

    chassis.background("reconcile", _again(chassis, reconcile, config.reconcile_every_s))
    chassis.background("sweep", _again(chassis, sweep, config.sweep_every_s))
    yield


def _answering(kind: type[R], verb: Callable[[R], Awaitable[Any]]) -> Callable[[Request], Awaitable[bytes]]:
    async def answer(request: Request) -> bytes:
        asked = request.json(kind)
        try:
            return api.encode(await verb(asked))
        except (Refusal, BusError) as error:
            raise to_call_error(error) from error

    return answer


async def _again(chassis: Chassis, work: Callable[[], Awaitable[None]], every_s: float) -> None:
    while True:
        try:
            await work()
        except BusError as error:
            chassis.log.warning(f"{work.__name__}.failed", error=str(error))
        except Exception:
            # Whatever lies in the streams that nobody thought of: it must not take the registry with it, each time.
            chassis.log.exception(f"{work.__name__}.broke")
        await asyncio.sleep(every_s)
