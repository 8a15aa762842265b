"""The management API: what goes to and comes from ``mayfly.api.<resource>.<verb>``. JSON in, JSON out.

| function. | request | reply |
|---|---|---|
| deploy | `DeployRequest` | `DeployReply` |
| configure | `ConfigureRequest` | `DeployReply` |
| rollback | `RollbackRequest` | `DeployReply` |
| list | nothing | list of `FunctionSummary`, by name |
| versions | `FunctionRequest` | list of `VersionSummary`, newest first |
| describe | `FunctionRequest` | `FunctionDescription` |
| code | `FunctionRequest` | `CodeReply` |
| delete | `DeleteRequest` | `DeleteReply` |
| pause, resume | `PauseRequest` | `PauseReply` |

| resource.verb | request | reply |
|---|---|---|
| invocation.get | `InvocationRequest` | `Invocation` |
| invocation.cancel | `InvocationRequest` | `Invocation`, cancelled; 409 `conflict` when it has started or is over |
| dlq.list | `DeadLettersRequest` | list of `DeadLetter` without payload, newest first |
| dlq.show | `DeadLetterRequest` | `DeadLetter` |
| dlq.redrive, dlq.purge | `DeadLettersChange` | `DeadLettersChanged` |
| schedule.list | `SchedulesRequest` | list of `Schedule`, by function and number |

The scaler answers for nodes (queue group `scaler`):

| resource.verb | request | reply |
|---|---|---|
| node.drain, node.undrain | `NodeRequest` | `NodeReply`; 404 `not_found` for a node that has no lease |

`mayfly up` answers on ``mayfly.local.nodes.<verb>`` for the workers of its machine:

| verb | request | reply |
|---|---|---|
| list | nothing | `LocalNodes` |
| add, remove | `NodeRequest` | `LocalNodes`, before the process is ready or over; 409 `conflict` when it is leaving |

Settings are the user's own words, as in ``mayfly.toml``: handler, runtime, memory, timeout, concurrency, min_instances,
max_instances, keep_alive, pre_warm, reserved, weight, provisioned, scale_on, node_labels, rate_limit,
caller_rate_limit, max_queue, activation, idempotent, isolation, payload, env, connect, triggers, retries,
batch, ordered, on_success, on_failure, publish, call, kv, objects, idempotency_ttl, description.
An error is answered as every error is (see `errors`).
"""

from typing import Any

import msgspec

from mayfly_proto import errors, records

FUNCTION = "function"  # the resource in `subjects.api`

DEPLOY = "deploy"
CONFIGURE = "configure"
ROLLBACK = "rollback"
LIST = "list"
VERSIONS = "versions"
DESCRIBE = "describe"
CODE = "code"
DELETE = "delete"
PAUSE = "pause"
RESUME = "resume"

VERBS = (DEPLOY, CONFIGURE, ROLLBACK, LIST, VERSIONS, DESCRIBE, CODE, DELETE, PAUSE, RESUME)

INVOCATION = "invocation"  # resource: durable calls
GET = "get"
CANCEL = "cancel"

DEAD_LETTERS = "dlq"  # resource
SHOW = "show"
REDRIVE = "redrive"
PURGE = "purge"

SCHEDULE = "schedule"  # resource

NODE = "node"  # resource
DRAIN = "drain"
UNDRAIN = "undrain"

ADD = "add"  # of ``mayfly.local.nodes``, with `LIST` and `REMOVE`
REMOVE = "remove"


def service(resource: str) -> str:
    """Which service answers for it."""
    return "scaler" if resource == NODE else "registry"


def nobody(resource: str) -> str:
    """What to say when none does."""
    who = service(resource)
    return f"no {who} is running" + (", and it is the scaler that empties nodes" if resource == NODE else "")


