"""The node level at work: it looks at the nodes once a second, and at once when something happens.

Every scaler looks, so that a standby has seen the last window just as the leader has; only the leader acts. What fails
is found undone at the next look, and done again.
"""

import asyncio
from dataclasses import asdict

import structlog

from mayfly_chassis.service import Chassis
from mayfly_proto.messages import Blocked
from mayfly_scaler.catalog import Catalog
from mayfly_scaler.config import ScalerConfig
from mayfly_scaler.decisions import NODES, Decisions
from mayfly_scaler.leader import Leader
from mayfly_scaler.nodes.acts import Acts
from mayfly_scaler.nodes.amount import Amount, Change, Rules
from mayfly_scaler.nodes.demand import Demand, Evictions, Kind, Waiting, measure
from mayfly_scaler.nodes.drains import steps, to_drain, to_have_back
from mayfly_scaler.nodes.fleet import Facts, Fleet, Moved
from mayfly_scaler.nodes.life import COMING, State
from mayfly_scaler.nodes.providers.choice import choose
from mayfly_scaler.nodes.providers.provider import Provider, ProviderError
from mayfly_scaler.nodes.requests import NodeRequests
from mayfly_scaler.nodes.room import Room
from mayfly_scaler.nodes.targets import Targets
from mayfly_scaler.reports import Reports

LOOK_S = 1.0
BREATH_S = 0.05  # between two looks, whatever happens
HURRY_S = 0.5  # between two lists of the provider's nodes while instances find no place
BLOCKED_S = 2.0  # for which a word of it is believed: routers try again, and say so again, twice a second
SETTLE_S = 2.0  # that a new node has to take what waits, before it is found not to be enough

_log = structlog.get_logger()


