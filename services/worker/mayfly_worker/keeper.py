"""Looks after one instance, from the order to start it until its process is gone.

    order → spec → code → launch → ready → calls … → told to stop → exit
                 └──────── failed: its router is told ────────┘ └ dies: its callers are told

It is what the runtime reports to. `on_result` is on the warm path and only passes on.
"""

import signal

from msgspec import Raw

from mayfly_proto.errors import CallError, ErrorType
from mayfly_proto.records import VersionSpec
from mayfly_proto.states import Instance as State
from mayfly_worker import replies
from mayfly_worker.calls import Call
from mayfly_worker.group import Instance
from mayfly_worker.logs import InstanceLog
from mayfly_worker.node import Node
from mayfly_worker.packages import Code
from mayfly_worker.runtime import Exit, Launch

INIT_LIMIT_S = 10.0


class Keeper:
    """A runtime's `Listener`."""

    def __init__(self, node: Node, instance: Instance, router: str) -> None:
        self.instance = instance
        self._node = node
        self._router = router
        self._log = InstanceLog(node.logs, instance)
        self._init_limit_s = INIT_LIMIT_S
        self.ready_by = 0.0  # by `Node.now`; from the launch on
        self._spec: VersionSpec | None = None
        self._condemned = ""  # why it was killed
        node.keepers[instance.id] = self

    @property
    def wanted(self) -> bool:
        """Nobody has told it to stop before it was even there."""
        return self.instance.state is State.STARTING

    def launch(self, spec: VersionSpec, code: Code) -> None:
        instance, node = self.instance, self._node
        self._spec = spec
        instance.group.configure(spec)
        instance.phases_ms |= code.phases_ms
        self._init_limit_s = max(INIT_LIMIT_S, spec.timeout_s)
        self.ready_by = node.now() + self._init_limit_s
        node.starting[instance.id] = self
        instance.process = node.runtime.launch(Launch(instance.id, spec, code.path), self)

    def abandon(self, error: CallError | None) -> None:
        """It was not launched: nothing will report its end."""
        if error is not None and self.wanted:
            self._fail(error)
        self._end(0.0)

    def too_slow(self) -> None:
        """Its time to become ready is over."""
        self._fail(self._init_failed(f"was not ready within {self._init_limit_s:g} s"))

    def time_out(self, call: Call) -> None:
        """A call in it is above its limit; it can only be ended with its process, and the other calls in it."""
        self._condemned = "was killed: a call in it ran out of time"
        instance, node = self.instance, self._node
        if instance.state is not State.FAILED:
            instance.group.fail(instance)
            node.routes.update(instance.group)
        sentence = f"the function did not answer within {call.deadline - call.started:g} s"
        error = CallError(ErrorType.FUNCTION_TIMEOUT, sentence, component=replies.COMPONENT)
        node.invoker.error(instance, call.id, error)
        if instance.process is not None:
            instance.process.kill()

    def on_ready(self, phases_ms: dict[str, float]) -> None:
        instance, node = self.instance, self._node
        node.starting.pop(instance.id, None)
        if instance.state is not State.STARTING:
            if instance.process is not None:
                instance.process.stop()  # it was told to before it could hear it
            return
        now = node.now()
        instance.phases_ms |= phases_ms | {"total": round((now - instance.ordered_at) * 1000, 3)}
        instance.group.ready(instance, now)
        node.routes.update(instance.group)
        node.invoker.serve(instance.group)
        node.log.info("instance.ready", **self._ids(), pid=self._pid(), **instance.phases_ms)

    def on_init_error(self, message: str, traceback: str) -> None:
        self._fail(self._init_failed(message, traceback))

    def on_result(self, call: int, content_type: int, extra_headers: bytes | None, payload: bytes) -> None:
        self._node.invoker.result(self.instance, call, content_type, extra_headers, payload)

    def on_error(self, call: int, kind: str, message: str, traceback: str) -> None:
        self._node.invoker.error(self.instance, call, replies.from_function(kind, message, traceback))

    def on_log(self, stream: str, invocation: str, lines: bytes) -> None:
        self._log.write(stream, invocation, lines)

    def on_ask(self, ask: int, call: int, verb: str, arguments: Raw, payload: bytes) -> None:
        if self._spec is not None:
            self._node.asking.ask(self.instance, self._spec, ask, call, verb, arguments, payload)

    def on_exit(self, exit: Exit) -> None:
        instance, node = self.instance, self._node
        node.starting.pop(instance.id, None)
        kind, how = self._describe(exit)
        sentence = f"instance {instance.id} of {instance.group.function} {how}"
        if instance.state is State.STARTING:
            cause = kind if exit.out_of_memory else ErrorType.INIT_FAILED
            self._fail(CallError(cause, sentence, component=replies.COMPONENT, traceback=exit.stderr_tail))
        elif not instance.finished and instance.state is not State.FAILED:
            instance.group.fail(instance)
            node.routes.update(instance.group)
        for call in node.calls.of(instance):
            error = CallError(kind, sentence, component=replies.COMPONENT, traceback=exit.stderr_tail)
            node.invoker.error(instance, call.id, error)
        self._end(exit.cpu_ms, how)

    def _fail(self, error: CallError) -> None:
        """It will never be ready."""
        instance, node = self.instance, self._node
        node.starting.pop(instance.id, None)
        if instance.state is State.STARTING:
            instance.group.fail(instance)
            node.report_failed(self._router, instance, error)
        if instance.process is not None:
            instance.process.kill()

    def _end(self, cpu_ms: float, how: str = "was not launched") -> None:
        instance, node = self.instance, self._node
        self._log.close()
        node.remove(instance, cpu_ms)
        if self._spec is not None:
            node.packages.release(self._spec.package)
        record = node.log.info if instance.state is State.STOPPED else node.log.warning
        record("instance.ended", **self._ids(), state=instance.state.value, calls=instance.calls, how=how)

    def _describe(self, exit: Exit) -> tuple[ErrorType, str]:
        group = self.instance.group
        if exit.out_of_memory:
            return ErrorType.OUT_OF_MEMORY, f"used more than its {group.memory_mb} MB of memory"
        if self._condemned:
            return ErrorType.INSTANCE_CRASHED, self._condemned
        if exit.signal is not None:
            return ErrorType.INSTANCE_CRASHED, f"was ended by {_signal_name(exit.signal)}"
        if exit.code is not None:
            return ErrorType.INSTANCE_CRASHED, f"exited with code {exit.code}"
        return ErrorType.INSTANCE_CRASHED, "ended"

    def _init_failed(self, sentence: str, traceback: str = "") -> CallError:
        return CallError(ErrorType.INIT_FAILED, sentence, component=replies.COMPONENT, traceback=traceback)

    def _ids(self) -> dict[str, object]:
        group = self.instance.group
        return {"function": group.function, "version": group.version, "instance": self.instance.id}

    def _pid(self) -> int:
        return self.instance.process.pid if self.instance.process is not None else 0


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
