"""The Kubernetes provider against a stateful API server (kmock): replicas of a StatefulSet, which others change too."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from kmock import KubernetesEmulator, Request, Server

from mayfly_broker.server import EmbeddedServer
from mayfly_scaler.nodes.providers.kubernetes import KubernetesNodes
from mayfly_scaler.nodes.providers.provider import ProviderError
from tests.integration.nodes_driver import Machine
from tests.integration.nodes_driver import cluster as nodes_cluster
from tests.integration.worker_driver import until

SET = ("statefulsets.v1.apps", "mayfly", "mayfly-worker")


class Cluster(KubernetesEmulator):
    """Keeps a resource version, as the real one does, and refuses a change of an older one. ``before_patch`` is called
    before each; ``fails``: HTTP status of every answer from now on; ``garbled``: makes every answer from now on."""

    before_patch: Callable[[], None] | None = None
    fails = 0
    garbled: Callable[[], web.Response] | None = None

    @property
    def replicas(self) -> int:
        count: int = self.objects[SET]["spec"]["replicas"]
        return count

    def scale(self, replicas: int) -> None:
        """As `kubectl scale` does."""
        version = int(self.objects[SET]["metadata"]["resourceVersion"]) + 1
        change = {"metadata": {"resourceVersion": str(version)}, "spec": {"replicas": replicas}}
        self.objects[SET].patch(change)

    async def _handle(self, request: Request) -> web.StreamResponse:
        if self.garbled is not None:
            return self.garbled()
        if self.fails:
            return _refusal(self.fails, "the cluster is unwell")
        if request.method is not None and request.method.value == "PATCH":
            assert request.subresource == "scale"  # all that the provider may touch
            if self.before_patch is not None:
                self.before_patch()
            version = self.objects[SET]["metadata"]["resourceVersion"]
            if request.data["metadata"]["resourceVersion"] != version:
                return _refusal(409, "the object has been modified")
            request.data["metadata"]["resourceVersion"] = str(int(version) + 1)
        return await super()._handle(request)


def _refusal(code: int, message: str) -> web.Response:
    status = {
        "apiVersion": "v1",
        "kind": "Status",
        "metadata": {},
        "status": "Failure",
        "code": code,
        "message": message,
    }
    return web.Response(body=json.dumps(status).encode(), status=code, content_type="application/json")


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    async with Cluster() as cluster, Server(cluster) as server:
        configuration: dict[str, Any] = {
            "clusters": [{"name": "c", "cluster": {"server": str(server.url)}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        (tmp_path / "config").write_text(json.dumps(configuration))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        cluster.objects[SET] = {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": "mayfly-worker", "namespace": "mayfly", "resourceVersion": "1"},
            "spec": {"replicas": 2},
        }
        yield cluster


@asynccontextmanager
async def provider() -> AsyncIterator[KubernetesNodes]:
    nodes = KubernetesNodes("mayfly", "mayfly-worker")
    try:
        yield nodes
    finally:
        await nodes.close()


async def test_nodes_are_the_replicas(cluster: Cluster) -> None:
    """Named as Kubernetes names the pods; added with all below; each verb as often as one likes."""
    async with provider() as nodes:
        assert await nodes.list() == {"mayfly-worker-0", "mayfly-worker-1"}
        for _ in range(2):
            await nodes.add("mayfly-worker-3")
            assert cluster.replicas == 4
        await nodes.add("mayfly-worker-2")
        assert cluster.replicas == 4
        for _ in range(2):
            await nodes.remove("mayfly-worker-3")
            assert cluster.replicas == 3
        await nodes.remove("mayfly-worker-7")
        assert cluster.replicas == 3


async def test_only_the_highest_can_go(cluster: Cluster) -> None:
    """A StatefulSet would take away mayfly-worker-1, whatever was meant: that one may be full of calls."""
    async with provider() as nodes:
        with pytest.raises(ProviderError, match="mayfly-worker-0 cannot be taken away before mayfly-worker-1"):
            await nodes.remove("mayfly-worker-0")
    assert cluster.replicas == 2


async def test_somebody_else_scales_meanwhile(cluster: Cluster) -> None:
    """Between what was read and what is written: nobody's change is lost, and no other pod goes than the one meant."""
    cluster.scale(3)
    once = [5]

    def others() -> None:
        if once:
            cluster.scale(once.pop())

    cluster.before_patch = others
    async with provider() as nodes:
        with pytest.raises(ProviderError, match="mayfly-worker-2 cannot be taken away before mayfly-worker-4"):
            await nodes.remove("mayfly-worker-2")
        assert cluster.replicas == 5
        once.append(1)
        await nodes.remove("mayfly-worker-4")
        assert cluster.replicas == 1
        once.append(4)
        await nodes.add("mayfly-worker-1")
        assert cluster.replicas == 4


async def test_somebody_else_scales_all_the_time(cluster: Cluster) -> None:
    """It is not fought with for ever."""
    cluster.before_patch = lambda: cluster.scale(cluster.replicas)
    async with provider() as nodes:
        with pytest.raises(ProviderError, match="changed by somebody else all the time"):
            await nodes.add("mayfly-worker-2")


