"""How a handler asks its node for something: a script says what, an asker carries it between the two.

A script is a generator that yields asks and is sent their answers, so that what the context offers is written once
for both kinds of handler. A plain function's asker blocks; a coroutine function's gives back something to await.

While a plain handler runs, nobody reads the socket, so whoever asks reads it, in whatever thread, one at a time. The
call is not over before its asks are: the main thread, which is to read the next event, waits for them.
"""

import asyncio
import itertools
import threading
from collections.abc import Generator
from typing import Any, NoReturn, TypeVar

from mayfly_runtime import wire

T = TypeVar("T")
Ask = tuple[str, tuple[Any, ...], bytes]  # verb, arguments, payload
Answer = tuple[Any, bytes]  # value, payload
Script = Generator[Ask, Answer, T]

_OUTSTANDING = 64  # more of them break the contract


class CallError(Exception):
    """What a handler asked for was refused, or failed."""

    __module__ = "mayfly"

    def __init__(self, type_: str, code: int, message: str) -> None:
        super().__init__(message)
        self.type = type_
        self.code = code
        self.message = message


class Blocking:
    """For a plain function."""

    def __init__(self, channel: wire.Channel) -> None:
        self.call = 0  # whose handler runs
        self.used = False
        self._channel = channel
        self._asking = threading.Lock()
        self._numbers = itertools.count(1)
        self._open = 0  # more than one when an exception, of a signal's handler say, has broken a wait off

    def run(self, call: int, script: Script[T]) -> T:
        step: Any = script.send
        value: Any = None
        while True:
            try:
                ask = step(value)
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                step, value = script.send, self._ask(call, ask)
            except CallError as error:
                step, value = script.throw, error

    def close(self) -> None:
        """The handler is done. Nothing asks for it from now on, and what has begun to is waited for."""
        self.call = 0
        if self.used:
            with self._asking:
                self.used = False

    def forget(self) -> None:
        """An answer came that nobody waits for any more."""
        self._open -= 1

    def _ask(self, call: int, ask: Ask) -> Answer:
        _check_owner(self._channel)
        self.used = True  # before the look at `call`: `close` goes the other way round, so one of the two sees
        with self._asking:
            if self.call != call:
                raise CallError("conflict", 409, "the call is over: ask while its handler runs")
            while self._open >= _OUTSTANDING:
                self._take()
            number = next(self._numbers)
            verb, arguments, payload = ask
            self._open += 1
            self._channel.send(wire.ASK, (number, call, verb, arguments), payload)
            while True:
                meta, answer = self._take()
                if meta[0] == number:
                    return _opened(meta, answer)

    def _take(self) -> tuple[Any, bytes]:
        frame = self._channel.receive_answer()
        if frame is None:
            raise CallError("unavailable", 503, "the node has gone")
        self._open -= 1
        return frame[1], frame[2]


class Awaiting:
    """For a coroutine function: any number of tasks may ask, `_OUTSTANDING` at a time."""

    def __init__(self, channel: wire.Channel) -> None:
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._slots = asyncio.Semaphore(_OUTSTANDING)
        self._waiting: dict[int, asyncio.Future[tuple[Any, bytes]]] = {}

    async def run(self, call: int, script: Script[T]) -> T:
        step: Any = script.send
        value: Any = None
        while True:
            try:
                ask = step(value)
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                step, value = script.send, await self._ask(call, ask)
            except CallError as error:
                step, value = script.throw, error

    def answered(self, meta: Any, payload: bytes) -> None:
        self._slots.release()
        future = self._waiting.pop(meta[0])
        if not future.done():
            future.set_result((meta, payload))

    async def _ask(self, call: int, ask: Ask) -> Answer:
        _check_owner(self._channel)
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("await this in the event loop of the handler")
        await self._slots.acquire()  # given back when the answer comes, also when nobody waits for it any longer
        number = next(self._numbers)
        future = self._waiting[number] = self._loop.create_future()
        verb, arguments, payload = ask
        self._channel.send(wire.ASK, (number, call, verb, arguments), payload)
        return _opened(*await future)


class Nobody:
    """Where there is no node to ask."""

    def run(self, call: int, script: Script[T]) -> NoReturn:
        raise CallError("unavailable", 503, "there is no node")


Asker = Blocking | Awaiting | Nobody


def _opened(meta: Any, payload: bytes) -> Answer:
    _, ok, value = meta
    if not ok:
        raise CallError(*value)
    return value, payload


def _check_owner(channel: wire.Channel) -> None:
    if channel.fd < 0:
        raise CallError("conflict", 409, "only the instance's own process can ask, none that it has forked")
