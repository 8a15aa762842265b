"""What lies in NATS for people to read: JSON in the KV buckets, load reports, log lines and usage records.

Structs know their JSON; the registry checks a manifest with pydantic before it becomes a `VersionSpec`.
"""

from typing import TypeVar

import msgspec

T = TypeVar("T")

encode = msgspec.json.Encoder().encode


def decode(raw: bytes, record_type: type[T]) -> T:
    """Raises `msgspec.MsgspecError`, which names the field."""
    return msgspec.json.decode(raw, type=record_type)


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """A map on the wire; unknown fields are ignored, so that an older service reads a newer record."""


class Package(_Record, frozen=True):
    sha256: str  # of the bytes as uploaded; also the object's name in `code`
    size: int  # bytes
    format: str  # "zip" or "py"
    filename: str  # what `deploy` was given: hello.py, hello.zip


class HttpTrigger(_Record, frozen=True):
    http: str  # path template: /orders/{id}
    methods: list[str] = []  # upper case; empty: any


class VersionSpec(
    _Record, frozen=True, rename={"memory_mb": "memory", "timeout_s": "timeout", "keep_alive_s": "keep_alive"}
):
    """KV ``versions``, key ``<name>.<n>``: all there is to know of one version. Immutable."""

    name: str
    version: int
    runtime: str
    handler: str  # module:function
    package: Package
    created: str  # RFC 3339, UTC
    memory_mb: int = 128
    timeout_s: float = 3.0
    concurrency: int = 1  # calls at once per instance
    min_instances: int = 0
    max_instances: int = 100
    keep_alive_s: float = 90.0
    max_queue: int = 10_000  # calls waiting at the router
    activation: str = "balanced"  # or "eager"
    idempotent: bool = False
    isolation: str = "process"
    payload: str = "auto"  # or "json", "text", "bytes"
    env: dict[str, str] = {}
    connect: list[int] = []  # further TCP ports that its code may connect to
    triggers: list[HttpTrigger] = []
    description: str = ""


class FunctionRecord(_Record, frozen=True):
    """KV ``functions``, key ``<name>``: written by compare-and-set, the moment a version becomes visible."""

    name: str
    current: int
    versions: list[int]  # those that can be called, newest last: at most ten, and the current one
    older: list[int] = []  # those that can only be rolled back to, newest last


class Route(_Record, frozen=True):
    """KV ``routes``, key ``<node>.<version>.<name>``: the ready instances of one version on one node.

    Valid only while the node's lease has the same epoch.
    """

    epoch: int
    instances: list[str]
    slots: int  # instances times concurrency


class Client(_Record, frozen=True):
    """A NATS connection, as disconnect events name it."""

    server: str
    id: int


class NodeLease(_Record, frozen=True):
    """KV ``nodes``, key ``<node>``, lives 10 s, renewed every 3."""

    node: str
    epoch: int  # grows with every start of the worker
    client: Client
    memory_mb: int  # for instances
    cores: int
    draining: bool = False
    isolation: list[str] = []  # levels this node gives
    notes: list[str] = []  # what its kernel does not give, one sentence each
    started: str = ""
    version: str = ""


class RouterMembers(_Record, frozen=True):
    """KV ``routers``, key ``members``, written by compare-and-set: who shares the functions."""

    epoch: int
    members: dict[str, Client]


class VersionLoad(_Record, frozen=True):
    ready: int = 0
    busy: int = 0
    starting: int = 0


class RouterSeen(_Record, frozen=True):
    """What a worker has of one router: with it a router finds calls that a broken connection swallowed."""

    last_seq: int
    calls: list[int]  # sequences in flight


class NodeLoad(_Record, frozen=True):
    """``mayfly.load.node.<node>``, once a second: heartbeat and load in one."""

    node: str
    epoch: int
    seq: int
    memory_mb: int  # capacity
    memory_used_mb: int  # promised to instances
    cpu_percent: float
    instances: dict[str, dict[str, VersionLoad]]  # function → version → counts
    routers: dict[str, RouterSeen]


class FunctionLoad(_Record, frozen=True):
    queued: int = 0
    in_flight: int = 0
    ready: int = 0
    starting: int = 0
    calls: int = 0  # since the router started
    cold: int = 0
    errors: int = 0


class RouterLoad(_Record, frozen=True):
    """``mayfly.load.router.<router>``, once a second."""

    router: str
    epoch: int
    functions: dict[str, FunctionLoad]  # those with anything to say


class InstanceRecord(_Record, frozen=True):
    """One row of ``mayfly instances``."""

    instance: str
    function: str
    version: int
    node: str
    state: str
    pid: int
    calls: int
    age_s: float
    idle_s: float
    memory_mb: float  # resident
    cold_start_ms: dict[str, float] = {}  # phases: fetch, unpack, fork, import, total


class LogLine(_Record, frozen=True):
    """``log.<name>.<instance>``."""

    time: str  # RFC 3339, UTC
    function: str
    version: int
    instance: str
    stream: str  # stdout, stderr or platform
    line: str
    invocation: str = ""


class Usage(_Record, frozen=True):
    """``usage.<name>``: what an instance cost, written when it is gone."""

    time: str
    function: str
    version: int
    instance: str
    node: str
    calls: int
    busy_ms: float  # time in handlers
    alive_ms: float
    memory_mb: int
    cpu_ms: float
