"""What makes functions run beside events and calls, and what they set going themselves."""

import asyncio
import base64
import hashlib
import json
import subprocess
from collections.abc import Callable

import nats
import pytest
from nats.js.api import StreamConfig

from tests.acceptance import outside
from tests.acceptance.conftest import Platform
from tests.acceptance.witness import RAISE, Run, Word, letters, outcome, publish, witness


async def operator(platform: Platform) -> nats.NATS:
    return await nats.connect(platform.nats, user=platform.user, password=platform.password)


async def test_results_and_failures_have_destinations(platform: Platform) -> None:
    """The result as it is, or the error as JSON, with the id and the function that it came from, and one deeper."""
    async with witness() as seen, outside.client(platform.nats) as connection:

        async def works(run: Run) -> Word:
            return RAISE if run.event == "bad" else {"return": {"made of": run.event}}

        seen.script("chain-from", works)
        destinations = {"on_success": "event.chain.good", "on_failure": "event.chain.bad"}
        seen.deploy(platform, "chain-from", {"event": "chain.from"}, retries={"attempts": 1}, **destinations)
        seen.deploy(platform, "chain-good", {"event": "chain.good"})
        seen.deploy(platform, "chain-bad", {"event": "chain.bad"})
        good = await publish(connection, "event.chain.from", "good")
        bad = await publish(connection, "event.chain.from", "bad")
        await seen.until(lambda: seen.of("chain-good") and seen.of("chain-bad"))
        (success,), (failure,) = seen.of("chain-good"), seen.of("chain-bad")
        assert success.event == {"made of": "good"}
        assert failure.event["error"]["message"] == "ValueError: told to raise"
        for run, source in ((success, good), (failure, bad)):
            headers = run.told["headers"]
            assert headers["Mayfly-Source"] == f"E{source}"
            assert (headers["Mayfly-Source-Function"], headers["Mayfly-Depth"]) == ("chain-from", "1")
        assert [letter["payload"] for letter in letters(platform, "chain-from")] == ["bad"]


async def test_a_function_publishes_and_calls(platform: Platform) -> None:
    """What its manifest allows, and the other one knows where it came from; else it fails and says so."""
    async with witness() as seen, outside.client(platform.nats) as connection:

        async def works(run: Run) -> Word:
            if run.event == "further":
                return {"publish": [["event.chain.next", "published"]], "call": [["chain-called", "asked"]]}
            return {"publish": [["event.elsewhere", 1]]}

        seen.script("chain-doer", works)
        allowed = {"publish": ["event.chain.*"], "call": ["chain-called"]}
        seen.deploy(platform, "chain-doer", retries={"attempts": 1}, **allowed)
        seen.deploy(platform, "chain-called")
        seen.deploy(platform, "chain-next", {"event": "chain.next"})
        doer = f"A{await publish(connection, 'async.chain-doer', 'further')}"
        known = await asyncio.to_thread(outcome, platform, doer, 20)
        assert (known["state"], known["result"]) == ("succeeded", "well")
        await seen.until(lambda: seen.of("chain-next"))
        for name, event in (("chain-called", "asked"), ("chain-next", "published")):
            (run,) = seen.of(name)
            assert run.event == event
            assert run.told["headers"]["Mayfly-Source"] == doer
            assert run.told["headers"]["Mayfly-Depth"] == "1"
        refused = await publish(connection, "async.chain-doer", "elsewhere")
        known = await asyncio.to_thread(outcome, platform, f"A{refused}", 20)
        assert known["state"] == "failed"
        assert "publish in the manifest" in known["error"]["message"]


@pytest.mark.parametrize("how", ["on_success", "publish", "call"])
async def test_a_circle_ends(platform: Platform, how: str) -> None:
    """After eight functions, as a dead letter that says `loop`; that is no failure that would pass by itself."""
    name = f"circle-{how.replace('_', '-')}"
    settings, word = {
        "on_success": ({"on_success": f"event.{name}"}, {}),
        "publish": ({"publish": ["event.>"]}, {"publish": [[f"event.{name}", "round"]]}),
        "call": ({"call": [name]}, {"call": [[name, "round"]]}),
    }[how]
    async with witness() as seen, outside.client(platform.nats) as connection:
        seen.script(name, word)
        seen.deploy(platform, name, {"event": name}, **settings)
        await publish(connection, f"event.{name}", "round")
        (letter,) = await outside.until(lambda: letters(platform, name))
        assert (letter["attempts"], letter["error"]["type"]) == (1, "loop")
        assert "through 8 functions" in letter["reason"]
        assert len(seen.of(name)) == (9 if how == "call" else 8), "the one that made the last call ran too"


