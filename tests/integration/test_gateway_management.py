"""The management API, with the real registry behind it and a router and nodes played over the wire."""

import asyncio
import hashlib
import io
import json
import re
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from mayfly_broker.server import EmbeddedServer
from mayfly_chassis.kv import Bucket
from mayfly_chassis.objects import ObjectStore
from mayfly_chassis.service import running
from mayfly_proto import headers, records, storage, subjects
from mayfly_proto.records import Client, InstanceRecord, NodeLease
from mayfly_registry.app import app as registry_app
from mayfly_registry.config import RegistryConfig
from tests.conftest import Connect
from tests.integration.gateway import TOKEN, Gateway, gateway

HELLO = b"def handler(event, context):\n    return 'hello'\n"


@pytest.fixture
async def http(server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway(server, tmp_path) as running_gateway:
        yield running_gateway


@pytest.fixture
async def registry(server: EmbeddedServer, connect: Connect, tmp_path: Path) -> AsyncIterator[None]:
    """The real one, and an owner that answers its probes."""
    router = await connect("router")

    def probed(subject: bytes, reply: bytes, _raw: bytes | None, _payload: bytes) -> None:
        version = subject.rpartition(b"@")[2].decode()
        router.publish(reply, headers=headers.block({headers.VERSION: version}))

    await router.subscribe(subjects.FUNCTIONS, probed, queue=subjects.ROUTER_QUEUE)
    await router.flush()
    password = tmp_path / "registry-password"
    password.write_text(server.passwords["registry"])
    config = RegistryConfig(nats_url=server.url, nats_password_file=password)
    async with running("registry", registry_app, config):
        yield


def archive(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as writer:
        for name, content in files.items():
            writer.writestr(f"{name}.py", content)
    return packed.getvalue()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/functions"),
        ("POST", "/api/v1/functions/hello"),
        ("DELETE", "/api/v1/functions/hello"),
        ("GET", "/api/v1/functions/hello/logs"),
        ("POST", "/api/v1/functions/{name}/pause"),
        ("POST", "/api/v1/functions/{name}/resume"),
        ("GET", "/api/v1/schedules"),
        ("GET", "/api/v1/invocations/{id}"),
        ("DELETE", "/api/v1/invocations/{id}"),
        ("GET", "/api/v1/dlq"),
        ("GET", "/api/v1/dlq/{sequence}"),
        ("POST", "/api/v1/dlq/{function}/redrive"),
        ("DELETE", "/api/v1/dlq/{function}"),
        ("GET", "/api/v1/instances"),
        ("GET", "/api/v1/load"),
        ("GET", "/api/v1/scaler/log"),
        ("POST", "/api/v1/nodes/n1/drain"),
        ("POST", "/api/v1/nodes/n1/undrain"),
        ("GET", "/api"),
        ("GET", "/api/v2/anything"),
        ("GET", "/api%2Fv1/functions"),
    ],
)
async def test_without_the_token_there_is_nothing(http: Gateway, method: str, path: str) -> None:
    """No token, a wrong one, one in the wrong scheme, or a part of it: 401, and how to do better."""
    for given in (None, "Bearer", f"Basic {TOKEN}", "Bearer wrong", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", TOKEN):
        answer = await http.send(method, path, fields={} if given is None else {"Authorization": given})
        assert (answer.status, answer.error["type"]) == (401, "unauthorized")
        assert (answer.header("WWW-Authenticate") or "").startswith("Bearer")


async def test_gateway_without_a_token_lets_nobody_manage(server: EmbeddedServer, tmp_path: Path) -> None:
    """No token file means no management, not open management."""
    async with gateway(server, tmp_path, token_file=None) as http:
        answer = await http.send("GET", "/api/v1/functions", fields={"Authorization": "Bearer None"})
        assert (answer.status, answer.error["type"]) == (403, "forbidden")


async def test_other_origins_get_no_permission(http: Gateway) -> None:
    """A preflight is refused and no answer carries a CORS header, so a web page elsewhere cannot manage."""
    fields = {"Origin": "http://evil.example", "Access-Control-Request-Method": "DELETE"}
    answer = await http.send("OPTIONS", "/api/v1/functions/hello", fields=fields)
    assert answer.status == 401
    answer = await http.manage("GET", "nodes", fields={"Origin": "http://evil.example"})
    assert answer.status == 200
    assert not [name for name, _ in answer.headers if name.lower().startswith("access-control")]


@pytest.mark.usefixtures("registry")
async def test_life_of_a_function(http: Gateway) -> None:
    """Deploy a file, look at it, change it, deploy a ZIP, roll back, read the code back, delete."""
    made = await http.manage("POST", "functions/hello?memory=64&timeout=2.5", HELLO)
    assert (made.status, made.json["version"], made.json["size"]) == (201, 1, len(HELLO))
    again = await http.manage("PUT", "functions/hello?memory=64&timeout=2.5", HELLO)
    assert (again.status, again.json["unchanged"], again.json["version"]) == (200, True, 1)
    (row,) = (await http.manage("GET", "functions")).json
    assert (row["name"], row["memory"], row["timeout"]) == ("hello", 64, 2.5)

    changed = await http.manage("PATCH", "functions/hello", {"memory": 96})
    assert (changed.status, changed.json["version"]) == (200, 2)
    package = archive(main=HELLO, other=b"x = 1\n")
    packed = await http.manage("PUT", "functions/hello?handler=main:handler", package)
    assert (packed.status, packed.json["version"]) == (201, 3)
    described = (await http.manage("GET", "functions/hello")).json
    assert [entry["path"] for entry in described["entries"]] == ["main.py", "other.py"]
    assert (await http.manage("GET", "functions/hello?version=2")).json["memory"] == 96

    code = await http.manage("GET", "functions/hello/code")
    assert (code.body, code.header("Content-Type")) == (package, "application/zip")
    older = await http.manage("GET", "functions/hello/code?version=1")
    assert older.body == HELLO
    assert "hello.py" in (older.header("Content-Disposition") or "")

    assert (await http.manage("POST", "functions/hello/rollback", {"version": 1})).json["version"] == 1
    assert (await http.manage("POST", "functions/hello/rollback")).status >= 400  # nothing below 1
    versions = (await http.manage("GET", "functions/hello/versions")).json
    assert [(row["version"], row["current"]) for row in versions] == [(3, False), (2, False), (1, True)]

    assert (await http.manage("DELETE", "functions/hello")).json == {"name": "hello", "versions": 3}
    gone = await http.manage("GET", "functions/hello")
    assert (gone.status, gone.error["type"], gone.error["component"]) == (404, "not_found", "registry")


@pytest.mark.usefixtures("registry")
async def test_deploy_by_json(http: Gateway) -> None:
    """Source and settings in one JSON body; a misspelt field is named."""
    body = {"source": HELLO.decode(), "filename": "greet.py", "settings": {"memory": 32, "env": {"A": "b"}}}
    made = await http.manage("POST", "functions/billing.greet", body)
    assert (made.status, made.json["handler"]) == (201, "greet:handler")
    assert (await http.manage("GET", "functions/billing.greet")).json["env"] == {"A": "b"}
    wrong = await http.manage("POST", "functions/billing.greet", {"sauce": "x"})
    assert (wrong.status, wrong.error["type"]) == (400, "bad_request")
    assert "sauce" in wrong.error["message"]


@pytest.mark.usefixtures("registry")
async def test_what_the_registry_refuses_is_said_in_its_words(http: Gateway) -> None:
    """The message names the field, the value and what would be right, through all layers."""
    for query, word in (("memory=lots", "lots"), ("memmory=1", "memmory"), ("handler=nope", "nope")):
        answer = await http.manage("POST", f"functions/hello?{query}", HELLO)
        assert (answer.status, answer.error["component"]) == (400, "registry")
        assert word in answer.error["message"]
    for name in ("Hello", "a..b", "a b"):
        answer = await http.manage("POST", f"functions/{name.replace(' ', '%20')}", HELLO)
        assert (answer.status, answer.error["type"]) == (400, "bad_request")
    form = await http.manage("POST", "functions/hello", b"--x", {"Content-Type": "multipart/form-data; boundary=x"})
    assert "--data-binary" in form.error["message"]


async def test_uploads_are_limited_and_leave_nothing_behind(http: Gateway, connect: Connect) -> None:
    """50 MB and a byte are refused, said beforehand or found out on the way; what came so far is removed."""
    limit = 50 << 20
    said = await http.manage("POST", "functions/hello", b"x", {"Content-Length": str(limit + 1)})
    assert (said.status, said.error["type"]) == (413, "too_large")

    def pieces() -> Iterator[bytes]:
        for _ in range(50):
            yield bytes(1 << 20)
        yield b"x"

    found_out = await http.manage("POST", "functions/hello", pieces())
    assert (found_out.status, found_out.error["type"]) == (413, "too_large")
    operator = await connect("operator")
    assert await ObjectStore(operator, storage.INCOMING).names() == []


@pytest.mark.usefixtures("registry")
async def test_large_package_comes_back_byte_for_byte(http: Gateway) -> None:
    """A package above what one message carries goes and comes as it is."""
    package = archive(main=HELLO, data=hashlib.shake_256(b"noise").digest(9 << 20))
    made = await http.manage("POST", "functions/large?handler=main:handler", package)
    assert made.status == 201
    assert (await http.manage("GET", "functions/large/code")).body == package


async def test_without_a_registry_management_says_so(http: Gateway, connect: Connect) -> None:
    """No registry is 503 with Retry-After, at once, and the upload does not stay."""
    for answer in (await http.manage("GET", "functions"), await http.manage("POST", "functions/hello", HELLO)):
        assert (answer.status, answer.error["type"], answer.header("Retry-After")) == (503, "unavailable", "1")
    assert await ObjectStore(await connect("operator"), storage.INCOMING).names() == []


async def test_wrong_requests_have_the_one_form_of_errors(http: Gateway) -> None:
    """What FastAPI refuses looks like what the platform refuses."""
    cases = [
        ("GET", "nothing", 404, "not_found"),
        ("DELETE", "functions", 405, "method_not_allowed"),
        ("GET", "functions/hello?version=x", 400, "bad_request"),
        ("GET", "functions/hello?version=0", 400, "bad_request"),
    ]
    for method, path, status, kind in cases:
        answer = await http.manage(method, path)
        assert (answer.status, answer.error["type"], answer.error["code"]) == (status, kind, status), path
    assert (await http.manage("DELETE", "functions")).header("Allow")
    broken = await http.manage("PATCH", "functions/hello", b"{", {"Content-Type": "application/json"})
    assert (broken.status, broken.error["type"]) == (400, "bad_request")


async def test_nodes_and_instances(http: Gateway, connect: Connect) -> None:
    """Every node with a lease is asked; one that is gone is left out; rows are flat and sorted."""
    worker = await connect("worker")
    nodes = Bucket(worker, storage.NODES)
    for node in ("n2", "n1", "dead"):
        lease = NodeLease(
            node=node,
            epoch=1,
            client=Client(server="s", id=1),
            memory_mb=512,
            cores=2,
            isolation=["process", "sandbox"],
        )
        await nodes.put(node, records.encode(lease))

    async def serve(node: str, *instances: str) -> None:
        rows = [
            InstanceRecord(
                instance=instance,
                function=f"f-{node}",
                version=1,
                node=node,
                state="idle",
                pid=1,
                calls=1,
                age_s=1.0,
                idle_s=1.0,
                memory_mb=5.0,
            )
            for instance in instances
        ]
        await worker.subscribe(
            subjects.node_instances(node), lambda _s, reply, _h, _p: worker.publish(reply, records.encode(rows))
        )

    await serve("n1", "i2", "i1")
    await serve("n2", "i3")
    await worker.flush()
    async with asyncio.timeout(5):
        while len(listed := (await http.manage("GET", "nodes")).json) < 3:
            pass
    assert [row["node"] for row in listed] == ["dead", "n1", "n2"]
    assert not any(isinstance(value, dict | list) for row in listed for value in row.values())
    found = (await http.manage("GET", "instances")).json
    assert [(row["node"], row["instance"]) for row in found] == [("n1", "i1"), ("n1", "i2"), ("n2", "i3")]
    assert [row["instance"] for row in (await http.manage("GET", "instances?function=f-n2")).json] == ["i3"]


async def test_docs_need_no_network(http: Gateway) -> None:
    """/docs shows on a machine without internet: nothing in it comes from elsewhere, and all it names is there."""
    page = (await http.send("GET", "/docs")).body.decode()
    assert not re.findall(r"(?:src|href|url)\s*[=:]\s*[\"'](?:https?:)?//", page)
    assert '"validatorUrl": null' in page
    paths = re.findall(r"(?:src|href|url)\s*[=:]\s*[\"'](/[^\"']*)", page)
    assert len(paths) >= 4
    for path in paths:
        assert (await http.send("GET", path)).status == 200, path


async def test_files_outside_the_docs_are_not_served(http: Gateway) -> None:
    """Neither a listing nor a way up."""
    for path in ("/docs/static/", "/docs/static", "/docs/static/../core.py", "/docs/static/%2e%2e/core.py"):
        assert (await http.send("GET", path)).status in (401, 404), path


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


async def test_openapi_is_complete(http: Gateway) -> None:
    """Each operation has a name of its own, its parameters, an answer with a schema, errors and the token."""
    described = (await http.send("GET", "/openapi.json")).json
    assert described["openapi"].startswith("3.1")
    operations = {
        (method.upper(), path): operation
        for path, item in described["paths"].items()
        for method, operation in item.items()
    }
    assert {
        ("GET", "/api/v1/functions"),
        ("POST", "/api/v1/functions/{name}"),
        ("PUT", "/api/v1/functions/{name}"),
        ("GET", "/api/v1/functions/{name}"),
        ("PATCH", "/api/v1/functions/{name}"),
        ("DELETE", "/api/v1/functions/{name}"),
        ("GET", "/api/v1/functions/{name}/code"),
        ("GET", "/api/v1/functions/{name}/versions"),
        ("POST", "/api/v1/functions/{name}/rollback"),
        ("GET", "/api/v1/functions/{name}/logs"),
        ("POST", "/api/v1/functions/{name}/pause"),
        ("POST", "/api/v1/functions/{name}/resume"),
        ("GET", "/api/v1/schedules"),
        ("GET", "/api/v1/invocations/{id}"),
        ("DELETE", "/api/v1/invocations/{id}"),
        ("GET", "/api/v1/dlq"),
        ("GET", "/api/v1/dlq/{sequence}"),
        ("POST", "/api/v1/dlq/{function}/redrive"),
        ("DELETE", "/api/v1/dlq/{function}"),
        ("GET", "/api/v1/instances"),
        ("GET", "/api/v1/nodes"),
        ("POST", "/api/v1/nodes/{node}/drain"),
        ("POST", "/api/v1/nodes/{node}/undrain"),
        ("GET", "/api/v1/load"),
        ("GET", "/api/v1/scaler/log"),
    } == set(operations)
    names = [operation["operationId"] for operation in operations.values()]
    assert len(set(names)) == len(names)
    for reference in _references(described):
        place = described
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
    for (_, path), operation in operations.items():
        declared = {parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "path"}
        assert declared == set(re.findall(r"{(\w+)}", path))
        success = next(answer for status, answer in operation["responses"].items() if status.startswith("2"))
        assert all(content["schema"] for content in success["content"].values())
        assert "ErrorBody" in json.dumps(operation["responses"]["default"])
        assert operation["security"]
    deploy = operations["POST", "/api/v1/functions/{name}"]
    assert {"memory", "handler", "filename", "reserved", "scale_on"} <= {
        parameter["name"] for parameter in deploy["parameters"]
    }
    assert set(deploy["requestBody"]["content"]) == {"application/octet-stream", "application/json"}
