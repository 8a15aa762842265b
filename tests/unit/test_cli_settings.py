"""Settings as options, and machines' names as nodes'."""

from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mayfly.cli import settings, worker
from mayfly.cli.screen import bar, lines
from mayfly.cli.settings import settings_options
from mayfly_proto import names


def parsed(*arguments: str) -> Any:
    found: list[Any] = []

    @click.command()
    @settings_options
    def command(**options: Any) -> None:
        found.append(settings.given(options))

    done = CliRunner().invoke(command, arguments)
    return found[0] if found else done.output


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["--keep-alive", "auto"], {"keep_alive": "auto"}),
        (["--keep-alive", "2.5"], {"keep_alive": 2.5}),
        (["--no-pre-warm", "--reserved", "0"], {"pre_warm": False, "reserved": 0}),
        (
            ["--scale-on", "cpu=70", "--scale-on", "jobs.waiting=0.5"],
            {"scale_on": [{"metric": "cpu", "target": 70.0}, {"metric": "jobs.waiting", "target": 0.5}]},
        ),
        (["--node-label", "gpu=yes", "--node-label", "zone=a"], {"node_labels": {"gpu": "yes", "zone": "a"}}),
        (
            ["--provisioned", "5 from 0 8 * * 1-5 to @daily", "--provisioned", "2 from 0 1 * * * to 0 2 * * * in UTC"],
            {
                "provisioned": [
                    {"instances": 5, "start": "0 8 * * 1-5", "end": "@daily"},
                    {"instances": 2, "start": "0 1 * * *", "end": "0 2 * * *", "timezone": "UTC"},
                ]
            },
        ),
        (["--rate-limit", "10", "--caller-rate-limit", "0.5"], {"rate_limit": 10.0, "caller_rate_limit": 0.5}),
        ([], {}),
    ],
)
def test_options_are_the_manifests_settings(arguments: list[str], given: dict[str, Any]) -> None:
    """What is not given is not said, so that the manifest's own counts."""
    assert parsed(*arguments) == given


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--keep-alive", "long"], "'long': must be \"auto\" or a number of seconds"),
        (["--scale-on", "cpu"], "--scale-on 'cpu': must be NAME=VALUE"),
        (["--scale-on", "cpu=high"], "--scale-on 'cpu=high': the target must be a number"),
        (["--provisioned", "five in the morning"], "must be like"),
    ],
)
def test_option_that_cannot_be_read_is_explained(arguments: list[str], sentence: str) -> None:
    """As it is typed, with what would be right."""
    assert sentence in " ".join(parsed(*arguments).split())


@pytest.mark.parametrize(
    ("host", "node"),
    [("worker-7", "worker-7"), ("Ada's MacBook.local", "ada-s-macbook"), ("node_1", "node-1"), ("", "node")],
)
def test_machine_gives_its_node_a_name(host: str, node: str) -> None:
    """As close to the machine's as a node's name can be."""
    assert worker.node_name(host) == node


@given(st.text(max_size=100))
def test_every_machine_has_a_name_for_its_node(host: str) -> None:
    """Whatever a machine is called, a worker starts on it without a name being given."""
    assert names.check_node(worker.node_name(host))


def test_ports_of_all_servers_are_closed_to_functions() -> None:
    """Each once; NATS's own where none is said."""
    assert worker.ports("nats://a:4222,nats://b:4333, tls://c") == ["4222", "4333"]


@pytest.mark.parametrize(
    ("used", "of", "shown"),
    [
        (0, 2048, ".......... "),
        (1250, 2048, "######.... "),
        (2048, 2048, "########## 100 % of 2048"),
        (3000, 2048, "########## 146 %"),
        (None, 2048, f"{'-':>15} of 2048"),
    ],
)
def test_bar_is_as_long_as_it_says(used: float | None, of: float, shown: str) -> None:
    """Also beyond the end, and before anything is known."""
    assert bar(used, of).startswith(shown)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(8, 80))
def test_screen_is_never_higher_than_the_terminal(nodes: int, functions: int, height: int) -> None:
    """And says how many rows it leaves out: rows shown and left out are all there are."""
    node = {"node": "n", "state": "up", "memory_used_mb": 1, "memory_mb": 2, "cpu_percent": None}
    row = {"function": "f", "ready": 1, "busy": 0, "starting": 0, "rate": None, "p50_ms": None, "p99_ms": None}
    row |= {"cold_percent": None, "queued": 0, "backlog": 0, "errors": 0, "throttled": 0}
    counts = {"ready": 1, "busy": 0, "starting": 0}
    shown = lines([node | counts] * nodes, [row] * functions, height)
    assert len(shown) <= height
    hidden = sum(int(line.split()[1]) for line in shown if line.startswith("..."))
    visible = sum(line.startswith(("n ", "f ")) for line in shown)
    assert height < 12 or visible + hidden == nodes + functions
    assert len(lines([node | counts] * nodes, [row] * functions)) == nodes + functions + 5
