"""What is to be done so that nodes become what is wanted of them.

A drain is a key in KV `targets` and nothing else; everything here follows from comparing it with how things stand, and
each step may be repeated. So a leader may be killed between any two of them, and the next one goes on:

    wanted (the key is written) → told (its lease says draining) → EMPTY → taken away (the provider has it no more, its
    lease is over) → forgotten (the key is deleted)

Taken away is only what the scaler drained, and what never came. What an operator drained stays, empty, until the
operator has it back.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from enum import Enum
from typing import NamedTuple

from mayfly_proto.records import NodeTarget
from mayfly_scaler.nodes.fleet import SCALER, Fleet, Node
from mayfly_scaler.nodes.life import State


class Act(Enum):
    DRAIN = "drain"  # tell the worker to become empty
    RESUME = "resume"  # tell it to take work again
    REMOVE = "remove"  # have the provider take it away
    FORGET = "forget"  # delete the key


class Step(NamedTuple):
    act: Act
    node: str


def steps(
    fleet: Fleet, targets: Mapping[str, NodeTarget], *, topmost: str | None = None, known: bool = True
) -> Iterator[Step]:
    """``topmost``: the only node that a provider can take away that takes from one end only; ``known``: whether the
    provider has said what it has."""
    for node in fleet:
        if (act := _act(node)) and (act is not Act.REMOVE or topmost in (None, node.name)):
            yield Step(act, node.name)
    for name, target in targets.items():
        gone = name not in fleet or not (fleet[name].owned or fleet[name].leaving)
        if target.by == SCALER and gone and known:
            yield Step(Act.FORGET, name)


_TAKEN_AWAY = (State.EMPTY, State.LOST, State.BOOTING, State.GIVEN_UP)


def _act(node: Node) -> Act | None:
    ours = node.target is not None and node.target.by == SCALER
    unwanted = node.state in _TAKEN_AWAY if ours else node.state is State.GIVEN_UP and node.target is None
    if node.listed and unwanted:
        return Act.REMOVE
    if node.lease is None or node.lease.draining == (node.target is not None):
        return None
    return Act.DRAIN if node.target is not None else Act.RESUME


class Numbering(NamedTuple):
    """How a provider's nodes are called: ``prefix`` and a number. The lowest free number is given out first and the
    highest is taken back first, as instances are placed: the last nodes are the emptiest."""

    prefix: str
    first: int = 1

    def name(self, number: int) -> str:
        return f"{self.prefix}{number}"

    def number(self, name: str) -> int:
        """Below `first` for a name that is none of these."""
        digits = name.removeprefix(self.prefix)
        return int(digits) if digits.isdecimal() and name.startswith(self.prefix) else self.first - 1

    def free(self, count: int, taken: Collection[str]) -> list[str]:
        names: list[str] = []
        number = self.first
        while len(names) < count:
            if (name := self.name(number)) not in taken:
                names.append(name)
            number += 1
        return names


def to_drain(
    fleet: Fleet,
    count: int,
    numbering: Numbering,
    *,
    from_the_end: bool,
    dispensable: Callable[[Node], bool] = lambda _node: True,
) -> list[str]:
    """``from_the_end``: only nodes above which the provider has none that stays."""
    chosen: list[str] = []
    for node in sorted((n for n in fleet if n.owned), key=lambda n: numbering.number(n.name), reverse=True):
        if len(chosen) == count:
            break
        if node.capacity and dispensable(node):
            chosen.append(node.name)
        elif from_the_end and not (node.can_be_had_back or node.leaving):
            break
    return chosen


def to_have_back(fleet: Fleet, count: int) -> list[str]:
    """The fullest first: what runs there need not move."""
    drained = sorted((n for n in fleet if n.can_be_had_back), key=lambda n: (-n.used_mb, n.name))
    return [node.name for node in drained[:count]]
