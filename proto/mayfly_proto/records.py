"""What lies in NATS for people to read: JSON in the KV buckets, load reports, log lines and usage records.

Structs know their JSON; the registry checks a manifest with pydantic before it becomes a `VersionSpec`.
"""

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from mayfly_proto import states, storage, subjects

T = TypeVar("T")

encode = msgspec.json.Encoder().encode


def decode(raw: bytes | msgspec.Raw, record_type: type[T]) -> T:
    """Raises `msgspec.MsgspecError`, which names the field."""
    return msgspec.json.decode(raw, type=record_type)


def readable(raw: bytes | msgspec.Raw, record_type: type[T]) -> T | None:
    """None for what is no such record: whoever may write there may write anything."""
    try:
        return decode(raw, record_type)
    except (msgspec.MsgspecError, ValueError):
        return None


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """A map on the wire; unknown fields are ignored, so that an older service reads a newer record."""


class Package(_Record, frozen=True):
    sha256: str  # of the bytes as uploaded; also the object's name in `code`
    size: int  # bytes
    format: str  # "zip" or "py"
    filename: str  # what `deploy` was given: hello.py, hello.zip


class Trigger(_Record, frozen=True, omit_defaults=True):
    """One thing that makes a function run: exactly one of http, event, schedule, object, and subject (of core NATS, or
    of the user's ``stream``)."""

    http: str = ""  # path template: /orders/{id}
    methods: list[str] = []  # upper case; empty: any
    event: str = ""  # below event., with wildcards: orders.*.created
    stream: str = ""  # of the user's own, with `subject`
    subject: str = ""
    schedule: str = ""  # 5-field cron, @every 30s, @hourly ...
    timezone: str = ""  # IANA; empty: UTC
    payload: Any = None  # JSON that a schedule's ticks carry
    missed: str = "latest"  # or "all": ticks that are late when the next one is due
    object: str = ""  # bucket
    start: str = "new"  # of a trigger on a stream: or "all", or RFC 3339
    number: int = (
        0  # of a trigger with a consumer or a schedule: the function's own, kept while the trigger is the same
    )

    @property
    def durable_stream(self) -> str:
        """The stream that it has a consumer on; "" for http, schedule, and core subjects."""
        if self.event:
            return storage.EVENTS
        if self.object:
            return subjects.object_stream(self.object)
        return self.stream

    @property
    def filter_subject(self) -> str:
        """What of its stream, or of core NATS, it wants."""
        if self.event:
            return subjects.event(self.event)
        return subjects.object_meta(self.object, ">") if self.object else self.subject


class Retries(
    _Record, frozen=True, rename={"backoff_s": "backoff", "max_backoff_s": "max_backoff", "max_age_s": "max_age"}
):
    """How often a durable call or event is tried, and how long between."""

    attempts: int = 3
    backoff_s: float = 1.0  # before the second; doubles, with jitter
    max_backoff_s: float = 300.0
    max_age_s: float = 21_600.0  # since the first attempt; then no more


class Batch(_Record, frozen=True, rename={"window_s": "window"}):
    size: int = 100  # events in one call, at most
    window_s: float = 1.0  # that the first of them waits for others


class Provisioned(_Record, frozen=True):
    """Instances that are kept ready at certain times: from each time of ``start`` until the next of ``end``."""

    start: str  # see `cron`
    end: str
    instances: int
    timezone: str = ""  # IANA; empty: UTC


class ScaleOn(_Record, frozen=True):
    """So many instances that ``metric`` is at ``target``, as the Kubernetes HPA would have it."""

    metric: str  # "concurrency", "cpu", "memory" (percent of what an instance may have), or metric.<this> of anyone
    target: float  # of one instance


DEFAULT_KEEP_ALIVE_S = 90.0


