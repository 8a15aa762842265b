"""The registry: checks, stores and publishes functions.

The only writer of the buckets `functions`, `versions` and `numbers` and of the object store `code`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from mayfly_chassis.errors import BusError
from mayfly_chassis.micro import Request
from mayfly_chassis.service import Chassis
from mayfly_proto import api, subjects
from mayfly_registry.changes import Changes
from mayfly_registry.config import RegistryConfig
from mayfly_registry.errors import Refusal, to_call_error
from mayfly_registry.queries import Queries
from mayfly_registry.reconcile import Reconciler
from mayfly_registry.store import Store

R = TypeVar("R")

PACKAGES_AT_ONCE = 4  # requests that hold a whole package in memory


@asynccontextmanager
async def app(chassis: Chassis, config: RegistryConfig) -> AsyncIterator[None]:
    store = Store(chassis.bus)
    changes = Changes(chassis.bus, store, config)
    queries = Queries(store)

    async def offer(verb: str, handler: Callable[[Request], Awaitable[bytes]], limit: int = PACKAGES_AT_ONCE) -> None:
        subject = subjects.api(api.FUNCTION, verb)
        await chassis.micro.endpoint(verb, subject, handler, queue=subjects.REGISTRY_QUEUE, limit=limit)

    await offer(api.DEPLOY, _answering(api.DeployRequest, changes.deploy))
    await offer(api.CONFIGURE, _answering(api.ConfigureRequest, changes.configure))
    await offer(api.ROLLBACK, _answering(api.RollbackRequest, changes.rollback))
    await offer(api.DELETE, _answering(api.DeleteRequest, changes.delete))
    await offer(api.LIST, _answering(dict, lambda _: queries.functions()))
    await offer(api.VERSIONS, _answering(api.FunctionRequest, queries.versions), limit=64)
    await offer(api.DESCRIBE, _answering(api.FunctionRequest, queries.describe))
    await offer(api.CODE, _answering(api.FunctionRequest, queries.code))
    chassis.background("reconcile", _reconcile(chassis, Reconciler(chassis.bus, store, config.grace_s), config))
    yield


def _answering(kind: type[R], verb: Callable[[R], Awaitable[Any]]) -> Callable[[Request], Awaitable[bytes]]:
    async def answer(request: Request) -> bytes:
        asked = request.json(kind)
        try:
            return api.encode(await verb(asked))
        except (Refusal, BusError) as error:
            raise to_call_error(error) from error

    return answer


async def _reconcile(chassis: Chassis, reconciler: Reconciler, config: RegistryConfig) -> None:
    while True:
        try:
            await reconciler.once(datetime.now(UTC))
        except BusError as error:
            chassis.log.warning("reconcile.failed", error=str(error))
        await asyncio.sleep(config.reconcile_every_s)
