"""Durable calls, events and dead letters on a whole platform: by command, by HTTP, by bare NATS."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

import mayfly
from tests.acceptance.conftest import Platform

HANDLER = """
import time

def handler(event, context):
    if event == "raise":
        raise ValueError("no good")
    if event == "sleep":
        time.sleep(3)
    return {"got": event}
"""
QUICK = "retries = { attempts = 2, backoff = 0.1 }"


def deploy(platform: Platform, folder: Path, name: str, *settings: str, code: str = HANDLER) -> None:
    project = folder / name
    project.mkdir(exist_ok=True)
    (project / "main.py").write_text(code)
    lines = [f'[functions."{name}"]', 'handler = "main:handler"', "timeout = 5", *settings]
    (project / "mayfly.toml").write_text("\n".join(lines))
    platform.cli("deploy", str(project))


def rows(platform: Platform, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(platform.cli(*arguments, "-o", "json").stdout)
    return found


def until(condition: Any, *, timeout_s: float = 20) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)
    return found


def post(platform: Platform, path: str, body: bytes, **fields: str) -> tuple[int, Any]:
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    with urlopen(Request(platform.http + path, body, headers, method="POST"), timeout=30) as reply:
        return reply.status, json.loads(reply.read())


def test_a_durable_call_has_a_result(platform: Platform, tmp_path: Path) -> None:
    """By command and by HTTP: an id at once, and later exactly what a call that waits would have got."""
    deploy(platform, tmp_path, "durable-echo")
    identity = platform.cli("invoke", "durable-echo", "--async", "-d", '{"n":1}').stdout.strip()
    waited = platform.cli("invoke", "durable-echo", "-d", '{"n":1}').stdout
    assert platform.cli("result", identity, "--wait", "20").stdout == waited == '{"got":{"n":1}}'
    status, accepted = post(platform, "/async-function/durable-echo", b"[1]", Content_Type="application/json")
    assert (status, accepted["state"]) == (202, "pending")
    (record,) = rows(platform, "result", accepted["id"], "--wait", "20")
    assert (record["state"], record["attempts"], record["result.got"]) == ("succeeded", 1, "1")


def test_a_bare_request_is_a_durable_call(platform: Platform, tmp_path: Path, nats_cli: str) -> None:
    """The sequence in JetStream's acknowledgement is the id; a name that no function has ends as a dead letter."""
    deploy(platform, tmp_path, "durable-bare")

    def request(subject: str) -> int:
        command = [nats_cli, "--server", platform.nats, "req", "--raw", subject, '{"n":1}']
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=platform.environ, check=True)
        return int(json.loads(done.stdout)["seq"])

    assert platform.cli("result", f"A{request('async.durable-bare')}", "--wait", "20").stdout == '{"got":{"n":1}}'
    unknown = request("async.durable-nobody")
    (letter,) = until(lambda: rows(platform, "dlq", "ls", "durable-nobody"), timeout_s=20)
    assert letter["invocation"] == f"A{unknown}"
    assert "durable-nobody" in letter["reason"]


def test_a_failure_ends_in_the_dead_letters_until_it_is_fixed(platform: Platform, tmp_path: Path) -> None:
    """Exit code 3 with the reason; after a fixed version, redrive runs it for that function alone and empties them."""
    deploy(platform, tmp_path, "durable-broken", QUICK)
    identity = platform.cli("invoke", "durable-broken", "--async", "-d", '"raise"').stdout.strip()
    failed = platform.cli("result", identity, "--wait", "20", check=False)
    assert (failed.returncode, "ValueError: no good" in failed.stderr) == (3, True)
    (letter,) = rows(platform, "dlq", "ls", "durable-broken")
    assert (letter["invocation"], letter["attempts"]) == (identity, 2)
    assert "raise" in platform.cli("dlq", "show", str(letter["sequence"])).stdout
    deploy(platform, tmp_path, "durable-broken", QUICK, code="def handler(event, context):\n    return event\n")
    assert platform.cli("dlq", "redrive", "durable-broken").stdout == "1 of durable-broken run again\n"
    assert rows(platform, "dlq", "ls", "durable-broken") == []
    until(lambda: platform.cli("result", identity, check=False).stdout == "raise")


def test_a_call_for_later_can_be_taken_back(platform: Platform, tmp_path: Path) -> None:
    """--in runs when it is time; what waits for its time is cancelled, what runs or is over is not."""
    deploy(platform, tmp_path, "durable-later")
    started = time.monotonic()
    soon = platform.cli("invoke", "durable-later", "--in", "1.5s", "-d", "1").stdout.strip()
    late = platform.cli("invoke", "durable-later", "--in", "1h", "-d", "2").stdout.strip()
    until(lambda: rows_of(platform, late)["state"] == "scheduled")
    assert platform.cli("cancel", late).stdout == f"cancelled {late}\n"
    assert rows_of(platform, late)["state"] == "cancelled"
    assert platform.cli("cancel", late, check=False).returncode == 1
    assert platform.cli("result", soon, "--wait", "20").stdout == '{"got":1}'
    assert time.monotonic() - started >= 1.5
    running = platform.cli("invoke", "durable-later", "--async", "-d", '"sleep"').stdout.strip()
    until(
        lambda: any(row["state"] == "busy" for row in rows(platform, "instances") if row["function"] == "durable-later")
    )
    assert "started" in platform.cli("cancel", running, check=False).stderr


