"""A function lives: deployed, cold, warm, reclaimed, cold again; by curl, by NATS, by the command."""

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.acceptance import outside

HELLO = """
def handler(event, context):
    return {"message": f"Hello, {event['name']}!"}
"""
ADA = '{"name":"Ada"}'


def curl(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["curl", "-sS", "-i", *args], capture_output=True, text=True, timeout=30, check=True)


def test_curl_and_command_and_nats_cli_give_the_same_result(platform: Any, nats_cli: str) -> None:
    """The same event gives the same result by curl, `mayfly invoke` and a bare `nats req`; only the first is cold."""
    outside.deploy(platform, "same", HELLO, keep_alive=60)

    by_nats = subprocess.run(
        [nats_cli, "--server", platform.nats, "--no-context", "req", "--no-templates", "fn.same", ADA],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert "Mayfly-Start: cold" in by_nats.stdout + by_nats.stderr
    by_curl = curl("-d", ADA, f"{platform.http}/function/same")
    assert "mayfly-start: warm" in by_curl.stdout.lower()
    by_command = platform.cli("invoke", "same", "-d", ADA)

    wanted = {"message": "Hello, Ada!"}
    assert json.loads(by_nats.stdout.strip().splitlines()[-1]) == wanted
    assert json.loads(by_curl.stdout.splitlines()[-1]) == wanted
    assert json.loads(by_command.stdout) == wanted


async def test_instance_and_route_and_process_are_gone_after_keep_alive(platform: Any, nats_cli: str) -> None:
    """After `keep_alive` idle seconds nothing of the instance is left, and the next call is cold again."""
    outside.deploy(platform, "brief", HELLO, keep_alive=1)

    def routes() -> str:
        listed = subprocess.run(
            [nats_cli, "--server", platform.nats, "--user", platform.user, f"--password={platform.password}",
             "--no-context", "kv", "ls", "routes"],
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        return listed.stdout

    async with outside.client(platform.nats) as connection:
        assert (await outside.call(connection, "brief", ADA.encode())).headers["Mayfly-Start"] == "cold"
        assert (await outside.call(connection, "brief", ADA.encode())).headers["Mayfly-Start"] == "warm"
        (row,) = outside.instances(platform, "brief")
        assert outside.alive(row["pid"])
        await outside.until(lambda: "brief" in routes())

        await outside.until(lambda: not outside.instances(platform, "brief"))
        await outside.until(lambda: "brief" not in routes())
        await outside.until(lambda: not outside.alive(row["pid"]))
        listed = json.loads(platform.cli("instances", "-o", "json").stdout)
        assert not [entry for entry in listed if entry["function"] == "brief"]
        assert (await outside.call(connection, "brief", ADA.encode())).headers["Mayfly-Start"] == "cold"


def test_nats_context_file_is_written_by_up(platform: Any, nats_cli: str) -> None:
    """`up` writes a context, so that the operator's `nats --context` needs no address and no password."""
    contexts = list(Path(platform.config_home).glob("nats/context/*.json"))
    assert contexts, "no context file"
    listed = subprocess.run(
        [nats_cli, "--context", contexts[0].stem, "micro", "ls"],
        capture_output=True, text=True, timeout=30, check=True, env=platform.environ,
    )  # fmt: skip
    for service in ("gateway", "registry", "router", "activator", "worker"):
        assert service in listed.stdout, listed.stdout


async def test_function_output_is_in_the_logs_with_its_invocation(platform: Any) -> None:
    """What a handler prints comes out of `mayfly logs`, marked with the invocation that printed it."""
    outside.deploy(
        platform, "chatty", "def handler(event, context):\n    print('seen', event)\n    return context.invocation\n"
    )
    answer = outside.http_call(platform.http, "POST", "/function/chatty", b'"x"')
    invocation = answer.body.decode()
    assert answer.headers["Mayfly-Invocation"] == invocation

    def line() -> list[dict[str, Any]]:
        rows = json.loads(platform.cli("logs", "chatty", "-o", "json").stdout or "[]")
        return [row for row in rows if row["line"] == "seen x"]

    (row,) = await outside.until(line)
    assert row["invocation"] == invocation


async def test_same_code_under_two_file_names_runs_as_both(platform: Any) -> None:
    """One file's bytes under two names are two modules: the second deploy must not find only the first on the node."""
    async with outside.client(platform.nats) as connection:
        for name in ("twin-one", "twin-two"):
            outside.deploy(platform, name, HELLO)
            assert (await outside.call(connection, name, ADA.encode())).code == 200
