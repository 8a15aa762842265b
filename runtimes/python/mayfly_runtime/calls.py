"""One call: event in, handler, result or error out; and the two loops that feed it.

A plain function is called from a blocking loop, the cheapest way there is: one read and one write per call. A coroutine
function runs in an asyncio loop, as many calls at once as the worker sends.

Many instances take turns on few cores, so each comes to its call with cold caches: what counts is how little Python
runs for a call.
"""

import asyncio
import inspect
import socket
import traceback
from collections.abc import Callable
from typing import Any

from mayfly_runtime import asks, batch, event, output, wire
from mayfly_runtime.context import Context, Function, Host

Handler = Callable[[Any, Context], Any]

_OURS = __file__.rpartition("/")[0]
_TRACEBACK_BYTES = 16384


class Calls:
    def __init__(
        self,
        channel: wire.Channel,
        streams: output.Output,
        function: Function,
        handler: Handler,
        concurrency: int,
        *,
        batch: bool = False,
    ) -> None:
        self._channel = channel
        self._output = streams
        self._function = function
        self._handler = handler
        self._concurrency = concurrency
        self._batch = batch
        self._decode: Callable[[Function, bytes | None, bytes, Context], Any] = event.decode

    def serve(self) -> None:
        """Returns when the worker has closed the socket."""
        waits = _is_coroutine_function(self._handler)
        if self._batch:
            self._decode = batch.decode
            self._handler = batch.coroutine(self._handler) if waits else batch.plain(self._handler)
        if waits:
            asyncio.run(self._serve_coroutines())
        else:
            self._serve_one_by_one()

    def _serve_one_by_one(self) -> None:
        receive, send, streams = self._channel.receive, self._channel.send, self._output
        function, handler, decode, encode = self._function, self._handler, self._decode, event.encode
        asker = asks.Blocking(self._channel)
        host = Host(function, asker)
        while (frame := receive()) is not None:
            kind, meta, payload = frame
            if kind != wire.EVENT:
                asker.forget()
                continue
            number, streams.alone, budget_ms, cold, attempt, headers = meta
            asker.call = number
            try:
                context = Context(host, number, streams.alone, budget_ms, cold, attempt, headers)
                answer = encode(handler(decode(function, headers, payload, context), context), headers)
            except BaseException as error:  # noqa: BLE001  whatever user code raises, SystemExit too, is its answer
                asker.close()
                self._fail(number, error)
            else:
                asker.call = 0
                if asker.used:
                    asker.close()
                if streams.unfinished:
                    streams.flush()
                send(wire.RESULT, (number, answer[0], answer[1]), answer[2])

    async def _serve_coroutines(self) -> None:
        loop = asyncio.get_running_loop()
        closed = loop.create_future()
        running: set[asyncio.Task[None]] = set()
        sock = socket.socket(fileno=self._channel.fd)
        asker = asks.Awaiting(self._channel)
        host = Host(self._function, asker)

        def on_readable() -> None:
            data = sock.recv(1 << 18, socket.MSG_DONTWAIT)
            if not data:
                loop.remove_reader(sock)
                closed.set_result(None)
                return
            for kind, meta, payload in self._channel.feed(data):
                if kind != wire.EVENT:
                    asker.answered(meta, payload)
                    continue
                if self._concurrency == 1:
                    self._output.alone = meta[1]
                task = loop.create_task(self._call_coroutine(host, meta, payload))
                running.add(task)
                task.add_done_callback(running.discard)

        loop.add_reader(sock, on_readable)
        try:
            await closed
        finally:
            sock.detach()

    async def _call_coroutine(self, host: Host, meta: Any, payload: bytes) -> None:
        number, name, budget_ms, cold, attempt, headers = meta
        output.invocation.set(name)
        try:
            context = Context(host, number, name, budget_ms, cold, attempt, headers)
            result = await self._handler(self._decode(self._function, headers, payload, context), context)
            answer = event.encode(result, headers)
        except BaseException as error:  # noqa: BLE001  as above
            self._fail(number, error)
        else:
            self._output.flush()
            self._channel.send(wire.RESULT, (number, answer[0], answer[1]), answer[2])

    def _fail(self, number: int, error: BaseException) -> None:
        self._output.flush()
        kind, message, trace = describe(error)
        self._channel.send(wire.ERROR, (number, kind, message, trace))


def _is_coroutine_function(handler: Handler) -> bool:
    call = getattr(type(handler), "__call__", None)  # noqa: B004  an instance of a class with ``async def __call__``
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call)


def describe(error: BaseException) -> tuple[str, str, str]:
    """The error's kind, sentence and traceback, as the caller gets them."""
    if isinstance(error, event.BadRequest):
        return "bad_request", str(error), ""
    if isinstance(error, event.BadResult):
        return "bad_result", str(error), ""
    if isinstance(error, MemoryError):
        return "out_of_memory", "MemoryError: the instance's memory limit is reached", ""
    if isinstance(error, asks.CallError) and error.type == "loop":
        return "loop", str(error), format_traceback(error)
    return "function_error", _sentence(error), format_traceback(error)


def _sentence(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception_only(error)).strip()[:2000]
    except Exception:  # noqa: BLE001  a __str__ that raises is user code too
        return type(error).__name__


def format_traceback(error: BaseException) -> str:
    """From the first frame that is the user's."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith((_OURS, "<frozen importlib")):
        frames = frames.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, frames))
    except Exception:  # noqa: BLE001  as above
        text = type(error).__name__
    return text[-_TRACEBACK_BYTES:]
