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
import socket
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from mayfly_runtime import asks, calls, event, forks, linux, output, sandbox, template, wire
from mayfly_runtime.context import Context, Function, Host

_SOCKET = 3
_CONTROL = 4  # a template's


@dataclass(frozen=True, slots=True)
class Start:
    """What a START frame says. With it come, in a private root, the code's mount, and a template's control socket."""

    sent: float  # time.monotonic() of the worker
    function: Function
    handler: str
    concurrency: int
    batch: bool
    env: dict[str, str]
    confinement: sandbox.Confinement
    template: bool

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> "Start":
        return cls(
            sent=fields["sent"],
            function=Function(**fields["function"]),
            handler=fields["handler"],
            concurrency=fields["concurrency"],
            batch=fields["batch"],
            env=fields["env"],
            confinement=sandbox.Confinement(**fields["confinement"]),
            template=fields["template"],
        )


class Instance:
    """One process, from its fork to its end."""

    def __init__(self, kernel: sandbox.Kernel) -> None:
        self._kernel = kernel
        self._channel = wire.Channel(_SOCKET)
        self._output = output.Output(self._channel)

    def become_function(self, groups: list[int]) -> bool:
        """False if it could not start."""
        try:
            sandbox.prepare(self._kernel, groups)
            _warm_up()
            forked = time.monotonic()
            received = self._channel.receive_start()
            if received is None:
                return True  # never needed
            begun = time.monotonic()
            start, control = Start.parse(received[0]), received[1][1:]
            sandbox.confine(self._kernel, start.confinement, received[1][:1], template=bool(control))
            _close_all_but(control)
            sandboxed = time.monotonic()
            before = template.Possessions.look() if control else None
            handler = self._load(start)
            if before is not None:
                template.settle(before)
        except BaseException as error:  # noqa: BLE001  user code's import may raise anything
            return self._fail(error)
        ready = time.monotonic()
        self._tell_ready(fork=forked - start.sent, sandbox=sandboxed - begun, import_=ready - sandboxed)
        if control:
            self._serve_forks(handler)
        self._serve(start, handler)
        return True

    def _serve_forks(self, handler: calls.Handler) -> NoReturn:
        control = socket.socket(fileno=_CONTROL)
        run = functools.partial(_run_fork, self, handler)
        forks.ForkServer(control, run, own_orphans=False).serve()

    def become_sibling(self, handler: calls.Handler, tmp: int, groups: list[int]) -> bool:
        """In a template's child, which is its function's already."""
        try:
            forked = time.monotonic()
            sandbox.confine_fork(self._kernel, tmp, groups)
            for fd in (tmp, *groups):
                os.close(fd)
            template.renew()
            sandboxed = time.monotonic()
            received = self._channel.receive_start()
            if received is None:
                return True
            start = Start.parse(received[0])
            os.environ.update(start.env)
            self._output.guard_forks()
        except BaseException as error:  # noqa: BLE001  as above
            return self._fail(error)
        self._tell_ready(fork=forked - start.sent, sandbox=sandboxed - forked, import_=0.0)
        self._serve(start, handler)
        return True

    def _load(self, start: Start) -> calls.Handler:
        linux.set_name(f"mayfly:{start.function.name}")
        os.environ.update(start.env)
        os.chdir(start.confinement.code)
        sys.path.insert(0, start.confinement.code)
        sys.argv = [start.handler]
        sys.modules["__main__"] = types.ModuleType("__main__")
        if not start.template:
            self._output.guard_forks()
        return load_handler(start.handler)

    def _tell_ready(self, *, fork: float, sandbox: float, import_: float) -> None:
        self._output.flush()
        phases = {"fork": fork, "sandbox": sandbox, "import": import_}
        self._channel.send(wire.READY, {name: max(0.0, round(value * 1000, 3)) for name, value in phases.items()})

    def _serve(self, start: Start, handler: calls.Handler) -> None:
        served = calls.Calls(self._channel, self._output, start.function, handler, start.concurrency, batch=start.batch)
        served.serve()
        if self._channel.abandoned:
            time.sleep(forks.STOPPED_S)  # to end is work, too: the zygote does it, when there is time
        atexit._run_exitfuncs()
        self._output.flush()

    def _fail(self, error: BaseException) -> bool:
        self._output.flush()
        message, trace = str(error), ""
        if not isinstance(error, BadHandler | template.Unsuitable):
            _, message, trace = calls.describe(error)
        self._channel.send(wire.INIT_ERROR, (message, trace))
        return False


def run(kernel: sandbox.Kernel, fds: list[int]) -> NoReturn:
    """``fds``: socket, stdout, stderr, control group if any. Never returns."""

    def live() -> bool:
        _take_files(fds)
        return Instance(kernel).become_function(fds[3:])

    _end_with(live)


def _run_fork(instance: Instance, handler: calls.Handler, fds: list[int]) -> NoReturn:
    """``fds``: socket, stdout, stderr, the mount for /tmp, control group if any. Never returns."""

    def live() -> bool:
        _take_files(fds)
        return instance.become_sibling(handler, fds[3], fds[4:])

    _end_with(live)


def _end_with(live: Callable[[], bool]) -> NoReturn:
    code = 1
    try:
        code = 0 if live() else 1
    except BaseException as error:  # noqa: BLE001  the last frame of this process
        with contextlib.suppress(BaseException):
            os.write(2, calls.format_traceback(error).encode())
    finally:
        os._exit(code)


def _take_files(fds: list[int]) -> None:
    """0 is empty, 1 and 2 are pipes, 3 is the socket; the rest keeps its number until the sandbox is up."""
    os.setsid()
    null = os.open("/dev/null", os.O_RDONLY)
    for source, target in zip((null, fds[1], fds[2], fds[0]), (0, 1, 2, _SOCKET), strict=True):
        os.dup2(source, target, inheritable=target != _SOCKET)
    for fd in {null, *fds[:3]} - {0, 1, 2, _SOCKET}:
        os.close(fd)


def _close_all_but(control: list[int]) -> None:
    for fd in control:
        os.dup2(fd, _CONTROL, inheritable=False)
    os.closerange(_CONTROL + len(control), 1 << 16)


def _warm_up() -> None:
    """Goes through an import and a call once, so that the real ones find their memory copied."""
    faulthandler.enable(2)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.root.addHandler(handler)
    logging.root.setLevel(logging.INFO)
    gc.enable()
    function = Function("warm-up", "0", 0, "auto")
    context = Context(Host(function, asks.Nobody()), 0, "", 0, True, 1, None)
    event.encode(event.decode(function, None, b'{"warm": ["up", 1, 0.5]}', context), None)
    compile("def handler(event, context):\n    return event\n", "warm-up", "exec")
    with contextlib.suppress(ImportError):
        importlib.import_module("mayfly_warm_up")


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
