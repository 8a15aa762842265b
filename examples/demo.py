"""`make demo`: the life of a function, by the commands a user types. Goes on running until Ctrl-C.

Ports are 8080 and 4222 unless PORT and NATS_PORT say otherwise (0: any free one).
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nats

HERE = Path(__file__).resolve().parent
MAYFLY = Path(sys.executable).with_name("mayfly")
KEEP_ALIVE_S = 5
EVENT = '{"name": "Ada"}'


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="mayfly-demo-") as directory:
        data = Path(directory)
        os.environ["MAYFLY_DATA"] = str(data)
        ports = ["--port", os.environ.get("PORT", "8080"), "--nats-port", os.environ.get("NATS_PORT", "4222")]
        print(f"$ mayfly up {' '.join(ports)}")
        platform = subprocess.Popen([MAYFLY, "up", *ports], stdout=subprocess.PIPE, text=True)
        signal.signal(signal.SIGTERM, lambda *_: platform.terminate())
        try:
            if not wait_until_ready(platform):
                return platform.wait() or 1
            show(json.loads((data / "platform.json").read_text()))
            print("\nThe platform goes on running; Ctrl-C stops it.", flush=True)
            return platform.wait()
        except KeyboardInterrupt:
            return platform.wait()
        finally:
            if platform.poll() is None:
                platform.terminate()
                platform.wait()


def wait_until_ready(platform: subprocess.Popen[str]) -> bool:
    assert platform.stdout is not None
    for line in platform.stdout:
        print(line, end="", flush=True)
        if line.startswith("ready"):
            return True
    return False


def show(addresses: dict[str, str]) -> None:
    say("Deploy a function: one file, no manifest.")
    run("mayfly", "deploy", str(HERE / "hello.py"), "--keep-alive", str(KEEP_ALIVE_S), "--event", "people.*.arrived")
    say("Call it by NATS. No instance runs: a cold start.")
    by_nats(addresses["nats"])
    say("Call it by curl. The instance is there: a warm start.")
    by_curl(addresses["http"])
    say("Publish an event: it is kept until the functions that it triggers have handled it.")
    run("mayfly", "publish", "people.eu.arrived", '{"name": "Grace"}')
    wait_until(lambda: "Grace" in output("logs", "hello"), "the event was not handled in time")
    run("mayfly", "logs", "hello", "--tail", "1")
    run("mayfly", "instances")
    say(f"After {KEEP_ALIVE_S} idle seconds the instance is reclaimed; zero is the resting state.")
    wait_until(lambda: output("instances", "-o", "json").strip() == "[]", "the instance was not reclaimed in time")
    run("mayfly", "instances")
    say("The next call starts a new one.")
    by_curl(addresses["http"])


def say(sentence: str) -> None:
    print(f"\n# {sentence}", flush=True)


def run(command: str, *args: str) -> None:
    print(f"$ {command} {' '.join(args)}", flush=True)
    subprocess.run([MAYFLY, *args], check=True)


def by_curl(http: str) -> None:
    url = f"{http}/function/hello"
    print(f"$ curl -i -d '{EVENT}' {url}", flush=True)
    if not shutil.which("curl"):
        subprocess.run([MAYFLY, "invoke", "hello", "-d", EVENT, "--include"], check=True)
        return
    subprocess.run(["curl", "-sS", "-i", "-d", EVENT, url], check=True)
    print()


def by_nats(url: str) -> None:
    """By the nats command where it is installed, else the same request by nats-py."""
    print(f"$ nats --server {url} req fn.hello '{EVENT}'", flush=True)
    cli = shutil.which("nats")
    if cli:
        subprocess.run([cli, "--no-context", "--server", url, "req", "--no-templates", "fn.hello", EVENT], check=True)
        return

    async def request() -> None:
        client = await nats.connect(url)
        reply = await client.request("fn.hello", EVENT.encode(), timeout=10)
        for name, value in (reply.headers or {}).items():
            print(f"{name}: {value}")
        print(reply.data.decode(), flush=True)
        await client.close()

    asyncio.run(request())


def output(*args: str) -> str:
    return subprocess.run([MAYFLY, *args], check=True, capture_output=True, text=True).stdout


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + KEEP_ALIVE_S + 15
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(otherwise)
        time.sleep(0.25)


if __name__ == "__main__":
    sys.exit(main())