@pytest.fixture
def uploaded(granting: Platform, request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Puts an object into the bucket, by the `nats` command where there is one."""
    try:
        command = str(request.getfixturevalue("nats_cli"))
    except pytest.skip.Exception:
        return lambda name, content: asyncio.run(_put(granting, name, content))
    arguments = [command, "--context", "mayfly", "object", "put", "uploads", "--force", "--no-progress", "--name"]

    def put(name: str, content: str) -> None:
        full = [*arguments, name]
        subprocess.run(full, input=content, env=granting.environ, check=True, capture_output=True, text=True)

    return put


async def _put(platform: Platform, name: str, content: str) -> None:
    connection = await operator(platform)
    await (await connection.jetstream().object_store("uploads")).put(name, content.encode())
    await connection.close()


async def test_an_object_runs_a_function(granting: Platform, uploaded: Callable[[str, str], None]) -> None:
    """Name, size and digest come as the event, and the function can read it; that one is deleted runs nothing."""
    content = "twelve bytes"
    async with witness() as seen:
        connection = await operator(granting)
        store = await connection.jetstream().create_object_store("uploads")
        seen.script("obj-put", {"read": ["uploads", "a file.txt"]})
        settings = {"objects": ["uploads"], "on_success": "event.obj.read", "memory": 64}
        seen.deploy(granting, "obj-put", {"object": "uploads"}, **settings)
        seen.deploy(granting, "obj-read", {"event": "obj.read"})
        await asyncio.to_thread(uploaded, "a file.txt", content)
        await seen.until(lambda: seen.of("obj-read"))
        (run,) = seen.of("obj-put")
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert (run.event["name"], run.event["size"]) == ("a file.txt", len(content))
        assert run.event["digest"] == f"SHA-256={digest}"
        assert seen.of("obj-read")[0].event == content
        seen.script("obj-put", {})
        await store.delete("a file.txt")
        await asyncio.to_thread(uploaded, "second", "2")
        await seen.until(lambda: [run for run in seen.of("obj-put") if run.event["name"] == "second"])
        assert [run.event["name"] for run in seen.of("obj-put")] == ["a file.txt", "second"]
        await connection.close()


async def test_a_stream_of_the_user_s_own_runs_a_function(granting: Platform) -> None:
    """At least once, as events are: what was stored before too if it says so, and failures end in its dead letters."""
    async with witness() as seen:
        connection = await operator(granting)
        await connection.jetstream().add_stream(StreamConfig(name="ORDERS", subjects=["orders.>"]))
        await publish(connection, "orders.eu.old", "old")

        async def works(run: Run) -> Word:
            return RAISE if run.event == "bad" else {}

        seen.script("own-stream", works)
        trigger = {"stream": "ORDERS", "subject": "orders.eu.*", "start": "all"}
        seen.deploy(granting, "own-stream", trigger, retries={"attempts": 2, "backoff": 0.1})
        await publish(connection, "orders.us.new", "not asked for")
        await publish(connection, "orders.eu.new", "new")
        bad = await publish(connection, "orders.eu.new", "bad")
        (letter,) = await outside.until(lambda: letters(granting, "own-stream"))
        assert (letter["invocation"], letter["subject"], letter["attempts"]) == (f"X{bad}", "orders.eu.new", 2)
        await seen.until(lambda: len(seen.of("own-stream")) == 4)
        assert sorted(run.event for run in seen.of("own-stream")) == ["bad", "bad", "new", "old"]
        await connection.close()


async def test_a_subject_of_core_nats_runs_a_function(granting: Platform) -> None:
    """Each message once, and the function knows its subject; one that nobody granted is refused."""
    async with witness() as seen:
        connection = await operator(granting)
        seen.deploy(granting, "own-core", {"subject": "sensors.*.heat"})
        for number in range(20):
            await connection.publish(f"sensors.s{number}.heat", json.dumps(number).encode())
        await connection.flush()
        await seen.until(lambda: len(seen.of("own-core")) == 20)
        assert sorted(run.event for run in seen.of("own-core")) == list(range(20))
        assert {run.told["cloud_event"]["nats_subject"] for run in seen.of("own-core")} == {
            f"sensors.s{number}.heat" for number in range(20)
        }
        settings = {"triggers": [{"subject": "stocks.>"}]}
        body = {"source": "def handler(event, context): pass", "filename": "x.py", "settings": settings}
        refused = outside.manage(granting, "POST", "functions/own-not", body)
        assert refused.code == 400
        assert "trigger_subjects" in refused.body.decode()
        await connection.close()


@pytest.mark.parametrize("mode", ["binary", "structured"])
async def test_cloud_events_keep_their_attributes(platform: Platform, mode: str) -> None:
    """From HTTP to the handler, and on to what its result is published as."""
    name = f"ce-{mode}"
    attributes = {"id": "n1", "source": "/shop", "type": "order.created", "specversion": "1.0", "tenant": "acme"}
    async with witness() as seen:
        seen.deploy(platform, name, {"event": name}, on_success=f"event.{name}.done")
        seen.deploy(platform, f"{name}-done", {"event": f"{name}.done"})
        if mode == "binary":
            headers = {f"ce-{key}": value for key, value in attributes.items()} | {"Content-Type": "application/json"}
            body = b'{"n": 1}'
        else:
            headers = {"Content-Type": "application/cloudevents+json"}
            body = json.dumps(attributes | {"data": {"n": 1}}).encode()
        assert outside.http_call(platform.http, "POST", f"/event/{name}", body, headers).code == 202
        await seen.until(lambda: seen.of(f"{name}-done"))
        (first,), (last,) = seen.of(name), seen.of(f"{name}-done")
        assert first.event == {"n": 1}
        for run in (first, last):
            found = run.told["cloud_event"]
            assert {key: found["attributes"].get(key) for key in attributes} == attributes
            assert (found["id"], found["source"], found["type"]) == ("n1", "/shop", "order.created")