def rows_of(platform: Platform, identity: str) -> dict[str, Any]:
    """The record of a call, be it over or not."""
    found: dict[str, Any] = json.loads(platform.cli("result", identity, "-o", "json", check=False).stdout)[0]
    return found


def test_a_repeated_key_gets_the_first_result(platform: Platform, tmp_path: Path) -> None:
    """Whether it is waited for or not."""
    deploy(platform, tmp_path, "durable-keyed")
    ids = [
        platform.cli("invoke", "durable-keyed", "--async", "-d", str(number), "--idempotency-key", "k").stdout.strip()
        for number in (1, 2)
    ]
    assert [platform.cli("result", each, "--wait", "20").stdout for each in ids] == ['{"got":1}'] * 2
    assert platform.cli("invoke", "durable-keyed", "-d", "3", "--idempotency-key", "k").stdout == '{"got":1}'


def test_a_result_too_large_to_keep_is_given_all_the_same(platform: Platform, tmp_path: Path) -> None:
    """To whoever waits and to whoever asks later; the next call with the key is a first one, at once."""
    code = "def handler(event, context):\n    return b'x' * 7_000_000\n"
    deploy(platform, tmp_path, "durable-huge", code=code)
    for _ in range(2):
        assert len(platform.cli("invoke", "durable-huge", "--idempotency-key", "k").stdout) == 7_000_000
    identity = platform.cli("invoke", "durable-huge", "--async", "--idempotency-key", "k").stdout.strip()
    assert len(platform.cli("result", identity, "--wait", "20").stdout) == 7_000_000


def test_an_event_runs_its_function(platform: Platform, tmp_path: Path) -> None:
    """By command and by HTTP, and a CloudEvent comes as one; who is paused gets it when he is resumed."""
    code = "def handler(event, context):\n    print(event, context.headers.get('ce-id'))\n"
    deploy(platform, tmp_path, "durable-seen", 'triggers = [{ event = "durable.*.created" }]', code=code)

    def logged(text: str) -> bool:
        return text in platform.cli("logs", "durable-seen").stdout

    assert platform.cli("publish", "durable.eu.created", "first").stdout.startswith("E")
    until(lambda: logged("first None"))
    event = {"specversion": "1.0", "id": "n7", "source": "/shop", "type": "created", "data": "second"}
    kind = {"Content_Type": "application/cloudevents+json"}
    status, told = post(platform, "/event/durable/us/created", json.dumps(event).encode(), **kind)
    assert (status, told["subject"]) == (202, "event.durable.us.created")
    until(lambda: logged("second n7"))
    platform.cli("pause", "durable-seen")
    platform.cli("publish", "durable.eu.created", "third")
    assert platform.cli("resume", "durable-seen").stdout == "durable-seen runs again: 1 have waited\n"
    until(lambda: logged("third None"), timeout_s=5)


def test_schedules_are_listed(platform: Platform, tmp_path: Path) -> None:
    """With their next times, in their zone."""
    schedule = 'triggers = [{ schedule = "30 4 * * *", timezone = "Europe/Amsterdam" }]'
    deploy(platform, tmp_path, "durable-timed", schedule)
    (row,) = rows(platform, "schedules", "durable-timed", "--count", "2")
    assert (row["schedule"], row["timezone"], row["paused"]) == ("30 4 * * *", "Europe/Amsterdam", False)
    assert [each[11:16] for each in row["next"].split(",")] == ["04:30", "04:30"]


def test_the_largest_event_that_is_taken_still_fits_a_dead_letter(
    platform: Platform, tmp_path: Path, nats_cli: str
) -> None:
    """Whatever an acknowledgement was given for can be run, fail, and be buried; what is larger is refused at once."""
    code = "def handler(event, context):\n    raise ValueError(len(event))\n"
    deploy(platform, tmp_path, "durable-large", QUICK, 'triggers = [{ event = "large.>" }]', code=code)

    def publish(size: int) -> dict[str, Any]:
        command = [nats_cli, "--server", platform.nats, "req", "--raw", "event.large.x", "--force-stdin"]
        done = subprocess.run(command, input=b"x" * size, capture_output=True, timeout=30, env=platform.environ)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    assert "maximum allowed" in publish(8 * 1024 * 1024 - 1)["error"]["description"]
    assert publish(8 * 1024 * 1024 - 32 * 1024)["seq"]
    (letter,) = until(lambda: rows(platform, "dlq", "ls", "durable-large"), timeout_s=40)
    assert letter["size"] == 8 * 1024 * 1024 - 32 * 1024
    platform.cli("dlq", "purge", "durable-large")


async def test_the_client(platform: Platform, tmp_path: Path) -> None:
    """The same from Python; a caller without credentials may start it, the operator knows what became of it."""
    deploy(platform, tmp_path, "durable-sdk", QUICK)
    async with mayfly.Client(nats=platform.nats) as anybody, mayfly.Client(platform.data) as operator:
        identity = await anybody.invoke_async("durable-sdk", {"n": 1})
        assert (await operator.result(identity, wait_s=20)).value == {"got": {"n": 1}}
        with pytest.raises(mayfly.CallError, match="no good"):
            await operator.result(await anybody.invoke_async("durable-sdk", "raise"), wait_s=20)
        (letter,) = await operator.dead_letters("durable-sdk")
        assert (await operator.dead_letter(letter.sequence)).payload == b"raise"
        assert (await operator.purge("durable-sdk")).count == 1