class VersionSpec(
    _Record,
    frozen=True,
    rename={
        "memory_mb": "memory",
        "timeout_s": "timeout",
        "keep_alive_s": "keep_alive",
        "idempotency_ttl_s": "idempotency_ttl",
    },
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
    keep_alive_s: float | Literal["auto"] = "auto"  # auto: `DEFAULT_KEEP_ALIVE_S` until the scaler knows better
    pre_warm: bool = True  # with auto: an instance may be started shortly before the next call is expected
    reserved: int = 0  # instances that it can have whatever others want
    weight: float = 1.0  # of its share when there is not enough for all
    provisioned: list[Provisioned] = []
    scale_on: list[ScaleOn] = []
    node_labels: dict[str, str] = {}  # that a node must have
    rate_limit: float = 0.0  # calls per second that are waited for, with a burst of a second's worth; 0: none
    caller_rate_limit: float = 0.0  # the same for each caller
    max_queue: int = 10_000  # calls waiting at the router
    activation: str = "balanced"  # or "eager"
    idempotent: bool = False
    isolation: str = "process"
    payload: str = "auto"  # or "json", "text", "bytes"
    env: dict[str, str] = {}
    connect: list[int] = []  # further TCP ports that its code may connect to
    triggers: list[Trigger] = []
    retries: Retries = Retries()
    batch: Batch | None = None
    ordered: str = ""  # "subject.3" (a token of it, from 1) or a header's name; "": no order
    on_success: str = ""  # subject that a durable call's or event's result is published to
    on_failure: str = ""
    publish: list[str] = []  # subjects, with wildcards, that its code may publish to
    call: list[str] = []  # functions, with wildcards, that its code may call
    kv: list[str] = []  # buckets that its code may use
    objects: list[str] = []  # object stores that its code may use
    idempotency_ttl_s: int = 86_400  # for which a repeated idempotency key gets the first result
    description: str = ""

    @property
    def idle_limit_s(self) -> float:
        """How long an idle instance stays when the scaler has said nothing."""
        return DEFAULT_KEEP_ALIVE_S if self.keep_alive_s == "auto" else self.keep_alive_s


class FunctionRecord(_Record, frozen=True):
    """KV ``functions``, key ``<name>``: written by compare-and-set, the moment a version becomes visible."""

    name: str
    current: int
    versions: list[int]  # those that can be called, newest last: at most ten, and the current one
    older: list[int] = []  # those that can only be rolled back to, newest last
    paused: bool = False  # events and durable calls wait


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
    memory_mb: Annotated[int, Meta(ge=1)]  # for instances
    cores: Annotated[int, Meta(ge=1)]
    draining: bool = False  # it takes no new instances
    labels: dict[str, str] = {}
    isolation: list[str] = []  # levels this node gives
    notes: list[str] = []  # what its kernel does not give, one sentence each
    started: str = ""
    version: str = ""


class RouterMembers(_Record, frozen=True):
    """KV ``routers``, key ``members``, written by compare-and-set: who shares the functions."""

    epoch: int
    members: dict[str, Client]


class VersionLoad(_Record, frozen=True, omit_defaults=True):
    ready: int = 0
    busy: int = 0
    starting: int = 0
    private_mb: float = 0.0  # memory that one instance adds to the node, as last measured; 0: not yet
    cpu_percent: float = 0.0  # of one core, mean of its ready instances


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
    cpu_percent: float  # of what the node may use
    instances: dict[str, dict[str, VersionLoad]]  # function → version → counts
    routers: dict[str, RouterSeen]
    state: str = states.Node.UP.value
    starts: int = 0  # since the worker started
    evicted: int = 0  # idle instances that had to go for others, since the worker started


class FunctionLoad(_Record, frozen=True, omit_defaults=True):
    queued: int = 0
    backlog: int = 0  # events and durable calls that wait in streams
    in_flight: int = 0
    ready: int = 0
    starting: int = 0
    calls: int = 0  # since the router started
    cold: int = 0
    errors: int = 0
    throttled: int = 0  # answered 429
    p50_ms: float = 0.0  # from arrival to the end, of the last calls
    p99_ms: float = 0.0
    service_ms: float = 0.0  # mean time of a call in its instance
    cold_ms: float = 0.0  # mean time from order to ready
    oldest_ms: float = 0.0  # for which the first in the queue has waited
    blocked: int = 0  # instances that found no place when they were ordered last
    idle_gaps: dict[str, int] = {}  # since the last report: `gaps` bin → pauses of the whole function
    further_gaps: dict[str, int] = {}  # the same for its second, third ... instance


class RouterLoad(_Record, frozen=True):
    """``mayfly.load.router.<router>``, once a second."""

    router: str
    epoch: int
    functions: dict[str, FunctionLoad]  # those with anything to say


class FunctionTarget(_Record, frozen=True, omit_defaults=True):
    """KV ``targets``, key ``function.<name>``: what the leading scaler wants; the function's owner sees to it."""

    minimum: int = 0  # instances that are to be ready, whatever the calls ask for
    keep_alive_s: float | None = None  # of the last idle instance; None: as the version says
    further_keep_alive_s: float | None = None  # of the others
    pre_warm_at_s: float | None = None  # after it has fallen idle: have one ready by then
    pre_warm_for_s: float = 0.0  # and so long
    why: str = ""


class NodeTarget(_Record, frozen=True):
    """KV ``targets``, key ``node.<node>``, there while the node is to be empty."""

    by: str  # "operator" or "scaler"
    since: str  # RFC 3339, UTC
    why: str = ""


class ScalerLease(_Record, frozen=True):
    """KV ``leases``, key ``scaler``, lives 5 s: who leads."""

    scaler: str
    epoch: int  # grows with every change of the leader
    client: Client


class Learned(_Record, frozen=True, omit_defaults=True):
    """KV ``learned``, key ``<name>``: weights of the bins of `gaps`, sparse."""

    idle: dict[str, float] = {}
    idle_count: int = 0
    further: dict[str, float] = {}
    further_count: int = 0
    cold_s: float = 0.0
    private_mb: float = 0.0


class Shares(_Record, frozen=True):
    """``mayfly.scaler.shares``: instances that each function may have now. Who is not in it may have what it likes;
    an answer older than three seconds says nothing."""

    epoch: int  # the scaler's
    shares: dict[str, int]


class Decision(_Record, frozen=True):
    """``mayfly.scaler.decision``, and stream DECISIONS."""

    time: str  # RFC 3339, UTC
    scaler: str
    epoch: int
    about: str  # "nodes", "node n3", "function hello", "leader"
    action: str  # add, drain, undrain, remove, back_off, minimum, keep_alive, lead
    count: int = 0
    seen: dict[str, Any] = {}  # figures it was decided by
    why: str = ""  # one sentence


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


class IdempotencyRecord(_Record, frozen=True):
    """KV ``idempotency``, key ``<name>.<hash of the key>``: the first call that had the key, then its result."""

    invocation: str
    headers: bytes | None = None  # of the result; None: it runs, or has been lost
    payload: bytes = b""
    until: float = 0.0  # Unix time at which one that runs is taken for lost
    replies: list[str] = []  # inboxes that wait for it


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
