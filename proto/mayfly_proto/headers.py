"""Names of message headers, and the few things done with raw header blocks.

On the warm path a NATS header block is bytes that are passed on, never parsed: `find` reads one value without
touching the rest, `block` builds one.
"""

SERVICE_ERROR = "Nats-Service-Error"
SERVICE_ERROR_CODE = "Nats-Service-Error-Code"
CONTENT_TYPE = "Content-Type"
RETRY_AFTER = "Retry-After"

INVOCATION = "Mayfly-Invocation"
START = "Mayfly-Start"  # cold | warm
VERSION = "Mayfly-Version"
DURATION_MS = "Mayfly-Duration-Ms"
TIMEOUT_MS = "Mayfly-Timeout-Ms"
PROBE = "Mayfly-Probe"
HTTP = "Mayfly-Http"  # "GET /orders/7?x=1": this call came by HTTP; the other headers are the request's
HTTP_ROUTE = "Mayfly-Http-Route"  # path parameters of an http trigger, as a query string
CALLER = "Mayfly-Caller"  # on whose behalf the gateway calls, for limits on each caller; believed only from the gateway
HTTP_STATUS = "Mayfly-Http-Status"  # a handler's {"statusCode": ...}; further headers are the response's

# durable calls and events
IDEMPOTENCY_KEY = "Mayfly-Idempotency-Key"  # a call repeated with it gets the first one's result
REPLAYED = "Mayfly-Replayed"  # this result is that of the first call with the key
AT = "Mayfly-At"  # RFC 3339: a durable call that is to run then
DELAY = "Mayfly-Delay"  # seconds: a durable call that is to run so much later
EVENT_SUBJECT = "Mayfly-Subject"  # where an event was published, or a durable call sent
DEPTH = "Mayfly-Depth"  # how many functions an event has come through
SOURCE = "Mayfly-Source"  # id of the event or call whose handling published this
SOURCE_FUNCTION = "Mayfly-Source-Function"
BATCH = "Mayfly-Batch"  # number of events in the payload
ATTEMPT = "Mayfly-Attempt"  # of a retry; believed only in the stream of schedules
FIRST_AT = "Mayfly-First-At"  # unix ms of the first attempt, with a retry
STATE = "Mayfly-State"  # a RESULTS message: states.Invocation value
REASON = "Mayfly-Reason"  # a dead letter: one sentence
ERROR = "Mayfly-Error"  # a dead letter: the last error as JSON
ATTEMPTS = "Mayfly-Attempts"  # a dead letter: how many there were
FAILED_AT = "Mayfly-Failed-At"  # a dead letter: RFC 3339
CLOUD_EVENT = "ce-"  # the beginning of every CloudEvents attribute's header

DEPTH_LIMIT = 8
LONGEST_DELAY_S = 366 * 86_400  # that a durable call may be put off

# what the platform says about one attempt at an event or call, not its publisher
OF_AN_ATTEMPT = (
    INVOCATION,
    VERSION,
    ATTEMPT,
    ATTEMPTS,
    EVENT_SUBJECT,
    FIRST_AT,
    FAILED_AT,
    AT,
    DELAY,
    REASON,
    ERROR,
    STATE,
)

# NATS's own
MESSAGE_ID = "Nats-Msg-Id"
SCHEDULE = "Nats-Schedule"
SCHEDULE_TARGET = "Nats-Schedule-Target"
SCHEDULE_TIME_ZONE = "Nats-Schedule-Time-Zone"
SCHEDULER = "Nats-Scheduler"  # of what a schedule fired: the schedule's subject
SCHEDULE_NEXT = "Nats-Schedule-Next"  # of what a schedule fired: the time of the next one
TTL = "Nats-TTL"

COLD = "cold"
WARM = "warm"

PROLOGUE = b"NATS/1.0\r\n"


def block(fields: dict[str, str]) -> bytes:
    """A NATS header block. Values must not hold CR or LF: they are replaced by spaces."""
    lines = [f"{name}: {value}".replace("\r", " ").replace("\n", " ") for name, value in fields.items()]
    return b"NATS/1.0\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n"


def added(raw: bytes | None, fields: dict[str, str]) -> bytes:
    """The same block with further fields before the others, so that `find` meets these first."""
    ours = block(fields)
    return ours if not raw else ours[:-2] + _whole(raw).partition(b"\r\n")[2]


def appended(raw: bytes | None, name: str, value: bytes) -> bytes:
    """The same block with a last line more: of a name that comes twice, that one counts."""
    return b"%b%b: %b\r\n\r\n" % (_whole(raw)[:-2] if raw else PROLOGUE, name.encode(), value)


def _whole(raw: bytes) -> bytes:
    """The server passes on whatever a publisher calls a header block: one without an end would swallow what follows."""
    if raw.endswith(b"\r\n\r\n"):
        return raw
    lines = [line for line in raw.split(b"\r\n")[1:] if b":" in line]
    return PROLOGUE + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def find(raw: bytes, name: bytes) -> bytes | None:
    """The value of one header in a raw block, or None. ``name`` is matched by case, as NATS does."""
    start = raw.find(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    end = raw.find(b"\r\n", start)
    return raw[start : end if end >= 0 else None].strip()


def find_last(raw: bytes, name: bytes) -> bytes | None:
    """As `find`, of a name that comes twice the last: what NATS adds to a stored message stands at its end."""
    start = raw.rfind(b"\r\n" + name + b":")
    return None if start < 0 else find(raw[start:], name)


def parse(raw: bytes | None) -> dict[str, str]:
    """All headers of a raw block; of a name that comes twice the last one wins. Off the warm path only."""
    if not raw:
        return {}
    fields = {}
    for line in raw.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            fields[name.decode("latin-1")] = value.strip().decode("utf-8", "replace")
    return fields


def publishers(raw: bytes | None) -> bytes | None:
    """A block without NATS's own lines and without what the platform says about an attempt; None when none is left."""
    if not raw:
        return None
    lines = [line for line in raw.split(b"\r\n")[1:] if line and _is_publishers(line)]
    return PROLOGUE + b"".join(line + b"\r\n" for line in lines) + b"\r\n" if lines else None


_OF_AN_ATTEMPT = frozenset(name.lower() for name in OF_AN_ATTEMPT)


def _is_publishers(line: bytes) -> bool:
    name = line.partition(b":")[0].decode("latin-1").strip().lower()
    return name not in _OF_AN_ATTEMPT and not name.startswith("nats-")


def status(raw: bytes | None) -> str | None:
    """The server's status in a reply's first line (``NATS/1.0 503``), or None."""
    if not raw or raw[8:9] != b" ":
        return None
    return raw[9:12].decode()
