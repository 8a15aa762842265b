"""What functions do, seen from outside the platform.

Each run tells a server of the test's that it has begun, does what it is told there, and hangs up when it is over, be it
by its death. So a test sees every run, in order, with its times, and decides how each of them ends.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import nats

from tests.acceptance import outside

SOURCE = """
import dataclasses, json, os, signal, socket, sys, time

FIELDS = ("function_name", "function_version", "attempt", "invocation", "headers")

def handler(event, context):
    told = {name: getattr(context, name) for name in FIELDS} | {"event": event}
    told["cloud_event"] = dataclasses.asdict(context.event) if context.event else None
    told["batch"] = [[item.id, item.attempt] for item in getattr(context, "batch", None) or []]
    with socket.create_connection(("127.0.0.1", int(os.environ["WITNESS"]))) as line:
        line.sendall(json.dumps(told, default=str).encode() + b"\\n")
        word = json.loads(line.makefile().readline())
        return obey(word, context)

def obey(word, context):
    for subject, payload in word.get("publish", []):
        context.publish(subject, payload)
    for function, event in word.get("call", []):
        word["return"] = context.call(function, event)
    if "read" in word:
        word["return"] = context.objects(word["read"][0]).get(word["read"][1]).decode()
    match word.get("do"):
        case "raise":
            raise ValueError("told to raise")
        case "hang":
            time.sleep(600)
        case "exit":
            print("last words", file=sys.stderr, flush=True)
            os._exit(7)
        case "kill":
            print("last words", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    return word.get("return")
"""

Word = dict[str, Any]
RAISE: Word = {"do": "raise"}
WELL: Word = {"return": "well"}


@dataclass
class Run:
    told: dict[str, Any]
    began: float  # time.monotonic()
    at: float  # time.time(), the same moment
    ended: float | None = None
    word: Word | None = None  # what it was told to do

    @property
    def function(self) -> str:
        return str(self.told["function_name"])

    @property
    def event(self) -> Any:
        return self.told["event"]

    @property
    def attempt(self) -> int:
        return int(self.told["attempt"])

    @property
    def went_well(self) -> bool:
        return self.word is not None and "do" not in self.word and self.ended is not None


class Witness:
    def __init__(self) -> None:
        self.port = 0
        self.runs: list[Run] = []  # in the order in which they began
        self._scripts: dict[str, Callable[[Run], Awaitable[Word]]] = {}

    def deploy(self, platform: Any, name: str, *triggers: dict[str, Any], **settings: Any) -> None:
        """A function whose runs come here."""
        given = {"memory": 32, "timeout": 20, "env": {"WITNESS": str(self.port)}, "connect": [self.port]} | settings
        outside.deploy(platform, name, SOURCE, triggers=list(triggers), **given)

    def script(self, name: str, does: Callable[[Run], Awaitable[Word]] | Word) -> None:
        """What the runs of a function do; without one they return at once."""

        async def always(_run: Run) -> Word:
            assert isinstance(does, dict)
            return does

        self._scripts[name] = always if isinstance(does, dict) else does

    def of(self, name: str) -> list[Run]:
        return [run for run in self.runs if run.function == name]

    def running(self, name: str) -> int:
        return sum(run.ended is None for run in self.of(name))

    async def until(self, condition: Callable[[], object], timeout: float = 20) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                seen = [(run.function, run.event, run.attempt, run.word) for run in self.runs[-40:]]
                raise TimeoutError(f"not seen within {timeout} s; the last runs: {seen}")
            await asyncio.sleep(0.01)

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            run = Run(json.loads(await reader.readline()), time.monotonic(), time.time())
            self.runs.append(run)
            gone = asyncio.ensure_future(reader.read())
            script = self._scripts.get(run.function)
            word = asyncio.ensure_future(script(run)) if script else None
            if word is not None:
                await asyncio.wait((word, gone), return_when=asyncio.FIRST_COMPLETED)
            if word is None or word.done():
                run.word = word.result() if word else WELL
                writer.write(json.dumps(run.word).encode() + b"\n")
            else:
                word.cancel()
            await asyncio.wait((gone,))
            gone.exception()
            run.ended = time.monotonic()
        except (ConnectionError, ValueError, asyncio.CancelledError):  # it was killed, or the test is over
            pass
        finally:
            writer.close()


@asynccontextmanager
async def witness() -> AsyncIterator[Witness]:
    seen = Witness()
    server = await asyncio.start_server(seen._receive, "127.0.0.1", 0, limit=2**22)
    seen.port = server.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        server.close()


async def publish(connection: nats.NATS, subject: str, payload: object, headers: dict[str, str] | None = None) -> int:
    """Acknowledged; the sequence in the stream. One that is repeated has the first one's."""
    reply = await connection.request(subject, json.dumps(payload).encode(), timeout=10, headers=headers)
    told = json.loads(reply.data)
    if "error" in told:
        raise RuntimeError(told["error"])
    return int(told["seq"])


def letters(platform: Any, function: str) -> list[dict[str, Any]]:
    """Its dead letters, the oldest first, each with all that is told of it."""
    rows = json.loads(outside.manage(platform, "GET", f"dlq?function={function}").body)
    return [json.loads(outside.manage(platform, "GET", f"dlq/{row['sequence']}").body) for row in reversed(rows)]


def outcome(platform: Any, identity: str, wait: float = 0) -> dict[str, Any]:
    """What is known of a durable call."""
    found: dict[str, Any] = json.loads(outside.manage(platform, "GET", f"invocations/{identity}?wait={wait}").body)
    return found


async def cancelled(platform: Any, identity: str) -> int:
    return (await asyncio.to_thread(outside.manage, platform, "DELETE", f"invocations/{identity}")).code
