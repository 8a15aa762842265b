"""What each node is told to keep of each function: so many instances of the current version whatever happens, and how
long those above that stay when they are idle.

Workers reclaim by what they were told last. So that the minimum stands at every moment, it is moved from one node to
another in two steps: the one is told to keep more, and a step later, when that one still has them, the other to keep
less. A worker forgets what is not said again within five minutes.
"""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import NamedTuple

from mayfly_proto.records import Client
from mayfly_router import wishes
from mayfly_router.function import Function
from mayfly_router.pool import Pool
from mayfly_router.state import State

AGAIN_S = 60.0
MOST_AGAIN = 500  # functions in one step
MOST_NEW = 1000  # the same; when thousands change hands at once, nodes keep what the former owner said for minutes


class Holding(NamedTuple):
    """For one version on one node; see `Hold`."""

    number: int
    keep_alive_ms: int
    further_keep_alive_ms: int


NOTHING = Holding(0, wishes.AS_THE_VERSION_SAYS, wishes.AS_THE_VERSION_SAYS)
Tell = Callable[[str, Pool, Holding], None]  # node, version, what to keep


def wanted(function: Function) -> dict[str, Holding]:
    """The minimum on the fewest nodes, those that stay before those that drain; the first of them keeps the function's
    last instance."""
    pool = function.current
    if pool is None:
        return {}
    missing = function.minimum
    keep_alive_ms, further_ms = wishes.keep_alive(pool.spec, function.target)
    kept = [share for share in pool.shares.values() if share.kept]
    holdings = {}
    for share in sorted(kept, key=lambda share: (share.node.draining, -share.kept, share.node.name)):
        number = min(missing, share.kept)
        holdings[share.node.name] = Holding(number, keep_alive_ms, further_ms)
        missing -= number
        keep_alive_ms = further_ms
    return holdings


class _Told:
    """What nodes know of one version."""

    __slots__ = ("at", "nodes", "pool")

    def __init__(self, pool: Pool, now: float) -> None:
        self.pool = pool
        self.at = now  # when all of it was said last
        self.nodes: dict[str, tuple[Holding, Client | None]] = {}  # and on which of the node's connections

    def of(self, node: str) -> Holding:
        return self.nodes[node][0] if node in self.nodes else NOTHING


class Holds:
    """Looks after the functions that `State.restated` names."""

    def __init__(self, state: State, tell: Tell) -> None:
        self._state = state
        self._tell = tell
        self._told: dict[str, _Told] = {}  # by function; those whose turn to be repeated is next come first
        self._released = False

    def step(self, now: float) -> None:
        """Say what is new, and again what was said a minute ago. To be called once a second."""
        if self._released:
            return
        names = list(islice(self._state.restated, MOST_NEW))
        self._state.restated.difference_update(names)
        for name in names:
            self._look_at(name, now)
        due = [name for name, told in islice(self._told.items(), MOST_AGAIN) if now - told.at >= AGAIN_S]
        for name in due:
            told = self._told.pop(name)
            if self._current(name) is not told.pool:
                continue  # its new owner has the word
            self._told[name] = told
            told.at = now
            for node, (holding, _) in told.nodes.items():
                self._say(told, node, holding)

    def say_all_again(self) -> None:
        """What was said may be lost."""
        for told in self._told.values():
            told.at = float("-inf")

    def release(self) -> None:
        """There will be no owner to replace what leaves, so nobody is to wait for one."""
        self._released = True
        for told in self._told.values():
            self._take_back(told, told.nodes)
        self._told.clear()

    def _look_at(self, name: str, now: float) -> None:
        told = self._told.get(name)
        pool = self._current(name)
        if told is not None and told.pool is not pool:
            del self._told[name]
            if pool is not None:  # else it was deleted, or its new owner has the word
                self._take_back(told, told.nodes)
            told = None
        if pool is None:
            return
        told = told or _Told(pool, now)
        self._compare(told, wanted(self._state.functions[name]))
        if told.nodes:
            self._told.setdefault(name, told)
        else:
            self._told.pop(name, None)

    def _compare(self, told: _Told, holdings: dict[str, Holding]) -> None:
        """Say what the nodes do not know."""
        self._take_back(told, told.nodes.keys() - holdings.keys())
        raised = any(holding.number > told.of(node).number for node, holding in holdings.items())
        for node, holding in holdings.items():
            before = told.of(node)
            if raised and holding.number < before.number:
                holding = holding._replace(number=before.number)
                self._state.restated.add(told.pool.name)
            if holding != before or (holding != NOTHING and told.nodes[node][1] != self._client(node)):
                self._say(told, node, holding)

    def _say(self, told: _Told, node: str, holding: Holding) -> None:
        if holding == NOTHING:
            told.nodes.pop(node, None)
        else:
            told.nodes[node] = (holding, self._client(node))
        self._tell(node, told.pool, holding)

    def _take_back(self, told: _Told, nodes: Iterable[str]) -> None:
        for node in list(nodes):
            holding, client = told.nodes.pop(node)
            if holding.number > 0 and client == self._client(node):
                self._tell(node, told.pool, NOTHING)

    def _current(self, name: str) -> Pool | None:
        function = self._state.functions.get(name)
        return function.current if function is not None else None

    def _client(self, node: str) -> Client | None:
        known = self._state.nodes.get(node)
        return known.client if known is not None else None

    def __repr__(self) -> str:
        said = {name: {node: told.of(node) for node in told.nodes} for name, told in self._told.items()}
        return f"<Holds {said}>"
