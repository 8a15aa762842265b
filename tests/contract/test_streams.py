"""The streams and buckets: one JSON file each, for our bootstrap and for the nats CLI alike."""

import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mayfly_broker import bootstrap
from mayfly_broker.config import make_passwords
from mayfly_broker.server import EmbeddedServer
from mayfly_chassis.bus import Bus
from mayfly_proto import storage, subjects
from tests.conftest import Connect

FOLDER = Path(__file__).parents[2] / "broker_config"
CONFIGURATIONS: dict[str, dict[str, Any]] = {name: json.loads(raw) for name, raw in bootstrap.configurations()}

# Buckets that services hold a copy of, by the republish feed.
MIRRORED = {storage.FUNCTIONS, storage.VERSIONS, storage.ROUTES, storage.NODES, storage.ROUTERS, storage.TARGETS}


@pytest.fixture
async def empty(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A server without any stream."""
    with EmbeddedServer(tmp_path / "empty", passwords=make_passwords()) as server:
        yield server


async def _operator(server: EmbeddedServer) -> Bus:
    return await Bus.connect(
        server.url, name="test", role="operator", user="operator", password=server.passwords["operator"]
    )


async def _info(bus: Bus, stream: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads((await bus.request(subjects.stream_info(stream))).payload)
    return answer


def test_nothing_is_forgotten_or_left_over() -> None:
    """Each stream, bucket and object store that proto names has its file, and there are no others."""
    assert set(CONFIGURATIONS) == {
        *storage.STREAMS,
        *map(subjects.kv_stream, storage.BUCKETS),
        *map(subjects.object_stream, storage.OBJECT_STORES),
    }


def test_the_files_are_where_people_look() -> None:
    """broker_config/streams and broker_config/buckets show the files that the package ships."""
    shown = {path.name for folder in ("streams", "buckets") for path in (FOLDER / folder).glob("*.json")}
    assert shown == {f"{name}.json" for name in (*storage.STREAMS, *storage.BUCKETS, *storage.OBJECT_STORES)}


@pytest.mark.parametrize("bucket", storage.BUCKETS)
def test_buckets_are_key_value_buckets(bucket: str) -> None:
    """Each bucket listens where proto says, and has what a KV bucket needs to be one to any client."""
    config = CONFIGURATIONS[subjects.kv_stream(bucket)]
    assert config["subjects"] == [subjects.kv(bucket, ">")]
    assert config["storage"] == "file", "a memory bucket vanishes with the server"
    assert config["max_msgs_per_subject"] == 1
    assert config["discard"] == "new"
    assert config["allow_rollup_hdrs"] and config["deny_delete"] and config["allow_direct"] and config["allow_msg_ttl"]


@pytest.mark.parametrize("bucket", storage.BUCKETS)
def test_only_mirrored_buckets_republish_and_leave_markers(bucket: str) -> None:
    """A mirror hears of every change, expiry included; a bucket that nobody mirrors pays for neither."""
    config = CONFIGURATIONS[subjects.kv_stream(bucket)]
    if bucket in MIRRORED:
        assert config["republish"] == {"src": subjects.kv(bucket, ">"), "dest": subjects.kv_feed_of(bucket)}
        assert config["subject_delete_marker_ttl"] > 0
    else:
        assert "republish" not in config
        assert "subject_delete_marker_ttl" not in config


@pytest.mark.parametrize("bucket", storage.OBJECT_STORES)
def test_object_stores_have_the_standard_layout(bucket: str) -> None:
    """`nats object` finds chunks and names where it looks for them."""
    config = CONFIGURATIONS[subjects.object_stream(bucket)]
    assert config["subjects"] == [subjects.object_chunks(bucket, ">"), subjects.object_meta(bucket, ">")]
    assert config["allow_rollup_hdrs"] and config["allow_direct"]


def test_streams_take_what_is_theirs_and_are_bounded() -> None:
    """None can fill the disk by itself, and together they reserve no more than a small one has."""
    takes = {
        storage.EVENTS: [subjects.EVENTS],
        storage.ASYNC: [subjects.ASYNC_CALLS],
        storage.SCHEDULES: [subjects.SCHEDULES, subjects.ALL_DUE],
        storage.RESULTS: [subjects.ALL_RESULTS],
        storage.DLQ: [subjects.DEAD_LETTERS],
        storage.LOGS: [subjects.ALL_LOGS],
        storage.USAGE: [subjects.ALL_USAGE],
        storage.DECISIONS: [subjects.DECISIONS],
    }
    assert set(takes) == set(storage.STREAMS)
    for name, subject in takes.items():
        assert CONFIGURATIONS[name]["subjects"] == subject
        assert CONFIGURATIONS[name]["max_consumers"] == 100_000, "left to the server it stops at 1,000"
        # A stream with schedules cannot refuse what is new, and must not drop what is old.
        assert (CONFIGURATIONS[name]["max_bytes"] > 0) == (name != storage.SCHEDULES)
    assert sum(max(0, CONFIGURATIONS[name]["max_bytes"]) for name in storage.STREAMS) <= 3 * 1024**3
    assert all(config["max_bytes"] == -1 for name, config in CONFIGURATIONS.items() if name not in storage.STREAMS)


def test_what_waits_to_be_done_is_refused_rather_than_dropped() -> None:
    """Of events, durable calls and dead letters nothing goes by age or for want of room; the rest may."""
    for name in (storage.EVENTS, storage.ASYNC, storage.DLQ):
        assert CONFIGURATIONS[name]["discard"] == "new"
        assert CONFIGURATIONS[name]["max_age"] == 0
    for name in (storage.RESULTS, storage.LOGS, storage.USAGE):
        assert CONFIGURATIONS[name]["discard"] == "old"
        assert CONFIGURATIONS[name]["max_age"] > 0
    # Each has a subject of its own, which the server keeps in memory: 0.23 KB measured.
    assert 0 < CONFIGURATIONS[storage.RESULTS]["max_msgs"] <= 1_000_000


async def test_bootstrap_may_be_repeated(connect: Connect) -> None:
    """A second bootstrap changes nothing: what is stored stays."""
    bus = await connect("operator")
    await bus.request(subjects.kv(storage.FUNCTIONS, "hello"), b"{}")
    before = await _info(bus, subjects.kv_stream(storage.FUNCTIONS))
    await bootstrap.bootstrap(bus)
    after = await _info(bus, subjects.kv_stream(storage.FUNCTIONS))
    assert after["config"] == before["config"]
    assert after["state"]["messages"] == 1


async def test_bootstrap_brings_old_settings_up_to_date(connect: Connect) -> None:
    """A stream made with other settings gets ours, and keeps its messages."""
    bus = await connect("operator")
    old = CONFIGURATIONS[storage.LOGS] | {"max_age": 3_600_000_000_000}
    await bus.request(subjects.stream_update(storage.LOGS), json.dumps(old).encode())
    await bus.request(subjects.log("hello", "i1"), b"{}")
    await bootstrap.bootstrap(bus)
    info = await _info(bus, storage.LOGS)
    assert info["config"]["max_age"] == CONFIGURATIONS[storage.LOGS]["max_age"]
    assert info["state"]["messages"] == 1


async def test_bootstrap_says_what_the_server_refuses(empty: EmbeddedServer) -> None:
    """What cannot be changed (here: memory to file) is an error with the stream's name and the server's reason."""
    bus = await _operator(empty)
    wrong = CONFIGURATIONS[storage.USAGE] | {"storage": "memory"}
    await bus.request(subjects.stream_create(storage.USAGE), json.dumps(wrong).encode())
    with pytest.raises(bootstrap.BootstrapError, match=r"stream USAGE: .*storage"):
        await bootstrap.bootstrap(bus)
    await bus.close()


async def test_the_cli_takes_the_same_files(empty: EmbeddedServer, nats_cli: str) -> None:
    """`nats stream add --config` makes each of them; `nats kv` and `nats object` then know the buckets; and our
    bootstrap finds nothing to change."""
    access = [nats_cli, "--server", empty.url, "--user", "operator", f"--password={empty.passwords['operator']}"]

    def run(*arguments: str) -> str:
        return subprocess.run([*access, *arguments], check=True, capture_output=True, text=True, timeout=30).stdout

    files = sorted([*(FOLDER / "streams").glob("*.json"), *(FOLDER / "buckets").glob("*.json")])
    assert len(files) == len(CONFIGURATIONS)
    for file in files:
        run("stream", "add", "--config", str(file))

    listed = run("kv", "ls", "--names").split()
    assert sorted(listed) == sorted(storage.BUCKETS)
    assert sorted(run("object", "ls", "--names").split()) == sorted(storage.OBJECT_STORES)
    run("kv", "put", storage.FUNCTIONS, "hello", "{}")
    assert run("kv", "get", storage.FUNCTIONS, "hello", "--raw").strip() == "{}"

    bus = await _operator(empty)
    by_cli = {name: (await _info(bus, name))["config"] for name in CONFIGURATIONS}
    await bootstrap.bootstrap(bus)
    by_us = {name: (await _info(bus, name))["config"] for name in CONFIGURATIONS}
    assert by_cli == by_us
    await bus.close()
