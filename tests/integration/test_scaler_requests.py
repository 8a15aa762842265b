"""What people ask of nodes, at a scaler that has not heard of everything yet; `test_scaler_nodes` has what follows."""

import pytest

from mayfly_chassis.bus import Bus
from mayfly_chassis.kv import Bucket
from mayfly_chassis.micro import Request
from mayfly_proto import api, records, storage, subjects
from mayfly_proto.errors import CallError, ErrorType
from mayfly_proto.records import NodeLease, NodeTarget
from mayfly_scaler.nodes.fleet import OPERATOR
from mayfly_scaler.nodes.requests import NodeRequests
from mayfly_scaler.nodes.targets import Targets
from mayfly_scaler.reports import Reports
from tests.conftest import Connect, Eventually

KEY = storage.node_target_key("n1")
TARGET = records.encode(NodeTarget(by=OPERATOR, since="2030-01-01T00:00:00Z", why="test"))
UNREADABLE = b'{"by": 7}'


class Scaler:
    """One whose targets have not heard a word until they are started."""

    def __init__(self, bus: Bus, operator: Bus) -> None:
        self.bucket = Bucket(operator, storage.TARGETS)
        self.targets = Targets(bus, lambda: None)
        reports = Reports(bus)
        self._requests = NodeRequests(self.targets, reports)
        self._leases = reports.leases
        self._client = bus.identity

    def lease(self, node: str) -> None:
        self._leases[node] = NodeLease(node=node, epoch=1, client=self._client, memory_mb=1000, cores=2)

    async def drain(self, node: str) -> api.NodeReply:
        return api.decode(await self._requests.drain(_request(api.DRAIN, node)), api.NodeReply)

    async def undrain(self, node: str) -> api.NodeReply:
        return api.decode(await self._requests.undrain(_request(api.UNDRAIN, node)), api.NodeReply)


def _request(verb: str, node: str) -> Request:
    return Request(subjects.api(api.NODE, verb), None, api.encode(api.NodeRequest(node=node, why="new disk")))


@pytest.fixture
async def scaler(connect: Connect) -> Scaler:
    return Scaler(await connect("scaler"), await connect("operator"))


@pytest.mark.parametrize("here", [True, False])
async def test_undrain_frees_what_another_scaler_has_just_drained(scaler: Scaler, here: bool) -> None:
    """This one's feed is behind: what it answers is true all the same, for a node that is here and for one away."""
    if here:
        scaler.lease("n1")
    await scaler.bucket.put(KEY, TARGET)
    assert not (await scaler.undrain("n1")).draining
    assert await scaler.bucket.get(KEY) is None


@pytest.mark.parametrize("name", ["n9", "*", ">", "n1.x", "n 1", ""])
async def test_node_that_nobody_knows_is_not_found(scaler: Scaler, name: str) -> None:
    """Nor is one that cannot be: what is asked for is no pattern for another node's key."""
    await scaler.bucket.put(KEY, TARGET)
    for ask in (scaler.drain, scaler.undrain):
        with pytest.raises(CallError) as refused:
            await ask(name)
        assert refused.value.kind is ErrorType.NOT_FOUND
    assert await scaler.bucket.keys(limit=9) == [KEY]


async def test_target_that_nobody_can_read_is_written_over(scaler: Scaler) -> None:
    """By the operator's drain, and deleted by the undrain: a mistake in a key must not keep a node from either."""
    scaler.lease("n1")
    await scaler.bucket.put(KEY, UNREADABLE)
    assert (await scaler.drain("n1")).draining
    entry = await scaler.bucket.get(KEY)
    assert entry is not None
    assert records.decode(entry.value, NodeTarget).by == OPERATOR
    await scaler.bucket.put(KEY, UNREADABLE)
    assert not (await scaler.undrain("n1")).draining
    assert await scaler.bucket.get(KEY) is None


async def test_target_that_nobody_can_read_is_not_what_it_was(scaler: Scaler, eventually: Eventually) -> None:
    """Of a key that the scaler made and somebody has changed since, it deletes nothing: it is its own no more."""
    await scaler.targets.start()
    assert await scaler.targets.drain("n1", "fits on one")
    await eventually(lambda: scaler.targets.nodes)
    await scaler.bucket.put(KEY, UNREADABLE)
    await eventually(lambda: not scaler.targets.nodes)
    assert not await scaler.targets.undrain("n1")
    entry = await scaler.bucket.get(KEY)
    assert entry is not None
    assert entry.value == UNREADABLE
    await scaler.targets.stop()
