"""Scaling as people meet it: settings, top, nodes, drains, machines that join, and 429s, with the installed command."""

import asyncio
import json
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from tests.acceptance import outside
from tests.acceptance.conftest import MAYFLY, Platform, running
from tests.pseudo_terminal import PseudoTerminal, terminal

SLEEPER = "import time\n\ndef handler(event, context):\n    time.sleep(event or 0)\n    return event\n"
ECHO = "def handler(event, context):\n    return event\n"


def save(folder: Path, name: str, source: str) -> str:
    path = folder / f"{name}.py"
    path.write_text(source)
    return str(path)


def test_settings_are_set_shown_and_set_back(platform: Platform, tmp_path: Path) -> None:
    """Each by an option; `describe` shows them all; `config --unset` gives the default back."""
    options = {
        "--keep-alive": "30",
        "--reserved": "2",
        "--weight": "1.5",
        "--provisioned": "3 from 0 8 * * MON-FRI to 0 18 * * MON-FRI in Europe/Amsterdam",
        "--scale-on": "jobs.waiting=5",
        "--rate-limit": "100",
        "--caller-rate-limit": "10",
    }
    given = [word for option in options.items() for word in option]
    platform.cli("deploy", save(tmp_path, "settings", ECHO), *given, "--no-pre-warm")
    (found,) = json.loads(platform.cli("describe", "settings", "-o", "json").stdout)
    assert found["keep_alive"] == 30
    assert [found[field] for field in ("reserved", "weight", "rate_limit", "caller_rate_limit")] == [2, 1.5, 100, 10]
    assert (found["pre_warm"], found["provisioned.0.instances"]) == (False, 3)
    assert (found["scale_on.0.metric"], found["scale_on.0.target"]) == ("jobs.waiting", 5)
    platform.cli("config", "settings", "--keep-alive", "auto", "--unset", "scale_on", "--unset", "provisioned")
    (found,) = json.loads(platform.cli("describe", "settings", "-o", "json").stdout)
    assert (found["keep_alive"], found["scale_on"], found["reserved"]) == ("auto", "", 2)
    refused = platform.cli("config", "settings", "--reserved", "101", check=False)
    assert (refused.returncode, refused.stderr) == (
        1,
        "Error: reserved: 101 is above max_instances, which is 100 (400 bad_request)\n",
    )
    platform.cli("rm", "settings")


@asynccontextmanager
async def calling(platform: Platform, function: str) -> AsyncIterator[None]:
    """One call after the other."""

    async def go_on() -> None:
        async with outside.client(platform.nats) as connection:
            while (await outside.call(connection, function, b"0.01")).code == 200:
                pass

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        assert not task.done(), "a call failed"
        task.cancel()


async def test_top_shows_what_runs(platform: Platform) -> None:
    """Live on a terminal: the node with its memory, the function with its rate; q ends it."""
    outside.deploy(platform, "top-seen", SLEEPER)

    def person(screen: PseudoTerminal) -> None:
        screen.shows(
            r"(?s)n1 +up +[#.]{10} +\d+ % of 16384 .*\btop-seen +[1-9]\d* +\d+ +\d+ +[1-9][\d.]* ", timeout_s=30
        )
        screen.type("q")
        assert screen.ends() == 0

    async with calling(platform, "top-seen"):
        with terminal([MAYFLY, "top"], platform.environ) as screen:
            await asyncio.to_thread(person, screen)
    (row,) = (
        row
        for row in json.loads(platform.cli("top", "-o", "json").stdout)["functions"]
        if row["function"] == "top-seen"
    )
    assert row["ready"] >= 1
    outside.manage(platform, "DELETE", "functions/top-seen")


