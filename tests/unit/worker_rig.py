"""A node without a machine below it: the parts are the real ones; NATS, the clock, the Route Cache's bucket and the
instances' processes are held by the test.
"""

import asyncio
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any, cast

import structlog

from mayfly_proto import codec, messages, records, subjects
from mayfly_proto.records import NodeLoad
from mayfly_worker.cordon import Cordon
from mayfly_worker.group import Instance
from mayfly_worker.keeper import Keeper
from mayfly_worker.machine import Memory
from mayfly_worker.node import Node
from mayfly_worker.packages import Code
from mayfly_worker.pool import Pool
from mayfly_worker.runtime import Exit, Launch
from tests.unit.worker_pool import spec

HELD_LIMIT_S = 10.0
RUNNING_LIMIT_S = 60.0

_done = codec.Unpacker(messages.Done)
_END = Exit(code=0, signal=None, out_of_memory=False, stderr_tail="", cpu_ms=0.0, max_rss_kb=0)
_CRASH = Exit(code=None, signal=9, out_of_memory=False, stderr_tail="", cpu_ms=0.0, max_rss_kb=0)


class Wire:
    payload_limit = 1000
    connected = True

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()  # replies
        self.finished: Counter[int] = Counter()  # sequences
        self.refused: Counter[int] = Counter()
        self.loads: list[NodeLoad] = []

    def publish(self, subject: str | bytes, payload: bytes, *, headers: bytes | None = None) -> None:
        name = subject if isinstance(subject, str) else subject.decode()
        if name == subjects.router_done("r1"):
            done, _ = _done(payload)
            self.finished.update(done.done)
            self.refused.update(seq for seq, _ in done.refused)
        elif name == subjects.load_node("n1"):
            self.loads.append(records.decode(payload, NodeLoad))
        elif name.startswith(("_INBOX.", subjects.SETTLE_PREFIX)):
            self.answered[name] += 1


class Process:
    """Never gets a call after it was told to stop, and is never told so while it has one."""

    pid = 0

    def __init__(self, listener: Keeper) -> None:
        self.listener = listener
        self.running: list[int] = []
        self.stopped = False
        self.killed = False
        self.ended = False

    def send(self, call: int, *_rest: Any) -> None:
        assert not self.stopped and not self.killed and not self.ended
        self.running.append(call)

    def stop(self) -> None:
        assert not self.running or self.killed or self.ended
        self.stopped = True

    def kill(self) -> None:
        self.killed = True

    def resident_mb(self) -> float:
        return 0.0

    def private_mb(self) -> float:
        return 0.0

    # what the process does

    def ready(self) -> None:
        self.listener.on_ready({})

    def answer(self) -> None:
        self.listener.on_result(self.running.pop(0), 0, None, b"1")

    def end(self, exit: Exit) -> None:
        self.ended = True
        self.running.clear()
        self.listener.on_exit(exit)


class Machine:
    cores = 2
    used = 0.0

    def memory(self) -> Memory:
        return Memory(self.used * 1000, 1000)

    def cpu_percent(self) -> float:
        return 0.0


class _Routes:
    def update(self, _group: Any) -> None: ...


class _Packages:
    def release(self, _package: Any) -> None: ...


