"""Calls over NATS: what a name means, and one answer or one error for each call, before its deadline."""

import asyncio

from mayfly_chassis.bus import Bus, Reply
from mayfly_chassis.errors import BusError, MessageTooLarge, NoResponders, RequestTimeout
from mayfly_chassis.kv import Bucket
from mayfly_gateway import catalog
from mayfly_gateway.catalog import Catalog, Target
from mayfly_gateway.translation import COMPONENT
from mayfly_proto import names, records, storage
from mayfly_proto.errors import CallError, ErrorType

QUEUE_WAIT_S = 10.0  # how long a call may wait for its turn, where the caller sets no limit
GRACE_S = 2.0  # for the platform's own error to arrive, which says more than "no answer"
FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 0.5


class Calls:
    def __init__(self, bus: Bus, known: Catalog) -> None:
        self._bus = bus
        self._known = known
        self._functions = Bucket(bus, storage.FUNCTIONS)
        self._versions = Bucket(bus, storage.VERSIONS)

    async def find(self, text: str) -> Target:
        """What ``hello`` or ``hello@3`` names.

        A name that is not in the mirror is looked up in the bucket: the mirror may be a moment behind a deploy.
        Raises CallError (not_found).
        """
        try:
            found = self._known.target(text) or await self._look_up(*catalog.parse(text))
        except names.InvalidName as error:
            raise CallError(ErrorType.NOT_FOUND, f"no such function: {error}", component=COMPONENT) from None
        if found is None:
            raise CallError(ErrorType.NOT_FOUND, f"no such function: {text}", component=COMPONENT)
        return found

    async def call(self, target: Target, payload: bytes, block: bytes, timeout_ms: int | None) -> Reply:
        """The reply, be it a result or an error. Raises CallError where there is none.

        "No responders" of a function that exists means that its owner is just moving. Nobody has seen the call then,
        so it is sent again, until the deadline.
        """
        wait_s = target.timeout_s + QUEUE_WAIT_S if timeout_ms is None else timeout_ms / 1000
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_s
        pause_s = FIRST_PAUSE_S
        while True:
            left_s = max(deadline - clock(), 0) + GRACE_S
            try:
                return await self._bus.request(target.subject, payload, headers=block, timeout_s=left_s)
            except NoResponders:
                if left_s <= GRACE_S:
                    raise _unavailable(f"no router serves {target.name}") from None
            except RequestTimeout:
                message = f"{target.name}: no answer in {wait_s:g} s"
                raise CallError(ErrorType.DEADLINE_EXCEEDED, message, component=COMPONENT) from None
            except MessageTooLarge:
                message = f"the request is larger than the {self._bus.payload_limit} bytes that a call may have"
                raise CallError(ErrorType.TOO_LARGE, message, component=COMPONENT) from None
            except BusError:
                raise _unavailable("the gateway has no connection to NATS") from None
            await asyncio.sleep(min(pause_s, max(deadline - clock(), 0)))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            await self.find(target.name)  # it may be gone by now

    async def _look_up(self, name: str, asked: int | None) -> Target | None:
        try:
            if (entry := await self._functions.get(name)) is None:
                return None
            version = catalog.callable_version(records.decode(entry.value, records.FunctionRecord), asked)
            if version is None or (entry := await self._versions.get(storage.version_key(name, version))) is None:
                return None
        except BusError:
            raise _unavailable("NATS does not answer whether there is such a function") from None
        return catalog.target(records.decode(entry.value, records.VersionSpec), asked)


def _unavailable(message: str) -> CallError:
    return CallError(ErrorType.UNAVAILABLE, message, component=COMPONENT, retry_after_s=1)