class NodeLevel:
    def __init__(
        self,
        chassis: Chassis,
        config: ScalerConfig,
        reports: Reports,
        catalog: Catalog,
        leader: Leader,
        decisions: Decisions,
        provider: Provider | None = None,
    ) -> None:
        self._chassis = chassis
        self._config = config
        self._reports = reports
        self._catalog = catalog
        self._leader = leader
        self._decisions = decisions
        self._provider = provider or choose(config, chassis.bus)
        self._clock = reports.clock
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._targets = Targets(chassis.bus, self._wake.set)
        self._fleet = Fleet(config.boot_s)
        self._amount = Amount(_rules(config))
        self._evictions = Evictions()
        self._listed: frozenset[str] | None = None  # by the provider; None: it has not said yet
        self._fresh_list = False
        self._joined = float("-inf")  # when a node came up last
        self._tasks: list[asyncio.Task[None]] = []
        self._acts = Acts(
            chassis, leader, decisions, self._targets, self._fleet, self._provider, self._clock, self._wake.set
        )

    async def start(self) -> None:
        await self._targets.start()
        await NodeRequests(self._targets, self._reports).listen(self._chassis.micro)
        self._reports.on_blocked.append(self._on_blocked)
        if self._provider is None:
            self._listed = frozenset()
        else:
            self._tasks.append(self._chassis.background("provider", self._keep_listed(self._provider)))
        self._tasks.append(self._chassis.background("nodes", self._keep_looking()))

    def lead(self) -> None:
        self._amount.lead(self._clock())
        self._wake.set()

    async def stop(self) -> None:
        """What was begun is for the next leader to end."""
        tasks = [*self._tasks, *self._acts.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._targets.stop()
        if self._provider is not None:
            await self._provider.close()

    def can_grow(self) -> bool:
        """Whether the provider may be asked for further nodes."""
        owned = sum(node.owned for node in self._fleet)
        return self._provider is not None and owned < self._config.max_nodes

    def _on_blocked(self, _blocked: Blocked) -> None:
        self._hurry.set()
        self._wake.set()

    async def _keep_listed(self, provider: Provider) -> None:
        """What it has is looked at before each decision."""
        health = self._acts.health
        while True:
            try:
                self._listed = await provider.list()
                self._fresh_list = True
                health.listing.succeed()
            except ProviderError as error:
                self._acts.failed(health.listing, str(error))
            self._wake.set()
            await asyncio.sleep(max(HURRY_S, health.listing.until - self._clock()))
            await _until(self._hurry, self._config.tick_s - HURRY_S)

    async def _keep_looking(self) -> None:
        while True:
            await _until(self._wake, min(LOOK_S, self._config.tick_s))
            self._look(self._clock())
            await asyncio.sleep(BREATH_S)

    def _look(self, now: float) -> None:
        reports = self._reports
        listed = self._listed or frozenset()
        self._note(now, self._fleet.look(now, Facts(reports.leases, reports.nodes, self._targets.nodes, listed)))
        kind = self._fleet.kind(self._config.node_memory_mb)
        waiting = self._waiting(now)
        demand = self._measure(now, kind, waiting)
        self._amount.observe(now, demand.total)
        if not self._leader.leading:
            return
        topmost = None
        if self._provider is not None and self._provider.from_the_end:
            topmost = max(listed, key=self._provider.numbering.number, default="")
        for step in steps(self._fleet, self._targets.nodes, topmost=topmost, known=self._listed is not None):
            self._acts.step(step)
        if self._provider is not None and self._fresh_list:
            self._fresh_list = False
            self._decide(now, self._provider, kind, demand, blocked=demand.blocked > 0)

    def _note(self, now: float, moved: list[Moved]) -> None:
        health = self._acts.health
        for name, before, after in moved:
            _log.info("node.moved", node=name, before=before.value, after=after.value)
            if after is State.UP and before in (*COMING, State.LOST, State.GIVEN_UP):
                self._joined = now
                if self._fleet[name].owned:
                    health.booting.succeed()
            elif after is State.GIVEN_UP and before in COMING:
                self._acts.failed(health.booting, f"{name} did not come within {self._config.boot_s:g} s")

    def _waiting(self, now: float) -> list[Waiting]:
        """Instances without a place; what was said before the last node came, it has answered."""
        since = max(now - BLOCKED_S, self._joined)
        waiting = []
        for blocked in self._reports.fresh_blocked(since):
            spec = self._catalog.spec(blocked.function, blocked.version)
            if spec is not None:
                waiting.append(Waiting(blocked.instances, blocked.memory_mb, spec.node_labels))
        return waiting

    def _measure(self, now: float, kind: Kind, waiting: list[Waiting]) -> Demand:
        seen = list(self._fleet.seen())
        self._evictions.observe(now, (node.load for node in seen))
        cpu = self._provider is not None and self._provider.own_processors
        return measure(seen, waiting, kind, cpu=cpu)._replace(evicted=self._evictions.missed(kind))

    def _decide(self, now: float, provider: Provider, kind: Kind, demand: Demand, *, blocked: bool) -> None:
        nodes = self._fleet.amounts(
            kind=kind,
            blocked=blocked and now - self._joined >= SETTLE_S,
            provider_fails=self._acts.health.fails(now),
        )
        change = self._amount.decide(now, nodes)
        if change is None:
            return
        seen = {**demand.figures(), "peak": round(self._amount.peak, 3), **asdict(nodes)}
        if names := to_have_back(self._fleet, change.undrain):
            self._acts.undrain(names)
            self._say("undrain", names, seen, change.why)
        taken = {node.name for node in self._fleet} | self._targets.nodes.keys()
        if names := provider.numbering.free(change.add, taken):
            self._acts.add(names)
            self._evictions.forget()
            self._say("add", names, seen, change.why)
        if names := self._to_drain(change, provider):
            self._acts.drain(names, change.why)
            self._say("drain", names, seen, change.why)

    def _to_drain(self, change: Change, provider: Provider) -> list[str]:
        if not change.drain:
            return []
        room = Room(self._fleet, self._catalog.spec)
        return to_drain(
            self._fleet,
            change.drain,
            provider.numbering,
            from_the_end=provider.from_the_end,
            dispensable=lambda node: change.anyhow or room.without(node),
        )

    def _say(self, action: str, names: list[str], seen: dict[str, object], why: str) -> None:
        self._decisions.say(NODES, action, count=len(names), seen={**seen, "nodes": names}, why=why)


def _rules(config: ScalerConfig) -> Rules:
    return Rules(
        minimum=config.min_nodes,
        maximum=config.max_nodes,
        target=config.target,
        out_at=config.out_at,
        in_at=config.in_at,
        window_s=config.window_s,
        after_out_s=config.after_out_s,
        between_in_s=config.between_in_s,
    )


async def _until(event: asyncio.Event, limit_s: float) -> None:
    try:
        async with asyncio.timeout(limit_s):
            await event.wait()
    except TimeoutError:
        pass
    event.clear()
