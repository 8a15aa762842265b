"""The durable half of a router on a wire that a test holds in its hands: what comes, what goes, what streams say.

The parts are the real ones. What lies outside is not: NATS (`Wire`), the clock, and one worker node with slots.
"""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, cast

from mayfly_chassis.bus import PAYLOAD_HEADROOM, Bus, Reply
from mayfly_chassis.errors import JetStreamError, MessageTooLarge
from mayfly_proto import codec, headers, messages, records
from mayfly_proto.errors import CallError
from mayfly_proto.records import Client, NodeLease, Package, Route, RouterMembers, VersionSpec
from mayfly_router.dispatch import Dispatch
from mayfly_router.durable.admission import Admission
from mayfly_router.durable.claims import Claims
from mayfly_router.durable.durable import Durable
from mayfly_router.durable.intake import Intake
from mayfly_router.durable.settler import Settler
from mayfly_router.durable.source import Source
from mayfly_router.durable.stored import Stored
from mayfly_router.function import Function
from mayfly_router.handover import Handovers
from mayfly_router.state import State

block_of = headers.block
_invoke = codec.Unpacker(messages.Invoke)


def spec(**fields: Any) -> VersionSpec:
    package = Package(sha256="0", size=1, format="py", filename="f.py")
    given: dict[str, Any] = {
        "name": "f",
        "version": 1,
        "runtime": "python",
        "handler": "f:f",
        "package": package,
        "created": "",
    }
    given |= {"package": package, "triggers": [records.Trigger(event="a.>", number=1)]}
    return VersionSpec(**(given | fields))


class Wire:
    """What the router holds for its connection."""

    max_payload = 1_000_000
    payload_limit = max_payload - PAYLOAD_HEADROOM
    connected = True
    reconnects = 0

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes | None, bytes]] = []
        self.stored: list[tuple[str, bytes | None, bytes]] = []
        self.streams: dict[tuple[str, int], tuple[str, bytes]] = {}  # what direct get finds
        self.refuses: set[str] = set()  # beginnings of subjects that no stream takes
        self.received: dict[str, Any] = {}
        self.acked = 0  # sequence up to which all consumers are acknowledged
        self.claimed: bytes | None = None  # what the bucket has for every key

    def publish(
        self, subject: str | bytes, payload: bytes = b"", *, reply: str | bytes = b"", headers: bytes | None = None
    ) -> None:
        if len(payload) + len(headers or b"") > self.max_payload:
            raise MessageTooLarge("too large")
        self.sent.append((subject if isinstance(subject, str) else subject.decode(), headers, payload))

    async def request(
        self, subject: str, payload: bytes = b"", *, headers: bytes | None = None, timeout_s: float = 5.0
    ) -> Reply:
        await asyncio.sleep(0)
        if len(payload) + len(headers or b"") > self.max_payload:
            raise MessageTooLarge("too large")
        if any(subject.startswith(refused) for refused in self.refuses):
            raise JetStreamError("no")
        if subject.startswith("$KV.") and self.claimed is not None:
            return Reply(None, b'{"error":{"err_code":10071}}')
        if subject.startswith("$JS.API.DIRECT.GET.KV_"):
            fields = {"Nats-Subject": subject.split(".", 5)[5], "Nats-Sequence": "1"}
            return Reply(block_of(fields), self.claimed or b"")
        if subject.startswith("$JS.API.DIRECT.GET."):
            return self._found(subject.split(".")[4], json.loads(payload)["seq"])
        if subject.startswith("$JS.API.CONSUMER.INFO."):
            return Reply(
                None, b'{"delivered":{"stream_seq":0},"num_ack_pending":0,"ack_floor":{"stream_seq":%d}}' % self.acked
            )
        self.stored.append((subject, headers, payload))
        return Reply(None, b'{"seq":1}')

    def _found(self, stream: str, sequence: int) -> Reply:
        message = self.streams.get((stream, sequence))
        if message is None:
            return Reply(b"NATS/1.0 404 Message Not Found\r\n\r\n", b"")
        fields = {"Nats-Subject": message[0], "Nats-Sequence": str(sequence)}
        return Reply(block_of(fields), message[1])

    def new_inbox(self) -> str:
        return "_INBOX_router.x"

    async def subscribe(self, subject: str, callback: Any, *, queue: str = "") -> None:
        self.received[subject] = callback

    def words(self) -> list[str]:
        """What was said about deliveries: ``17 +ACK``."""
        return [f"{s.split('.')[5]} {p.decode()}" for s, _, p in self.sent if s.startswith("$JS.ACK.")]

    def invokes(self) -> list[tuple[messages.Invoke, bytes]]:
        return [_invoke(p) for s, _, p in self.sent if s.startswith("mayfly.node.")]


