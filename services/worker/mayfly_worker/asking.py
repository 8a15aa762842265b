"""What instances ask for, from the frame to the answer: each ask is a task, ended with its call's time or its instance.

An instance that has more asks open than the contract allows, or does not take its answers, breaks it.
"""

import asyncio
from collections.abc import Callable
from functools import partial

import msgspec
import structlog

from mayfly_chassis.errors import BusError
from mayfly_proto.errors import CallError, ErrorType
from mayfly_proto.records import VersionSpec
from mayfly_worker import answers, asks, origin, permits
from mayfly_worker.answers import Answer
from mayfly_worker.calls import Call, Calls
from mayfly_worker.group import Instance
from mayfly_worker.instance_frames import Broken
from mayfly_worker.instance_process import Process
from mayfly_worker.replies import COMPONENT
from mayfly_worker.services import Services

Tasks = set[asyncio.Task[None]]


class Asking:
    def __init__(
        self,
        calls: Calls,
        services: Services,
        tasks: asyncio.TaskGroup,
        now: Callable[[], float],
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._calls = calls
        self._services = services
        self._tasks = tasks
        self._now = now
        self._log = log
        self._running: dict[Instance, Tasks] = {}

    def ask(
        self,
        instance: Instance,
        spec: VersionSpec,
        number: int,
        call_id: int,
        verb: str,
        arguments: msgspec.Raw,
        payload: bytes,
    ) -> None:
        """Raises `Broken` and `msgspec.MsgspecError`."""
        process = instance.process
        if process is None:
            return
        running = self._running.setdefault(instance, set())
        if len(running) + process.unread >= asks.OUTSTANDING:
            raise Broken(f"more than {asks.OUTSTANDING} asks")
        ask = asks.parse(verb, arguments)
        call = self._calls.find(call_id, instance)
        if call is None:
            _refuse(process, number, answers.over())
        elif error := permits.objection(spec, ask, len(payload), self._services.payload_limit):
            _refuse(process, number, error)
        else:
            work = self._answer(instance, call, number, ask, payload)
            task = self._tasks.create_task(work, name=f"ask.{instance.id}.{number}")
            running.add(task)

    def end(self, instance: Instance) -> None:
        """It is gone."""
        for task in self._running.pop(instance, ()):
            task.cancel()

    def _forget(self, instance: Instance, task: asyncio.Task[None] | None) -> None:
        running = self._running.get(instance)
        if running is not None and task is not None:
            running.discard(task)

    async def _answer(self, instance: Instance, call: Call, number: int, ask: asks.Ask, payload: bytes) -> None:
        process = instance.process
        assert process is not None
        try:
            outcome = await self._carry_out(call, ask, payload)
        finally:
            # Before the answer: its reader may ask again at once.
            self._forget(instance, asyncio.current_task())
        if isinstance(outcome, CallError):
            _refuse(process, number, outcome)
        else:
            process.answer(number, outcome.value, outcome.payload)

    async def _carry_out(self, call: Call, ask: asks.Ask, payload: bytes) -> Answer | CallError:
        left_s = max(0.0, call.deadline - self._now())
        try:
            async with asyncio.timeout(left_s):
                return await self._begin(call, ask, payload, left_s)
        except (CallError, BusError, TimeoutError) as error:
            return answers.failed(error)
        except Exception:  # noqa: BLE001 - a task's boundary: one ask fails, not the worker
            self._log.exception("ask.failed", invocation=call.invocation, ask=type(ask).__name__)
            return CallError(ErrorType.INTERNAL, "internal error", component=COMPONENT)

    async def _begin(self, call: Call, ask: asks.Ask, payload: bytes, left_s: float) -> Answer:
        passed_on = partial(
            origin.passed_on, raw=call.headers, invocation=call.invocation, function=call.group.function
        )
        match ask:
            case asks.Publish():
                return await self._services.publish(ask, passed_on(ask.headers), payload)
            case asks.Call():
                return await self._services.call(ask, passed_on(ask.headers), payload, left_s)
            case asks.KvAsk():
                return await self._services.kv(ask, payload)
            case asks.ObjectAsk():
                return await self._services.objects(ask, payload)
        raise TypeError(type(ask))


def _refuse(process: Process, number: int, error: CallError) -> None:
    process.answer(number, answers.described(error), ok=False)
