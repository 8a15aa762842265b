"""The Docker provider against an engine's API on a Unix socket, that keeps containers and can be told to fail."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from mayfly_scaler.config import ScalerConfig
from mayfly_scaler.nodes.providers import docker
from mayfly_scaler.nodes.providers.docker import NODE_LABEL, OVERHEAD_MB, PROJECT_LABEL, DockerNodes
from mayfly_scaler.nodes.providers.provider import ProviderError


@dataclass
class Engine:
    """As much of the engine's HTTP API as there is to a container's life."""

    containers: dict[str, dict[str, Any]] = field(default_factory=dict)  # name → what it was created with, and State
    calls: list[str] = field(default_factory=list)
    fails: int = 0  # HTTP status of every answer from now on
    stopping: asyncio.Event | None = None  # until which a container that is stopped goes on
    hangs: bool = False  # it answers nothing

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._failing])
        app.router.add_get("/version", self._version)
        app.router.add_get("/{api}/containers/json", self._list)
        app.router.add_post("/{api}/containers/create", self._create)
        app.router.add_get("/{api}/containers/{name}/json", self._show)
        app.router.add_post("/{api}/containers/{name}/{verb}", self._change)
        app.router.add_delete("/{api}/containers/{name}", self._delete)
        return app

    @web.middleware
    async def _failing(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails:
            return _json({"message": "the engine is unwell"}, status=self.fails)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _version(self, _request: web.Request) -> web.Response:
        return _json({"ApiVersion": "1.41", "Version": "28"})

    async def _list(self, request: web.Request) -> web.Response:
        assert request.query["all"] in ("1", "true", "True")
        wanted = json.loads(request.query["filters"])["label"]

        def has(container: dict[str, Any]) -> bool:
            labels = container["Labels"]
            return all(w in labels or w in [f"{k}={v}" for k, v in labels.items()] for w in wanted)

        return _json([self._shown(name) for name, made in self.containers.items() if has(made)])

    async def _create(self, request: web.Request) -> web.Response:
        name = request.query["name"]
        self.calls.append(f"create {name}")
        if name in self.containers:
            return _json({"message": "the name is in use"}, status=409)
        self.containers[name] = {**await request.json(), "State": "created"}
        return _json({"Id": name, "Warnings": []}, status=201)

    async def _show(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.containers:
            return _json({"message": f"no such container: {name}"}, status=404)
        return _json(self._shown(name))

    async def _change(self, request: web.Request) -> web.Response:
        name, verb = request.match_info["name"], request.match_info["verb"]
        self.calls.append(f"{verb} {name} {dict(request.query)}")
        if verb == "stop" and self.stopping:
            await self.stopping.wait()
        wanted = {"start": "running", "stop": "exited"}[verb]
        if self.containers[name]["State"] == wanted:
            return web.Response(status=304)
        self.containers[name]["State"] = wanted
        return web.Response(status=204)

    async def _delete(self, request: web.Request) -> web.Response:
        del self.containers[request.match_info["name"]]
        return web.Response(status=204)

    def _shown(self, name: str) -> dict[str, Any]:
        return {"Id": name, "Names": [f"/{name}"], **self.containers[name]}


def _json(value: object, status: int = 200) -> web.Response:
    """As the engine sends it: without a charset."""
    return web.Response(body=json.dumps(value).encode(), status=status, content_type="application/json")


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    engine = Engine()
    runner = web.AppRunner(engine.app(), shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "docker.sock")).start()
    yield engine
    await runner.cleanup()


@asynccontextmanager
async def provider(folder: Path, **settings: Any) -> AsyncIterator[DockerNodes]:
    config = ScalerConfig(provider="docker", docker_socket=str(folder / "docker.sock"), **settings)
    nodes = DockerNodes(config)
    try:
        yield nodes
    finally:
        await nodes.close()


async def test_life_of_a_node(engine: Engine, tmp_path: Path) -> None:
    """Added, listed, removed, each as often as one likes; it is stopped in good order before it is deleted."""
    async with provider(tmp_path) as nodes:
        assert await nodes.list() == frozenset()
        for _ in range(2):
            await nodes.add("n2")
            assert await nodes.list() == {"n2"}
        assert engine.containers["mayfly-n2"]["State"] == "running"
        for _ in range(2):
            await nodes.remove("n2")
            assert await nodes.list() == frozenset()
    assert [call for call in engine.calls if call.startswith("stop")] == ["stop mayfly-n2 {'t': '90'}"]


async def test_a_worker_has_its_time_to_end(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long an engine may take for anything else; when it says nothing, that is the error."""
    monkeypatch.setattr(docker, "_TIMEOUT", aiohttp.ClientTimeout(total=0.3))
    async with provider(tmp_path) as nodes:
        await nodes.add("n2")
        engine.stopping = asyncio.Event()
        removal = asyncio.create_task(nodes.remove("n2"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await asyncio.shield(removal)
        engine.stopping.set()
        await removal
        assert engine.containers == {}
        engine.hangs = True
        with pytest.raises(ProviderError, match=r"^Docker engine: TimeoutError$"):
            await nodes.list()


async def test_container_that_stopped_is_started_again(engine: Engine, tmp_path: Path) -> None:
    """It is listed, whatever its state, and `add` makes it run."""
    async with provider(tmp_path) as nodes:
        await nodes.add("n2")
        engine.containers["mayfly-n2"]["State"] = "exited"
        assert await nodes.list() == {"n2"}
        await nodes.add("n2")
    assert engine.containers["mayfly-n2"]["State"] == "running"


async def test_what_a_container_is_made_of(engine: Engine, tmp_path: Path) -> None:
    """The operator's file says what all have; name, memory and labels are the scaler's, and no file overrides them."""
    template = {
        "Cmd": ["worker"],
        "Env": ["MAYFLY_NATS_USER=worker", "MAYFLY_WORKER_NODE=n1"],
        "Labels": {"rack": "7", NODE_LABEL: "n1"},
        "HostConfig": {"CapAdd": ["SYS_ADMIN"], "Binds": ["secrets:/run/secrets:ro"], "Memory": 1},
    }
    (tmp_path / "worker.json").write_text(json.dumps(template))
    settings = {
        "nats_url": "tls://nats-1:4222,tls://nats-2:4222",
        "docker_container": tmp_path / "worker.json",
        "docker_image": "mayfly:7",
        "docker_network": "inner",
        "docker_project": "shop",
        "node_memory_mb": 512,
    }
    async with provider(tmp_path, **settings) as nodes:
        await nodes.add("n3")
    made = engine.containers["shop-n3"]
    memory = (512 + OVERHEAD_MB) * 2**20
    assert (made["Image"], made["Cmd"]) == ("mayfly:7", ["worker"])
    assert made["Labels"] == {"rack": "7", PROJECT_LABEL: "shop", NODE_LABEL: "n3"}
    assert made["Env"] == [
        "MAYFLY_NATS_URL=tls://nats-1:4222,tls://nats-2:4222",
        "MAYFLY_NATS_USER=worker",
        "MAYFLY_WORKER_NODE=n1",
        "MAYFLY_WORKER_NODE=n3",  # of two, a process sees the last
        "MAYFLY_WORKER_MEMORY_MB=512",
    ]
    assert made["HostConfig"] == {
        "CapAdd": ["SYS_ADMIN"],
        "Binds": ["secrets:/run/secrets:ro"],
        "Memory": memory,
        "MemorySwap": memory,
        "RestartPolicy": {"Name": "on-failure"},
        "NetworkMode": "inner",
    }


async def test_file_as_the_engine_prints_it(engine: Engine, tmp_path: Path) -> None:
    """null is nothing, where the scaler adds to it; what is not the scaler's goes on as it stands, null or not."""
    others = {"User": "root", "Entrypoint": None, "Healthcheck": {"Test": ["NONE"], "Retries": 30}, "Shell": []}
    template = {"Env": None, "Labels": None, "HostConfig": None, **others}
    (tmp_path / "worker.json").write_text(json.dumps(template))
    async with provider(tmp_path, docker_container=tmp_path / "worker.json") as nodes:
        await nodes.add("n2")
    made = engine.containers["mayfly-n2"]
    assert {key: made[key] for key in others} == others
    assert made["Env"][1:] == ["MAYFLY_WORKER_NODE=n2", f"MAYFLY_WORKER_MEMORY_MB={ScalerConfig().node_memory_mb}"]
    assert made["Labels"] == {PROJECT_LABEL: "mayfly", NODE_LABEL: "n2"}
    assert made["HostConfig"]["RestartPolicy"] == {"Name": "on-failure"}


async def test_command_and_names_unless_told_otherwise(engine: Engine, tmp_path: Path) -> None:
    """The image's worker, as compose.yaml starts it; numbers from one on, or above the nodes that are made by hand."""
    async with provider(tmp_path) as nodes:
        assert nodes.numbering.free(2, {"n1"}) == ["n2", "n3"]
        await nodes.add("n2")
    assert engine.containers["mayfly-n2"]["Cmd"] == ["worker"]
    async with provider(tmp_path, docker_first=3) as nodes:
        assert nodes.numbering.free(2, set()) == ["n3", "n4"]


async def test_containers_of_others_are_left_alone(engine: Engine, tmp_path: Path) -> None:
    """Of another project on the same engine, and of no project at all."""
    async with provider(tmp_path, docker_project="other") as nodes:
        await nodes.add("n1")
    engine.containers["database"] = {"Labels": {}, "State": "running"}
    async with provider(tmp_path) as nodes:
        assert await nodes.list() == frozenset()
        await nodes.remove("n1")
    assert set(engine.containers) == {"other-n1", "database"}


@pytest.mark.invariant("I22")
@pytest.mark.parametrize("status", [400, 500])
async def test_engine_that_fails_is_said_in_one_sentence(engine: Engine, tmp_path: Path, status: int) -> None:
    """Every verb."""
    async with provider(tmp_path) as nodes:
        await nodes.add("n1")
        engine.fails = status
        for ask in (nodes.list(), nodes.add("n2"), nodes.remove("n1")):
            with pytest.raises(ProviderError, match=r"^Docker engine: the engine is unwell$"):
                await ask


@pytest.mark.invariant("I22")
async def test_no_engine(tmp_path: Path) -> None:
    """There is no socket, or nobody behind it."""
    async with provider(tmp_path) as nodes:
        with pytest.raises(ProviderError, match=r"Docker engine: .*docker\.sock"):
            await nodes.list()
    server = await asyncio.start_unix_server(lambda _reader, writer: writer.close(), tmp_path / "docker.sock")
    async with server, provider(tmp_path) as nodes:
        with pytest.raises(ProviderError, match="Docker engine: "):
            await nodes.list()


@pytest.mark.parametrize("content", [None, b"[]", b"{", b'{"User": "\xff"}'])
async def test_file_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    """Missing or malformed: the error names the setting."""
    file = tmp_path / "worker.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ProviderError, match=f"MAYFLY_SCALER_DOCKER_CONTAINER={file}"):
        DockerNodes(ScalerConfig(docker_container=file))


@pytest.mark.parametrize(
    ("template", "wrong"),
    [
        ({"Env": {"A": "1"}}, "Expected `array | null`, got `object` - at `$.Env`"),
        ({"Env": ["A=1", None]}, "Expected `str`, got `null` - at `$.Env[1]`"),
        ({"Labels": ["rack"]}, "Expected `object | null`, got `array` - at `$.Labels`"),
        ({"Labels": {"rack": 7}}, "Expected `str`, got `int` - at `$.Labels[...]`"),
        ({"HostConfig": ""}, "Expected `object | null`, got `str` - at `$.HostConfig`"),
    ],
    ids=["env", "one-of-env", "labels", "one-of-labels", "host-config"],
)
async def test_file_with_a_mistake_is_refused_at_the_start(tmp_path: Path, template: object, wrong: str) -> None:
    """Not when load calls for the first node: the error names the setting, the field and what belongs there."""
    file = tmp_path / "worker.json"
    file.write_text(json.dumps(template))
    with pytest.raises(ProviderError) as refused:
        DockerNodes(ScalerConfig(docker_container=file))
    assert str(refused.value) == f"MAYFLY_SCALER_DOCKER_CONTAINER={file}: {wrong}"