class Rig:
    def __init__(self) -> None:
        self.now = 1000.0
        self.wire = Wire()
        self.state = State("r1", 10**9, lambda: self.now)
        self.state.members = RouterMembers(epoch=1, members={"r1": Client(server="s", id=1)})
        bus = cast(Bus, self.wire)
        self.dispatch = Dispatch(bus, self.state, 10.0, lambda _: None)
        settler = Settler(bus, self.background)
        stored = Stored(bus, settler, self.background)
        self.tasks: set[asyncio.Task[None]] = set()
        self.durable = Durable(
            bus,
            self.state,
            self.dispatch,
            settler,
            stored,
            unix=lambda: 1_800_000_000 + self.now,
            jitter=lambda: 0.5,
            pull=lambda source: self.intake.pull(source),
        )
        admission = Admission(
            self.state, self.durable, stored, Claims(bus), self.background, lambda: 1_800_000_000, 900_000
        )
        self.intake = Intake(bus, self.state, admission.admit, admission.opened, lambda _: None)
        handovers = Handovers(bus, self.state, self.dispatch, self.durable.give_back_call)
        self.dispatch.attach(
            act=self._never,
            divert=handovers.divert,
            stale=self._never,
            keyed=self._never,
            again=self.durable.run_again,
        )

    def background(self, _name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)

    async def rest(self) -> None:
        """Until nothing is under way that does not wait for time."""
        for _ in range(50):
            await asyncio.sleep(0)

    async def over(self) -> None:
        """Until everything that was begun has ended."""
        async with asyncio.timeout(20):
            while waiting := [task for task in self.tasks if not task.done()]:
                await asyncio.gather(*waiting)

    async def deploy(self, *, slots: int = 1, **fields: Any) -> Function:
        """A function with one node that has so many slots for it."""
        self.function = Function("f", self.state.backlog)
        self.function.apply({1: spec(**fields)}, 1, self.now)
        self.state.functions["f"] = self.function
        node = self.state.node("n1")
        node.renew(NodeLease(node="n1", epoch=1, client=Client(server="s", id=2), memory_mb=1000, cores=2))
        node.set_adopted(True)
        assert self.function.current is not None
        if slots:
            route = Route(epoch=1, instances=[f"i{k}" for k in range(slots)], slots=slots)
            self.function.current.route(node, route, self.now)
        await self.intake.follow("f", self.function)
        return self.function

    @property
    def events(self) -> Source:
        return next(source for source in self.function.sources if source.stream == "EVENTS")

    def deliver(
        self,
        sequence: int,
        payload: bytes = b"{}",
        *,
        subject: bytes = b"event.a.b",
        raw: bytes | None = None,
        stream: str = "EVENTS",
        times: int = 1,
    ) -> None:
        """A consumer hands a message over."""
        consumer = "f_1" if stream == "EVENTS" else "f"
        ack = f"$JS.ACK.{stream}.{consumer}.{times}.{sequence}.1.1.0".encode()
        self.wire.received["_INBOX_router.x.*"](subject, ack, raw, payload)

    def outcome(self, invoke: messages.Invoke, payload: bytes = b"1", error: CallError | None = None) -> None:
        """The worker's answer, then its `Done`."""
        raw, body = (headers.PROLOGUE + b"\r\n", payload) if error is None else (error.headers(), error.body())
        self.durable.on_outcome(invoke.reply.encode(), b"", raw, body)
        self.done(invoke)

    def second(self) -> None:
        """What goes by the second."""
        self.durable.look_for_lost(self.now)
        for function in list(self.state.awake):
            self.durable.extend(function, self.now)

    def done(self, *invokes: messages.Invoke, refused: list[tuple[int, str]] | None = None) -> None:
        seqs = [invoke.seq for invoke in invokes]
        self.dispatch.on_done(b"", b"", None, codec.pack(messages.Done("n1", 1, self.wire_seq, seqs, refused or [])))

    @property
    def wire_seq(self) -> int:
        return self.state.node("n1").seq

    def _never(self, *_: object) -> None:
        """Nothing is ordered, stale or keyed here."""
