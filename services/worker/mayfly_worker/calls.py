"""The calls that run on this node, and what each router has yet to be told of them.

A router counts its frames to this node (`seq`), and the node tells it the highest it has seen, what is done and what
it refused: enough for the router to notice whatever a broken connection swallowed. A call that changes hands is known
to its new router by a number below 0, which no router's own count can meet.
"""

from collections.abc import Callable
from itertools import count
from math import inf

from mayfly_proto import names, subjects
from mayfly_proto.messages import CallView, Done
from mayfly_proto.records import RouterSeen
from mayfly_worker.group import Group, Instance


class Link:
    """One router, as far as this node knows it."""

    def __init__(self, router: str) -> None:
        self.router = names.check_node(router)
        self.done_subject = subjects.router_done(router).encode()
        self.last_seq = 0
        self.done: list[int] = []
        self.refused: list[tuple[int, str]] = []


class Call:
    """One call: in an instance, or, if it is durable, behind the calls in them."""

    __slots__ = (
        "cold",
        "deadline",
        "group",
        "headers",
        "id",
        "instance",
        "invocation",
        "link",
        "reply",
        "seq",
        "started",
    )

    def __init__(
        self, id_: int, link: Link, seq: int, group: Group, invocation: str, reply: bytes, headers: bytes | None
    ) -> None:
        self.id = id_
        self.link = link
        self.seq = seq
        self.group = group
        self.invocation = invocation
        self.reply = reply
        self.headers = headers  # of its message: read when it asks for something
        self.instance: Instance | None = None  # none yet
        self.started = 0.0
        self.deadline = inf
        self.cold = False

    def begin(self, instance: Instance, budget_ms: int, now: float) -> None:
        """It goes into that instance."""
        self.instance = instance
        self.started = now
        self.deadline = now + budget_ms / 1000
        self.cold = instance.calls == 1


class Calls:
    def __init__(self, node: str, epoch: int) -> None:
        self._node = node
        self._epoch = epoch
        self._links: dict[str, Link] = {}
        self._in_flight: dict[int, Call] = {}
        self._next_id = count(1).__next__
        self._next_adopted = count(-1, -1).__next__

    def link(self, router: str) -> Link:
        """Raises `names.InvalidName`."""
        link = self._links.get(router)
        if link is None:
            link = self._links[router] = Link(router)
        return link

    def start(self, link: Link, seq: int, group: Group, invocation: str, reply: bytes, headers: bytes | None) -> Call:
        call = Call(self._next_id(), link, seq, group, invocation, reply, headers)
        self._in_flight[call.id] = call
        return call

    def drop(self, call: Call) -> None:
        """It has not begun, and will not: its router is told otherwise."""
        del self._in_flight[call.id]

    def finish(self, id_: int, instance: Instance) -> Call | None:
        """The call is over; None if that instance has no such call (user code may say anything)."""
        call = self._in_flight.get(id_)
        if call is None or call.instance is not instance:
            return None
        del self._in_flight[id_]
        call.link.done.append(call.seq)
        return call

    def find(self, id_: int, instance: Instance) -> Call | None:
        """The call, if it runs in that instance."""
        call = self._in_flight.get(id_)
        return call if call is not None and call.instance is instance else None

    def of(self, instance: Instance) -> list[Call]:
        return [call for call in self._in_flight.values() if call.instance is instance]

    def overdue(self, now: float) -> list[tuple[Instance, Call]]:
        calls = self._in_flight.values()
        return [(call.instance, call) for call in calls if call.deadline <= now and call.instance is not None]

    def adopt(self, router: str, owned: Callable[[str], bool], now: float) -> tuple[Link, list[CallView]]:
        """Hand the calls of its functions to ``router``: from now on it hears of them."""
        link = self.link(router)
        views = []
        for call in self._in_flight.values():
            group = call.group
            if not owned(group.function):
                continue
            if call.link is not link:
                call.link, call.seq = link, self._next_adopted()
            budget_ms = max(0, round((min(call.deadline, now + group.timeout_ms / 1000) - now) * 1000))
            views.append(
                CallView(call.seq, group.function, group.version, call.invocation, call.reply.decode(), budget_ms)
            )
        return link, views

    def forget_routers(self, members: frozenset[str]) -> None:
        """Drop what is known of routers that left and have no call here."""
        busy = {call.link.router for call in self._in_flight.values()}
        self._links = {name: link for name, link in self._links.items() if name in members or name in busy}

    def seen(self) -> dict[str, RouterSeen]:
        running: dict[str, list[int]] = {name: [] for name in self._links}
        for call in self._in_flight.values():
            running[call.link.router].append(call.seq)
        return {name: RouterSeen(last_seq=self._links[name].last_seq, calls=seqs) for name, seqs in running.items()}

    def completions(self) -> list[tuple[bytes, Done]]:
        """What every router has to be told since the last time: its subject and the message."""
        news = []
        for link in self._links.values():
            if link.done or link.refused:
                news.append((link.done_subject, Done(self._node, self._epoch, link.last_seq, link.done, link.refused)))
                link.done, link.refused = [], []
        return news

    def __len__(self) -> int:
        return len(self._in_flight)
