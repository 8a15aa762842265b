"""The life of an instance: forked as a spare that could become any function's, made one function's by a START frame.

What does not depend on the function is done while nobody waits: files, session, control group, mounts, and touching
the memory that an import will write to, which the kernel copies page by page after a fork. A start then costs the
sandbox and the import.
"""

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
from dataclasses import dataclass
from typing import Any, NoReturn

from mayfly_runtime import calls, event, linux, output, sandbox, wire
from mayfly_runtime.context import Context, Function

_SOCKET = 3


@dataclass(frozen=True, slots=True)
class Start:
    """What a START frame says. With it comes, in a private root, the code's mount."""

    sent: float  # time.monotonic() of the worker
    function: Function
    handler: str
    concurrency: int
    env: dict[str, str]
    confinement: sandbox.Confinement

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> "Start":
        return cls(
            sent=fields["sent"],
            function=Function(**fields["function"]),
            handler=fields["handler"],
            concurrency=fields["concurrency"],
            env=fields["env"],
            confinement=sandbox.Confinement(**fields["confinement"]),
        )


def run(kernel: sandbox.Kernel, fds: list[int]) -> NoReturn:
    """``fds``: socket, stdout, stderr, control group if any. Never returns: the process ends here, whatever happens."""
    code = 1
    try:
        channel = _take_files(fds)
        streams = output.Output(channel)
        if _become_function(kernel, channel, streams, fds[3:]):
            code = 0
    except BaseException as error:  # noqa: BLE001  the last frame of this process
        with contextlib.suppress(BaseException):
            os.write(2, calls.format_traceback(error).encode())
    finally:
        os._exit(code)


def _become_function(kernel: sandbox.Kernel, channel: wire.Channel, streams: output.Output, groups: list[int]) -> bool:
    """False if it could not start."""
    try:
        sandbox.prepare(kernel, groups)
        _warm_up()
        forked = time.monotonic()
        received = channel.receive_start()
        if received is None:
            return True  # never needed
        begun = time.monotonic()
        start = Start.parse(received[0])
        sandbox.confine(kernel, start.confinement, received[1])
        os.closerange(_SOCKET + 1, 1 << 16)
        sandboxed = time.monotonic()
        handler = _load(start)
        streams.flush()
    except BaseException as error:  # noqa: BLE001  user code's import may raise anything
        streams.flush()
        _report_failure(channel, error)
        return False
    ready = time.monotonic()
    phases = {"fork": forked - start.sent, "sandbox": sandboxed - begun, "import": ready - sandboxed}
    channel.send(wire.READY, {name: max(0.0, round(value * 1000, 3)) for name, value in phases.items()})
    calls.Calls(channel, streams, start.function, handler, start.concurrency).serve()
    atexit._run_exitfuncs()
    streams.flush()
    return True


def _take_files(fds: list[int]) -> wire.Channel:
    """0 is empty, 1 and 2 are pipes, 3 is the socket; the rest keeps its number until the sandbox is up."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    null = os.open("/dev/null", os.O_RDONLY)
    for source, target in zip((null, fds[1], fds[2], fds[0]), (0, 1, 2, _SOCKET), strict=True):
        os.dup2(source, target, inheritable=target != _SOCKET)
    return wire.Channel(_SOCKET)


def _warm_up() -> None:
    """Goes through an import and a call once, so that the real ones find their memory copied."""
    faulthandler.enable(2)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.root.addHandler(handler)
    logging.root.setLevel(logging.INFO)
    gc.enable()
    function = Function("warm-up", "0", 0, "auto")
    context = Context(function, "", 0, True, 1, None)
    event.encode(event.decode(function, None, b'{"warm": ["up", 1, 0.5]}'), context, None)
    compile("def handler(event, context):\n    return event\n", "warm-up", "exec")
    with contextlib.suppress(ImportError):
        importlib.import_module("mayfly_warm_up")


def _load(start: Start) -> calls.Handler:
    linux.set_name(f"mayfly:{start.function.name}")
    os.environ.update(start.env)
    os.chdir(start.confinement.code)
    sys.path.insert(0, start.confinement.code)
    sys.argv = [start.handler]
    sys.modules["__main__"] = types.ModuleType("__main__")
    return load_handler(start.handler)


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
    return handler


def _report_failure(channel: wire.Channel, error: BaseException) -> None:
    if isinstance(error, BadHandler):
        channel.send(wire.INIT_ERROR, (str(error), ""))
        return
    _, message, trace = calls.describe(error)
    channel.send(wire.INIT_ERROR, (message, trace))