class Rig:
    """One node, n1, and one router, r1. Use it within its own loop (`run`)."""

    def __init__(self, memory_mb: int = 1000, max_starting: int = 8) -> None:
        self.wire = Wire()
        self.machine = Machine()
        self.now = 100.0
        self.processes: list[Process] = []
        self.announced: list[bool] = []
        self._seq = count(1).__next__
        self._loop = asyncio.new_event_loop()
        self.node = self.run(lambda: self._make(Pool(memory_mb, max_starting)))

    def _make(self, pool: Pool) -> Node:
        node = Node(
            name="n1",
            epoch=1,
            bus=cast(Any, self.wire),
            pool=pool,
            cordon=Cordon(HELD_LIMIT_S, RUNNING_LIMIT_S),
            machine=cast(Any, self.machine),
            runtime=cast(Any, self),
            packages=cast(Any, _Packages()),
            routes=cast(Any, _Routes()),
            tasks=cast(Any, None),
            announce=self.announced.append,
            now=lambda: self.now,
            log=structlog.wrap_logger(structlog.ReturnLogger(), processors=[]),
        )
        node.invoker._now = lambda: self.now
        return node

    def run(self, action: Any) -> Any:
        """Carry it out, and what it has put off to the loop's next turns."""

        async def carried_out() -> Any:
            result = action()
            for _ in range(3):
                await asyncio.sleep(0)
            return result

        return self._loop.run_until_complete(carried_out())

    def close(self) -> None:
        self._loop.close()

    def launch(self, _launch: Launch, listener: Keeper) -> Process:
        """As the runtime does."""
        process = Process(listener)
        self.processes.append(process)
        return process

    # as its router, activator and scaler

    def order(self, function: str, *ids: str, memory_mb: int = 100, concurrency: int = 1) -> messages.Started:
        def carried_out() -> messages.Started:
            start = messages.Start("r1", 1, function, 1, list(ids), memory_mb)
            started, starting = self.node.order(start)
            for instance in starting:
                Keeper(self.node, instance, "r1").launch(spec(concurrency, keep_alive_s=30.0), Code(Path(), {}))
            return started

        return cast(messages.Started, self.run(carried_out))

    def call(self, function: str, *, durable: bool = False) -> tuple[int, str]:
        """Its sequence and its reply subject."""
        seq = self._seq()
        reply = subjects.settle(function, f"EVENTS.{function}_1.1.{seq}.{seq}.0.0") if durable else f"_INBOX.r1.{seq}"
        frame = codec.pack(messages.Invoke(seq, "r1", 1, function, 1, f"inv{seq}", reply, 1_000_000), b"x")
        self.run(lambda: self.node.invoker.on_invoke(b"", b"", None, frame))
        return seq, reply

    def hold(self, function: str, instances: int, last_ms: int = -1, further_ms: int = -1) -> None:
        self.run(lambda: self.node.hold(messages.Hold("r1", 1, function, 1, instances, last_ms, further_ms)))

    def stop(self, function: str, instances: int = -1) -> None:
        self.run(lambda: self.node.stop(messages.Stop("r1", 1, function, 1, instances)))

    def drain(self, on: bool = True, epoch: int = 1) -> messages.Drained:
        return cast(messages.Drained, self.run(lambda: self.node.drain(messages.Drain("s1", epoch, on))))

    def pass_time(self, seconds: float) -> None:
        """In ticks of a quarter of a second, as the worker lives them."""

        def ticks() -> None:
            for _ in range(round(seconds * 4)):
                self.now += 0.25
                self.node.end_overdue()
                self.node.tidy()

        self.run(ticks)

    # as its processes

    def ready(self, *, only: str = "") -> None:
        """All that start are ready."""
        for process in self.processes:
            if process.listener.instance.id in self.node.starting and only in process.listener.instance.id:
                self.run(process.ready)

    def answer_all(self) -> None:
        while running := [process for process in self.processes if process.running and not process.killed]:
            self.run(running[0].answer)

    def end_told(self) -> None:
        """All that were told to stop are gone."""
        for process in self.processes:
            if (process.stopped or process.killed) and not process.ended:
                self.run(lambda process=process: process.end(_CRASH if process.killed else _END))

    def crash(self, process: Process) -> None:
        self.run(lambda: process.end(_CRASH))

    @property
    def instances(self) -> list[Instance]:
        return list(self.node.pool.instances.values())

    @property
    def state(self) -> str:
        """As it was reported last; "" before the first report."""
        return self.wire.loads[-1].state if self.wire.loads else ""