class _Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A misspelt field is an error, never silently ignored."""


class _Reply(msgspec.Struct, frozen=True, kw_only=True):
    """Unknown fields are ignored, so that an older client reads a newer registry."""


class DeployRequest(_Request, frozen=True):
    """Exactly one of ``source`` and ``object`` says where the code is."""

    name: str
    source: str | None = None  # the text of one .py file
    object: str | None = None  # "BUCKET/NAME" of a ZIP or a .py; one in `incoming` is taken away afterwards
    filename: str = ""  # as the user has it: hello.py, hello.zip
    settings: dict[str, Any] | None = None  # None: what mayfly.toml in the ZIP says, else the defaults


class ConfigureRequest(_Request, frozen=True):
    """A new version on the same package."""

    name: str
    settings: dict[str, Any]  # only those that change; null: back to the default


class RollbackRequest(_Request, frozen=True):
    name: str
    version: int | None = None  # None: the highest below the current one


class FunctionRequest(_Request, frozen=True):
    name: str
    version: int | None = None  # None: the current one; `versions` does not look at it


class DeleteRequest(_Request, frozen=True):
    """The function with all its versions."""

    name: str


class DeployReply(_Reply, frozen=True):
    """The version that is current now. It can be called: the owning router has answered for it."""

    name: str
    version: int
    handler: str
    sha256: str
    size: int  # bytes of the package
    created: str  # RFC 3339, UTC
    unchanged: bool = False  # package and settings were those of the current version: no new one was made


class FunctionSummary(
    _Reply, frozen=True, rename={"memory_mb": "memory", "timeout_s": "timeout", "keep_alive_s": "keep_alive"}
):
    """One row of ``mayfly ls``."""

    name: str
    version: int
    runtime: str
    handler: str
    memory_mb: int
    timeout_s: float
    concurrency: int
    min_instances: int
    max_instances: int
    keep_alive_s: float | str  # seconds, or "auto"
    triggers: str  # "GET /orders/{id}, /hello"; "" for none
    size: int
    created: str
    description: str


class VersionSummary(_Reply, frozen=True, rename={"memory_mb": "memory", "timeout_s": "timeout"}):
    """One row of ``mayfly versions``."""

    name: str
    version: int
    current: bool
    callable: bool  # as fn.<name>@<version>; one that is not can still be rolled back to
    runtime: str
    handler: str
    memory_mb: int
    timeout_s: float
    sha256: str
    size: int
    filename: str
    created: str


class CodeEntry(_Reply, frozen=True):
    path: str
    size: int  # bytes, unpacked


class FunctionDescription(records.VersionSpec, frozen=True, kw_only=True):
    """All of one version's record, and its code to read."""

    current: int
    versions: list[int]  # those that can be called, newest last
    source: str | None = None  # the text, when the package is one .py
    entries: list[CodeEntry] = msgspec.field(default_factory=list)  # files of a ZIP, the first thousand
    files: int = 0  # how many there are


class CodeReply(_Reply, frozen=True):
    """The package exactly as it was uploaded."""

    name: str
    version: int
    filename: str
    format: str  # "zip" or "py"
    sha256: str
    size: int
    bucket: str  # where it lies, for a package too large to come along
    object: str
    content: bytes | None = None  # base64 in JSON; None when it is above a megabyte: read the object


class DeleteReply(_Reply, frozen=True):
    name: str
    versions: int  # how many were removed


class PauseRequest(_Request, frozen=True):
    """Events and durable calls of a function wait until it is resumed; calls on ``fn.`` go on."""

    name: str


class PauseReply(_Reply, frozen=True):
    name: str
    paused: bool
    waiting: int = 0  # events and durable calls


class InvocationRequest(_Request, frozen=True):
    id: str


class Invocation(_Reply, frozen=True):
    """What is known of a durable call. ``payload`` is the function's result, as it is; base64 in JSON."""

    id: str
    function: str
    state: str  # states.Invocation value
    time: str  # of this state; RFC 3339, UTC
    attempts: int = 0  # that are over
    content_type: str = ""
    payload: bytes | None = None  # None also where it is too large to come along: `size` says so, RESULTS has it
    size: int = 0  # bytes of the payload
    error: errors.ErrorDetail | None = None


class NodeRequest(_Request, frozen=True):
    node: str
    why: str = ""  # for the record


class NodeReply(_Reply, frozen=True):
    node: str
    state: str  # states.Node value
    draining: bool


class LocalNodes(_Reply, frozen=True):
    """The workers that `mayfly up` has, those on their way in or out among them."""

    nodes: list[str]


class DeadLettersRequest(_Request, frozen=True):
    function: str | None = None  # None: of all
    before: int | None = None  # a sequence: older ones, for the next page
    limit: int = 100


class DeadLetterRequest(_Request, frozen=True):
    sequence: int  # in the stream DLQ


class DeadLettersChange(_Request, frozen=True):
    """Dead letters of one function: those named, or all."""

    function: str
    sequences: list[int] | None = None


class DeadLettersChanged(_Reply, frozen=True):
    function: str
    count: int
    left: int = 0  # that were to be driven again and are not yet, because time was over: ask again


class DeadLetter(_Reply, frozen=True):
    """An event or durable call that failed for good."""

    sequence: int
    function: str
    invocation: str
    subject: str  # where the event was published, or the call sent
    reason: str  # one sentence
    attempts: int
    failed_at: str  # RFC 3339, UTC
    size: int  # bytes of the payload
    error: errors.ErrorDetail | None = None  # the last one
    headers: dict[str, str] = {}  # the publisher's; only with `show`
    payload: bytes | None = None  # only with `show`, and not where it is too large to come along; base64 in JSON


class SchedulesRequest(_Request, frozen=True):
    function: str | None = None  # None: of all
    count: int = 3  # next times of each


class Schedule(_Reply, frozen=True):
    function: str
    number: int  # the trigger's
    schedule: str
    timezone: str
    next: list[str]  # RFC 3339, with the zone's offset; empty while the function is paused
    paused: bool = False


encode = records.encode
decode = records.decode
