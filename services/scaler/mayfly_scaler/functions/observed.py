"""Where the figures come from that a function's minimum depends on, besides what its owner reports."""

from collections.abc import Callable, Iterable
from datetime import datetime
from zoneinfo import ZoneInfoNotFoundError

import structlog
from cronsim import CronSimError

from mayfly_proto.records import VersionSpec
from mayfly_scaler.catalog import Catalog
from mayfly_scaler.functions.function import Figures
from mayfly_scaler.functions.metrics import Metrics
from mayfly_scaler.functions.provisioned import Standing, standing
from mayfly_scaler.functions.usage import NONE, Usage, survey
from mayfly_scaler.reports import Reports

_OF_THE_FUNCTION = {"concurrency", "cpu", "memory"}  # metrics that nobody publishes

_log = structlog.get_logger()


class Observed:
    """``restless``: functions whose minimum may change although no call comes."""

    def __init__(self, reports: Reports, catalog: Catalog, metrics: Metrics, wall: Callable[[], datetime]) -> None:
        self.restless: set[str] = set()
        self.usage: dict[str, Usage] = {}
        self._reports = reports
        self._catalog = catalog
        self._metrics = metrics
        self._wall = wall  # by which users mean the hours at which they want something provisioned
        self._standing: dict[str, tuple[int, Standing]] = {}  # function → version, what is provisioned

    def reread(self, functions: Iterable[str]) -> None:
        """Their current versions have changed."""
        for name in functions:
            spec = self._catalog.current(name)
            if spec is not None and (spec.scale_on or spec.provisioned):
                self.restless.add(name)
            else:
                self.restless.discard(name)
                self._standing.pop(name, None)
        specs = (self._catalog.current(name) for name in self.restless)
        self._metrics.wanted = {on.metric for spec in specs if spec for on in spec.scale_on} - _OF_THE_FUNCTION

    def survey(self) -> None:
        """Look at what the nodes measured."""
        self.usage = survey(self._reports.fresh_nodes(), self._catalog.versions)

    def figures(self, spec: VersionSpec) -> Figures:
        provisioned = self._provisioned(spec) if spec.provisioned else 0
        return Figures(self._metrics.value, self.usage.get(spec.name, NONE), provisioned)

    def _provisioned(self, spec: VersionSpec) -> int:
        now = self._wall()
        version, known = self._standing.get(spec.name, (0, None))
        if known is None or version != spec.version or not known.holds(now):
            try:
                known = standing(spec.provisioned, now)
            except (CronSimError, ValueError, ZoneInfoNotFoundError) as error:
                _log.warning("provisioned.unreadable", function=spec.name, error=str(error))
                return 0
            self._standing[spec.name] = (spec.version, known)
        return known.instances
