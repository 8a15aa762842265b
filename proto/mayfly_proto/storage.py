"""Names of what Mayfly keeps in JetStream. Their settings are JSON files in ``broker_config``."""

from mayfly_proto import names

# KV buckets
FUNCTIONS = "functions"  # <name> → FunctionRecord; the moment a version becomes visible
VERSIONS = "versions"  # <name>.<n> → VersionSpec, immutable
NUMBERS = "numbers"  # <name> → the highest version number ever given; outlives the function, so none comes twice
ROUTES = "routes"  # <node>.<version>.<name> → Route; the Route Cache
NODES = "nodes"  # <node> → NodeLease, expires by TTL
ROUTERS = "routers"  # "members" → RouterMembers (compare-and-set); <router> → lease, expires by TTL
TARGETS = "targets"  # function.<name> → FunctionTarget; node.<node> → NodeTarget; the scaler's wishes
LEARNED = "learned"  # <name> → Learned; what the scaler knows of a function's pauses, every ten minutes
LEASES = "leases"  # "scaler" → ScalerLease, expires by TTL

IDEMPOTENCY = "idempotency"  # <name>.<hash of the key> → IdempotencyRecord, expires by TTL

ROUTER_MEMBERS_KEY = "members"
SCALER_LEASE_KEY = "scaler"

# object stores
CODE = "code"  # packages by the sha256 of their bytes
INCOMING = "incoming"  # uploads on their way to the registry, an hour at most

# streams
EVENTS = "EVENTS"  # what triggers functions; one durable consumer for each function and trigger
ASYNC = "ASYNC"  # durable calls; a work queue with one consumer for each function
SCHEDULES = "SCHEDULES"  # schedules, retries, and what they fire; one consumer for each function
RESULTS = "RESULTS"  # of durable calls, the last word on each
DLQ = "DLQ"  # what failed for good
LOGS = "LOGS"
USAGE = "USAGE"
DECISIONS = "DECISIONS"  # the scaler's, with what it saw and why

BUCKETS = (FUNCTIONS, VERSIONS, NUMBERS, ROUTES, NODES, ROUTERS, TARGETS, LEARNED, LEASES, IDEMPOTENCY)
OBJECT_STORES = (CODE, INCOMING)
STREAMS = (EVENTS, ASYNC, SCHEDULES, RESULTS, DLQ, LOGS, USAGE, DECISIONS)


def version_key(function: str, version: int) -> str:
    return f"{function}.{version}"


def route_key(node: str, version: int, function: str) -> str:
    return f"{node}.{version}.{function}"


FUNCTION_TARGETS = "function."  # what keys of `TARGETS` begin with
NODE_TARGETS = "node."


def function_target_key(function: str) -> str:
    return f"{FUNCTION_TARGETS}{function}"


def node_target_key(node: str) -> str:
    return f"{NODE_TARGETS}{node}"


def idempotency_key(function: str, digest: str) -> str:
    return f"{function}.{digest}"


def parse_route_key(key: str) -> tuple[str, int, str]:
    """``n1.3.billing.charge`` → ``("n1", 3, "billing.charge")``."""
    node, version, function = key.split(".", 2)
    return node, int(version), function


def event_consumer(function: str, number: int) -> str:
    """Of one trigger, on whatever stream it is; ``number`` is the trigger's for as long as the function lives."""
    return f"{names.consumer_name(function)}_{number}"


def call_consumer(function: str) -> str:
    """Of a function's durable calls on ASYNC, and of what is due on SCHEDULES."""
    return names.consumer_name(function)


# A durable invocation's id is a letter for its stream and the sequence that the publisher's acknowledgement has.
ID_LETTERS = {ASYNC: "A", EVENTS: "E", SCHEDULES: "S"}
OTHER_STREAM = "X"  # of the user's own: X<sequence>


def invocation_id(stream: str, sequence: int) -> str:
    return f"{ID_LETTERS.get(stream, OTHER_STREAM)}{sequence}"
