"""Targets, windows and shares of functions: what the leader wants of each, from what is reported and learnt."""

from mayfly_chassis.service import Chassis
from mayfly_scaler.catalog import Catalog
from mayfly_scaler.decisions import Decisions
from mayfly_scaler.leader import Leader
from mayfly_scaler.reports import Reports


class Functions:
    def __init__(
        self, chassis: Chassis, reports: Reports, catalog: Catalog, leader: Leader, decisions: Decisions
    ) -> None:
        self._chassis = chassis

    async def start(self) -> None:
        """Loaded and listening on return."""

    def lead(self) -> None:
        """This scaler acts from now on."""

    async def stop(self) -> None:
        """Keep what was learnt."""
