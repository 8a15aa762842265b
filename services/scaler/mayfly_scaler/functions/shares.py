"""Who may have how much when there is not enough for all: weighted max-min fairness with reserved floors.

Everybody gets what is reserved for him, as far as he wants it. The rest is poured like water: each level of it reaches
all who still want more, by their weights, so nobody can have more without taking from one who has less. Then memory
becomes instances: whole ones, and those that are left over go first to who has none yet, in turns, so that even more
functions than there is room for all run some of the time.
"""

from collections.abc import Mapping
from typing import NamedTuple
from zlib import crc32

_ROUNDING = 1e-9


class Want(NamedTuple):
    instances: int  # that it could use now
    memory_mb: int  # of each
    reserved: int = 0  # instances
    weight: float = 1.0

    @property
    def demand_mb(self) -> float:
        return float(self.instances * self.memory_mb)

    @property
    def floor_mb(self) -> float:
        return float(min(self.instances, self.reserved) * self.memory_mb)


def fair_mb(wants: Mapping[str, Want], capacity_mb: float) -> dict[str, float]:
    """What each may have: never more than it wants, together all that there is or all that is wanted."""
    floors = {name: want.floor_mb for name, want in wants.items()}
    promised = sum(floors.values())
    if promised > capacity_mb:
        return {name: floor * capacity_mb / promised for name, floor in floors.items()}
    level = _water_level(wants, capacity_mb - promised)
    return {
        name: floors[name] + min(want.demand_mb - floors[name], level * want.weight) for name, want in wants.items()
    }


def shares(wants: Mapping[str, Want], capacity_mb: float, turn: int = 0) -> dict[str, int]:
    """`fair_mb` in instances. ``turn``: with each another of those that have none comes first."""
    fair = fair_mb(wants, capacity_mb)
    whole = {name: int(fair[name] / want.memory_mb + _ROUNDING) for name, want in wants.items()}
    left_mb = capacity_mb - sum(count * wants[name].memory_mb for name, count in whole.items())
    unmet = [name for name, count in whole.items() if count < wants[name].instances]

    def order(name: str) -> tuple[bool, float]:
        if not whole[name]:
            return False, crc32(f"{turn} {name}".encode())
        return True, whole[name] * wants[name].memory_mb / wants[name].weight - fair[name] / wants[name].weight

    for name in sorted(unmet, key=order):
        if wants[name].memory_mb <= left_mb + _ROUNDING:
            whole[name] += 1
            left_mb -= wants[name].memory_mb
    return whole


def _water_level(wants: Mapping[str, Want], left_mb: float) -> float:
    """How high each unit of weight may be filled, in one sweep from who wants least."""
    unmet = sorted(
        ((want.demand_mb - want.floor_mb) / want.weight, want.weight)
        for want in wants.values()
        if want.demand_mb > want.floor_mb
    )
    weight = sum(own for _, own in unmet)
    level = 0.0
    for wanted, own in unmet:
        if (wanted - level) * weight >= left_mb:
            return level + left_mb / weight
        left_mb -= (wanted - level) * weight
        level = wanted
        weight -= own
    return level
