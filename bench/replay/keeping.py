"""How long one function's idle instances are kept: for a fixed time, or as the scaler says."""

from typing import Protocol

from mayfly_proto.records import FunctionLoad, FunctionTarget, VersionSpec
from mayfly_scaler.functions.function import Figures, Function
from mayfly_scaler.functions.learning import Learning
from mayfly_scaler.functions.targets import differs

_NOTHING_ELSE = Figures()


class Keeping(Protocol):
    target: FunctionTarget

    def second(self, load: FunctionLoad, now: float) -> bool:
        """What the router reports once a second; whether it is over until the next call comes."""


class Fixed:
    def __init__(self, seconds: float) -> None:
        self.target = FunctionTarget(keep_alive_s=seconds, further_keep_alive_s=seconds)

    def second(self, load: FunctionLoad, now: float) -> bool:
        return True


class Scaled:
    """What `mayfly_scaler.functions.functions` does with each function in a second, without the messages."""

    def __init__(self, spec: VersionSpec, private_mb: float) -> None:
        self.target = FunctionTarget()
        self._spec = spec
        self._function = Function(spec.name, Learning())
        self._function.learning.private_mb = private_mb

    def second(self, load: FunctionLoad, now: float) -> bool:
        function = self._function
        function.heard(load, now)
        if function.learning.due:
            function.learning.work_out(pre_warm=self._spec.pre_warm)
        target = function.target(self._spec, load, _NOTHING_ELSE, now)
        if differs(self.target, target):
            self.target = target
        return function.settled(now)
