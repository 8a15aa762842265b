"""How many nodes there are to be.

Nodes are added at once when demand passes `out_at` of what is there, and to where it is `target` of it again. They are
taken away late: when the highest demand of a whole window would use no more than `target`, nor more than `in_at`, of
what is left; some time after any were added, and a few at a time. The gap between these figures and `out_at` is what
makes constant demand cause nothing: neither after some were added nor after some went is it anywhere near.
(Figures: 1.351 node-hours for each that an oracle would use, with 98 moved instances in eight hours of a real trace.)

Demand is in nodes of the size that the provider gives, and is the dominant dimension's. Nodes that are not the
provider's (joined by hand) are a fixed part of what is there: they are never added, drained or limited.
"""

from dataclasses import dataclass
from math import ceil

from mayfly_scaler.peak import Peak

SURGE = 10  # nodes that may boot at once; or as many as there are, if that is more
BUDGET = 0.10  # of the nodes may be drained at once; one always may
STALE_LIMIT = 0.20  # of the nodes may be silent: with more of them, too little is known to take any away
HOLE_S = 15.0  # without an observation: a window with such a hole says nothing of its peak

_EPSILON = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    minimum: int = 1
    maximum: int = 1000
    target: float = 0.75
    out_at: float = 0.85
    in_at: float = 0.80
    window_s: float = 300.0
    after_out_s: float = 120.0
    between_in_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """The provider's nodes, as they stand, and what else is to be known."""

    up: int
    booting: int = 0
    draining: int = 0  # by the scaler, and not on their way out: these can be had back
    held: int = 0  # others that the provider has, and that count for its limit only
    fixed: float = 0.0  # what the nodes of others amount to
    blocked: bool = False  # instances find no place
    silent: float = 0.0  # share of the nodes whose reports are stale
    provider_fails: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Undrained before any are added; never some drained and some added."""

    why: str
    undrain: int = 0
    add: int = 0
    drain: int = 0
    anyhow: bool = False  # whether or not what runs on the drained ones finds room on others


class Amount:
    """Remembers the demand of the last window, and when nodes came and went last."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.demand = 0.0  # the last one observed
        self._peak = Peak(rules.window_s)
        self._since: float | None = None  # the window's first observation
        self._last = float("-inf")
        self._last_out = float("-inf")
        self._last_in = float("-inf")

    def observe(self, now: float, demand: float) -> None:
        """To be called every few seconds, also while another scaler leads."""
        if self._since is None or now - self._last > HOLE_S:
            self._peak = Peak(self.rules.window_s)
            self._since = now
        self._last = now
        self.demand = demand
        self._peak.add(demand, now)

    def lead(self, now: float) -> None:
        """Nobody knows what another leader did a moment ago: it may have added nodes."""
        self._last_out = self._last_in = now

    @property
    def peak(self) -> float:
        """Of the demand in the window."""
        return self._peak.value(self._last)

    def decide(self, now: float, nodes: Nodes) -> Change | None:
        """What to do now, by the demand observed last; it is taken for done."""
        if change := self._out(nodes):
            self._last_out = now
        elif change := self._in(now, nodes):
            self._last_in = now
        return change

    def _needed(self, demand: float, use: float, nodes: Nodes) -> int:
        """How many of the provider's nodes, so that no more than ``use`` of all is used."""
        count = ceil(demand / use - nodes.fixed - _EPSILON)
        return min(max(count, self.rules.minimum), self.rules.maximum)

    def _out(self, nodes: Nodes) -> Change | None:
        rules, have = self.rules, nodes.up + nodes.booting
        if have < rules.minimum:
            why = f"there are to be {rules.minimum} at least"
        elif self.demand > rules.out_at * (nodes.fixed + have) + _EPSILON:
            why = f"demand is above {rules.out_at:.0%} of what is there"
        elif nodes.blocked and not nodes.booting:
            why = "instances find no place, and no node is on its way"
        else:
            return None
        count = min(max(self._needed(self.demand, rules.target, nodes) - have, 1), rules.maximum - have)
        undrain = min(count, nodes.draining)
        room = min(rules.maximum - have - nodes.draining - nodes.held, max(SURGE, nodes.up) - nodes.booting)
        add = 0 if nodes.provider_fails else max(0, min(count - undrain, room))
        return Change(why=why, undrain=undrain, add=add) if undrain > 0 or add else None

    def _in(self, now: float, nodes: Nodes) -> Change | None:
        rules = self.rules
        if nodes.provider_fails:
            return None
        if nodes.up > rules.maximum:
            return Change(why=f"there are to be {rules.maximum} at most", drain=nodes.up - rules.maximum, anyhow=True)
        if nodes.booting or nodes.blocked or nodes.silent > STALE_LIMIT:
            return None
        if self._since is None or now - self._since < rules.window_s:
            return None
        if now - self._last_out < rules.after_out_s or now - self._last_in < rules.between_in_s:
            return None
        keep = self._needed(self.peak, min(rules.target, rules.in_at), nodes)
        count = min(nodes.up - keep, max(1, int(nodes.up * BUDGET)))
        if count <= 0:
            return None
        return Change(why=f"the peak of {rules.window_s:g} s fits what is left", drain=count)
