"""Functions, nodes and a router on a stage, and what was found out about them."""

from dataclasses import dataclass
from typing import Any

from mayfly_chassis.bus import Bus
from scale.stage import Member, Stage


@dataclass
class Platform:
    stage: Stage
    names: list[str]
    router: Member
    figures: dict[str, Any]
    second: Member | None = None  # another router

    @property
    def bus(self) -> Bus:
        return self.stage.bus