@pytest.mark.invariant("I22")
@pytest.mark.parametrize("status", [403, 500])
async def test_cluster_that_fails_is_said(cluster: Cluster, status: int) -> None:
    """Every verb."""
    cluster.fails = status
    async with provider() as nodes:
        for ask in (nodes.list(), nodes.add("mayfly-worker-2"), nodes.remove("mayfly-worker-1")):
            with pytest.raises(ProviderError, match=r"Kubernetes: .*the cluster is unwell"):
                await ask


def json_answer(status: int, body: bytes) -> Callable[[], web.Response]:
    return lambda: web.Response(status=status, body=body, content_type="application/json")


@pytest.mark.invariant("I22")
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param(lambda: web.Response(status=503), "503", id="no-content-type"),
        pytest.param(lambda: web.Response(status=502, text="<html>"), "502", id="html"),
        pytest.param(json_answer(503, b"upstream"), "503", id="no-json"),
        pytest.param(json_answer(503, b"\xff"), "503", id="no-text"),
        pytest.param(json_answer(503, b"[]"), "503", id="no-status"),
        pytest.param(json_answer(503, b"{}"), "503", id="no-message"),
        pytest.param(json_answer(200, b"{"), "truncated", id="truncated"),
        pytest.param(json_answer(200, b"{}"), "does not say it", id="no-scale"),
    ],
)
async def test_what_stands_before_the_cluster_answers(
    cluster: Cluster, answer: Callable[[], web.Response], said: str
) -> None:
    """A load balancer knows nothing of the API's errors: every verb says what it got, and none ends the scaler."""
    cluster.garbled = answer
    async with provider() as nodes:
        for ask in (nodes.list(), nodes.add("mayfly-worker-2"), nodes.remove("mayfly-worker-1")):
            with pytest.raises(ProviderError, match=rf"^Kubernetes: .*{said}"):
                await ask


@pytest.mark.invariant("I22")
async def test_token_that_is_away(cluster: Cluster, tmp_path: Path) -> None:
    """The kubelet renews its file; while there is none, that is the error, and afterwards it is as if nothing was."""
    configuration = json.loads((tmp_path / "config").read_text())
    configuration["users"][0]["user"] = {"tokenFile": str(tmp_path / "token")}
    (tmp_path / "config").write_text(json.dumps(configuration))
    async with provider() as nodes:
        with pytest.raises(ProviderError, match=r"^Kubernetes: .*token not found"):
            await nodes.list()
        (tmp_path / "token").write_text("t")
        assert await nodes.list() == {"mayfly-worker-0", "mayfly-worker-1"}


@pytest.mark.invariant("I22")
async def test_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> None:
    """None is configured here, there is no such StatefulSet, or nobody answers."""
    nodes = KubernetesNodes("mayfly", "another")
    with pytest.raises(ProviderError, match="Kubernetes: "):
        await nodes.list()
    await nodes.close()
    configuration = json.loads((tmp_path / "config").read_text())
    configuration["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:1"
    (tmp_path / "config").write_text(json.dumps(configuration))
    async with provider() as nodes:
        with pytest.raises(ProviderError, match="Kubernetes: "):
            await nodes.list()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ProviderError, match="no Kubernetes cluster is configured here"):
        KubernetesNodes("mayfly", "mayfly-worker")


async def kubelet(cluster: Cluster, machine: Machine) -> None:
    """Starts the pods that are missing, and ends those that are too many when nothing runs there."""
    while True:
        wanted = [f"mayfly-worker-{ordinal}" for ordinal in range(cluster.replicas)]
        for name in set(wanted) - machine.workers.keys():
            await machine.start(name)
        for name in machine.workers.keys() - set(wanted):
            await machine.workers.pop(name).end()
        await asyncio.sleep(0.05)


async def test_load_and_others_change_the_replicas(cluster: Cluster, server: EmbeddedServer, tmp_path: Path) -> None:
    """Load brings a pod more, somebody scales to four by hand, and then the last ones are emptied and taken away one
    after the other: never a pod that was not empty."""
    cluster.scale(1)
    async with nodes_cluster(server, tmp_path) as mayfly:
        pods = asyncio.create_task(kubelet(cluster, mayfly.machine))
        await mayfly.scaler(provider="kubernetes")
        await until(lambda: len(mayfly.machine.workers) == 1)
        await mayfly.machine.load(950)
        await until(lambda: cluster.replicas == 2)
        cluster.scale(4)
        await until(lambda: len(mayfly.machine.workers) == 4)
        mayfly.machine.workers["mayfly-worker-3"].used_mb = 10
        await mayfly.machine.load(100)
        await until(lambda: cluster.replicas == 1, timeout_s=20)
        pods.cancel()
    drained = [decision.seen["nodes"] for decision in mayfly.decided("drain")]
    assert drained == [["mayfly-worker-3"], ["mayfly-worker-2"], ["mayfly-worker-1"]]
    removed = [decision.about for decision in mayfly.decided("remove")]
    assert removed == ["node mayfly-worker-3", "node mayfly-worker-2", "node mayfly-worker-1"]