@contextmanager
def joined(platform: Platform, folder: Path, node: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A worker that has joined."""
    command = [MAYFLY, "worker", "--join", platform.nats, "--credential", platform.data / "secrets" / "worker"]
    command += ["--node", node, "--memory", "512", "--directory", folder / node, *options]
    log = (folder / f"{node}.log").open("w+")
    with log, subprocess.Popen(command, env=platform.environ, stdout=log, stderr=log, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def states(platform: Platform, function: str) -> list[tuple[str, str]]:
    return [(row["node"], row["state"]) for row in outside.instances(platform, function)]


def row_of(platform: Platform, node: str) -> dict[str, object] | None:
    rows = json.loads(platform.cli("nodes", "-o", "json").stdout)
    return next((row for row in rows if row["node"] == node), None)


async def test_a_machine_joins_works_and_leaves(platform: Platform, tmp_path: Path) -> None:
    """One command and one file make a node; functions that ask for its label run there; SIGTERM lets calls finish."""
    with joined(platform, tmp_path, "far", "--label", "gpu=yes") as worker:
        row = await outside.until(lambda: row_of(platform, "far"))
        assert (row["memory_mb"], row["labels"], row["state"]) == (512, "gpu=yes", "up")
        arguments = " ".join(Path(f"/proc/{worker.pid}/cmdline").read_text().split("\0"))
        assert arguments.endswith("-m mayfly_worker ")
        assert (platform.data / "secrets" / "worker").read_text() not in arguments

        outside.deploy(platform, "on-gpu", SLEEPER, node_labels={"gpu": "yes"}, timeout=30)
        async with outside.client(platform.nats) as connection:
            call = asyncio.create_task(outside.call(connection, "on-gpu", b"5"))
            await outside.until(lambda: call.done() or ("far", "busy") in states(platform, "on-gpu"))
            assert not call.done(), call.result()
            worker.send_signal(signal.SIGTERM)
            assert (await call).code == 200
        assert await asyncio.to_thread(worker.wait, 20) == 0
        assert row_of(platform, "far") is None
    outside.manage(platform, "DELETE", "functions/on-gpu")


async def test_a_name_of_the_living_is_kept(platform: Platform, tmp_path: Path) -> None:
    """A second worker of one name is refused; that of one killed with -9 is taken at once; --replace takes any."""
    with joined(platform, tmp_path, "same") as first:
        taken = await outside.until(lambda: row_of(platform, "same"))
        with joined(platform, tmp_path, "same") as second:
            assert await asyncio.to_thread(second.wait, 20) == 1
        outside.kill_9(first.pid)
        await asyncio.to_thread(first.wait)
    with joined(platform, tmp_path, "same") as third:
        await outside.until(lambda: (row_of(platform, "same") or taken)["epoch"] != taken["epoch"])
        assert third.poll() is None
        with joined(platform, tmp_path, "same", "--replace") as fourth:
            assert await asyncio.to_thread(third.wait, 20) == 1  # the newer one has the name
            assert fourth.poll() is None
            fourth.terminate()
            assert await asyncio.to_thread(fourth.wait, 20) == 0


async def test_throttled_says_when_to_come_back(platform: Platform) -> None:
    """Over the rate a caller gets 429 with Retry-After by HTTP, and exit code 6 by the command."""
    outside.deploy(platform, "limited", ECHO, rate_limit=0.05)
    answers = [await asyncio.to_thread(outside.http_call, platform.http, "POST", "/function/limited") for _ in range(3)]
    assert [answer.code for answer in answers] == [200, 429, 429]
    assert 1 <= int(answers[1].headers["Retry-After"]) <= 20
    assert answers[1].error["type"] == "throttled"
    refused = platform.cli("invoke", "limited", check=False)
    assert refused.returncode == 6
    assert re.search(r"try again in \d+ s$", refused.stderr.strip())
    outside.manage(platform, "DELETE", "functions/limited")


async def test_limits_of_callers_are_their_own(platform: Platform) -> None:
    """One who calls too often does not use up what others may have."""
    outside.deploy(platform, "fair", ECHO, caller_rate_limit=0.05)
    async with outside.client(platform.nats) as one:
        assert [(await outside.call(one, "fair")).code for _ in range(2)] == [200, 429]
    answer = await asyncio.to_thread(outside.http_call, platform.http, "POST", "/function/fair")
    assert answer.code == 200
    fields = {"Mayfly-Caller": "another", "X-Forwarded-For": "1.2.3.4"}
    answer = await asyncio.to_thread(outside.http_call, platform.http, "POST", "/function/fair", None, fields)
    assert answer.code == 429
    outside.manage(platform, "DELETE", "functions/fair")


async def test_a_drained_node_is_empty_and_comes_back(tmp_path: Path) -> None:
    """`drain --wait` returns when a node carries nothing; calls go on meanwhile; it stays drained until undrained."""
    with running(tmp_path, "--nodes", "2", "--node-memory", "512") as platform:
        outside.deploy(platform, "steady", SLEEPER, min_instances=2, max_instances=4, memory=128)
        await outside.until(lambda: len(outside.instances(platform, "steady")) == 2)
        await outside.until(lambda: "  leader  lead  " in platform.cli("scaler", "log").stdout)  # it starts last
        async with calling(platform, "steady"):
            for node, other in (("n1", "n2"), ("n2", "n1")):
                drained = await asyncio.to_thread(platform.cli, "drain", node, "--why", "new disk", "--wait")
                assert drained.stdout.splitlines()[-1] == f"{node} is empty"
                row = row_of(platform, node)
                assert row is not None
                assert (row["state"], row["drain_by"], row["drain_why"], row["ready"]) == (
                    "empty",
                    "operator",
                    "new disk",
                    0,
                )
                await outside.until(lambda other=other: len(on(platform, other)) >= 2)
                assert platform.cli("undrain", node).stdout == f"{node} takes instances again\n"
                await outside.until(lambda node=node: (row_of(platform, node) or {})["state"] == "up")
        assert platform.cli("drain", "n9", check=False).returncode == 4
        log = platform.cli("scaler", "log").stdout
        assert re.search(r"node n1  drain", log)
        assert re.search(r"node n1  undrain", log)


def on(platform: Platform, node: str) -> list[dict[str, object]]:
    return [row for row in outside.instances(platform) if row["node"] == node]
