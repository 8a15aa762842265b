"""What happens in a new process: its files and limits, user code's import, then calls until the worker hangs up."""

import atexit
import contextlib
import faulthandler
import functools
import gc
import importlib
import logging
import os
import signal
import sys
import time
import types
from dataclasses import dataclass, field
from typing import Any, NoReturn

from mayfly_runtime import calls, linux, output, sandbox, wire
from mayfly_runtime.context import Function

_SOCKET = 3


@dataclass(frozen=True, slots=True)
class Order:
    """What to start. With it come, as file descriptors: socket, stdout, stderr, the code's mount (in a private root),
    and one ``cgroup.procs`` for each group to join."""

    id: int
    function: Function
    handler: str
    concurrency: int
    env: dict[str, str]
    confinement: sandbox.Confinement
    received: float = field(default_factory=time.monotonic)

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> "Order":
        return cls(
            id=fields["id"],
            function=Function(**fields["function"]),
            handler=fields["handler"],
            concurrency=fields["concurrency"],
            env=fields["env"],
            confinement=sandbox.Confinement(**fields["confinement"]),
        )


def run(kernel: sandbox.Kernel, order: Order, fds: list[int]) -> NoReturn:
    """Never returns: the process ends here, whatever happens."""
    code = 1
    try:
        forked = time.monotonic()
        channel = _take_files(fds)
        try:
            sandboxed, handler, streams = _prepare(kernel, order, fds, channel)
        except BaseException as error:  # noqa: BLE001  user code's import may raise anything
            _report_failure(channel, error)
        else:
            done = time.monotonic()
            phases = {
                "fork": forked - order.received,
                "sandbox": sandboxed - forked,
                "import": done - sandboxed,
                "total": done - order.received,
            }
            channel.send(wire.READY, {name: round(value * 1000, 3) for name, value in phases.items()})
            calls.Calls(channel, streams, order.function, handler, order.concurrency).serve()
            atexit._run_exitfuncs()
            streams.flush()
            code = 0
    except BaseException:  # noqa: BLE001  the last frame of this process
        with contextlib.suppress(BaseException):
            os.write(2, calls.format_traceback(sys.exc_info()[1] or SystemExit()).encode())
    finally:
        os._exit(code)


def _take_files(fds: list[int]) -> wire.Channel:
    """0 is empty, 1 and 2 are pipes, 3 is the socket; the rest keeps its number until the sandbox is up."""
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    null = os.open("/dev/null", os.O_RDONLY)
    for source, target in zip((null, fds[1], fds[2], fds[0]), (0, 1, 2, _SOCKET), strict=True):
        os.dup2(source, target, inheritable=target != _SOCKET)
    return wire.Channel(_SOCKET)


def _prepare(
    kernel: sandbox.Kernel, order: Order, fds: list[int], channel: wire.Channel
) -> tuple[float, calls.Handler, output.Output]:
    want = order.confinement
    mount = fds[3] if want.private_root else None
    sandbox.confine(kernel, want, fds[4:] if want.private_root else fds[3:], mount)
    os.closerange(_SOCKET + 1, 1 << 16)
    sandboxed = time.monotonic()
    linux.set_name(f"mayfly:{order.function.name}")
    os.environ.update(order.env)
    os.chdir(want.code)
    sys.path.insert(0, want.code)
    sys.argv = [order.handler]
    sys.modules["__main__"] = types.ModuleType("__main__")
    streams = output.Output(channel)
    faulthandler.enable(2)
    _set_up_logging()
    gc.enable()
    handler = load_handler(order.handler)
    streams.flush()
    return sandboxed, handler, streams


def _set_up_logging() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.root.addHandler(handler)
    logging.root.setLevel(logging.INFO)


class BadHandler(Exception):
    """The function's handler is not there, or cannot be called."""


def load_handler(name: str) -> calls.Handler:
    """``module:function``; raises `BadHandler`, or whatever the module raises."""
    module_name, _, path = name.partition(":")
    module = importlib.import_module(module_name)
    try:
        handler = functools.reduce(getattr, path.split("."), module)
    except AttributeError:
        raise BadHandler(f"module {module_name!r} has no {path!r}, which the handler {name!r} names") from None
    if not callable(handler):
        raise BadHandler(f"handler {name!r} is a {type(handler).__name__}, not a function")
    return handler  # type: ignore[no-any-return]  # callable is as much as can be known


def _report_failure(channel: wire.Channel, error: BaseException) -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    if isinstance(error, BadHandler):
        channel.send(wire.INIT_ERROR, (str(error), ""))
        return
    _, message, trace = calls.describe(error)
    channel.send(wire.INIT_ERROR, (message, trace))
