"""The scaler's targets at the owners of the functions: mirrored, and seen to.

Nobody here waits for the scaler. While it is gone, what it said last stands.
"""

from collections.abc import Callable

import msgspec
import structlog

from mayfly_chassis.bus import Bus
from mayfly_chassis.mirror import Mirror
from mayfly_proto import records, storage
from mayfly_proto.records import FunctionTarget
from mayfly_router.dispatch import Dispatch
from mayfly_router.function import Function, Stopping
from mayfly_router.prewarm import PreWarm
from mayfly_router.state import State
from mayfly_router.wishes import NO_TARGET

_log = structlog.get_logger()


class Targets:
    """``stop(stopping)`` tells a node to let instances go."""

    def __init__(self, bus: Bus, state: State, dispatch: Dispatch, stop: Callable[[Stopping], None]) -> None:
        self._state = state
        self._dispatch = dispatch
        self._stop = stop
        self._targets: dict[str, FunctionTarget] = {}
        self._prewarm = PreWarm()
        self._mirror = Mirror(bus, storage.TARGETS, self.on_target, below=storage.FUNCTION_TARGETS)

    async def start(self) -> None:
        """Loaded on return."""
        await self._mirror.start()

    async def stop(self) -> None:
        await self._mirror.stop()

    def on_target(self, name: str, value: bytes | None) -> None:
        try:
            target = None if value is None else records.decode(value, FunctionTarget)
        except msgspec.MsgspecError as error:
            _log.warning("target.malformed", function=name, error=str(error))
            return
        if target is None:
            self._targets.pop(name, None)
        else:
            self._targets[name] = target
        if function := self._state.functions.get(name):
            self.equip(function)

    def equip(self, function: Function) -> None:
        """A function that is new here, or has another target or current version."""
        function.target = self._targets.get(function.name, NO_TARGET)
        self._prewarm.follow(function, self._state.clock())
        self._restated(function)

    def tick(self, now: float) -> None:
        changes = self._prewarm.look(now)
        for function in (*changes.begun, *changes.used, *changes.unused):
            self._restated(function)
        for function in changes.unused:
            for stopping in function.unwanted():
                self._stop(stopping)

    def _restated(self, function: Function) -> None:
        self._state.restated.add(function.name)
        self._dispatch.attend(function.name)
