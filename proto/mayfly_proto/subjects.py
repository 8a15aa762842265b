"""Every subject of Mayfly, as a function: the publisher's form and, where it differs, the subscriber's beside it.

What people type is short (``fn.hello``); what services say to each other is under ``mayfly.>``.
"""

# callers → the owning router; payload is the event, the reply is the result
FUNCTIONS = "fn.>"


def call(function: str, version: int | None = None) -> str:
    return f"fn.{function}" if version is None else f"fn.{function}@{version}"


# durable calls and events, into streams
def async_call(function: str) -> str:
    return f"async.{function}"


ASYNC_CALLS = "async.>"


def event(name: str) -> str:
    """``orders.created`` → ``event.orders.created``; wildcards stay wildcards."""
    return f"event.{name}"


EVENTS = "event.>"


def schedule(function: str, identity: str) -> str:
    """A schedule, or one call for later; what it fires has the subject `due`."""
    return f"mayfly.schedule.{function}.{identity}"


SCHEDULES = "mayfly.schedule.>"


def due(function: str) -> str:
    """Calls whose time has come: ticks of schedules, retries, calls for later, dead letters driven again."""
    return f"mayfly.due.{function}"


ALL_DUE = "mayfly.due.>"


def result(invocation: str, function: str) -> str:
    return f"result.{invocation}.{function}"


def results_of(invocation: str) -> str:
    return f"result.{invocation}.>"


ALL_RESULTS = "result.>"


def dead_letter(function: str) -> str:
    return f"dlq.{function}"


DEAD_LETTERS = "dlq.>"
ACK_TOKENS = 7  # of a delivery's acknowledgement subject, behind `ACK_PREFIX`
ACK_PREFIX = "$JS.ACK."


# worker → the owning router (queue `router`): how a delivery ended. The tokens of its acknowledgement subject travel
# in the subject, so whoever owns the function by then can settle it, and needs no memory of it.
def settle(function: str, ack: str) -> str:
    """``ack``: the delivery's ``$JS.ACK.`` subject without that prefix."""
    return f"{SETTLE_PREFIX}{function}.{ack}"


def settle_of(function: str) -> str:
    return f"{SETTLE_PREFIX}{function}{'.*' * ACK_TOKENS}"


SETTLE_PREFIX = "mayfly.settle."
SETTLE = "mayfly.settle.>"


# worker → the owning router (queue `router`): the result of a call with an idempotency key
def keyed(function: str, key: str) -> str:
    """``key``: the hash of the caller's key, one token."""
    return f"{KEYED_PREFIX}{function}.{key}"


def keyed_of(function: str) -> str:
    return f"{KEYED_PREFIX}{function}.*"


KEYED_PREFIX = "mayfly.keyed."
KEYED = "mayfly.keyed.>"


# registry → the owning router (queue `router`): take back a durable call that has not started
def cancel(function: str) -> str:
    return f"mayfly.cancel.{function}"


CANCEL = "mayfly.cancel.>"


# router → worker, activator → worker
def node_invoke(node: str) -> str:
    return f"mayfly.node.{node}.invoke"


def node_start(node: str) -> str:
    return f"mayfly.node.{node}.start"


def node_stop(node: str) -> str:
    return f"mayfly.node.{node}.stop"


def node_hold(node: str) -> str:
    return f"mayfly.node.{node}.hold"


def node_drain(node: str) -> str:
    """The leading scaler → worker: take no new instances, let go of those there; or take some again."""
    return f"mayfly.node.{node}.drain"


def node_adopt(node: str) -> str:
    return f"mayfly.node.{node}.adopt"


def node_instances(node: str) -> str:
    return f"mayfly.node.{node}.instances"


def node_anything(node: str) -> str:
    return f"mayfly.node.{node}.>"


# worker → router, router → router
def router_done(router: str) -> str:
    return f"mayfly.router.{router}.done"


def router_failed(router: str) -> str:
    """Instances that could not be started."""
    return f"mayfly.router.{router}.failed"


def router_handover(router: str) -> str:
    return f"mayfly.router.{router}.handover"


def router_ping(router: str) -> str:
    """Answered by a router that is alive; NATS itself answers 'no responders' for one that is not."""
    return f"mayfly.router.{router}.ping"


def router_state(router: str) -> str:
    """What a router knows, as JSON for people: ``nats req mayfly.router.r1.state ''``."""
    return f"mayfly.router.{router}.state"


def router_anything(router: str) -> str:
    return f"mayfly.router.{router}.>"


# router → activator (queue group)
ACTIVATE = "mayfly.activate"


# once a second, for people too
def load_node(node: str) -> str:
    return f"mayfly.load.node.{node}"


LOAD_NODES = "mayfly.load.node.*"


def load_router(router: str) -> str:
    return f"mayfly.load.router.{router}"


LOAD_ROUTERS = "mayfly.load.router.*"
LOAD = "mayfly.load.>"


# the leading scaler → routers, once a second while the cluster is full; people → what it decides and why
SHARES = "mayfly.scaler.shares"
DECISIONS = "mayfly.scaler.decision"
# router → scalers: an order found no place
BLOCKED = "mayfly.scaler.blocked"


# a function, or anyone → scalers: a number that functions scale on
def metric(name: str) -> str:
    """``jobs.waiting`` → ``metric.jobs.waiting``."""
    return f"metric.{name}"


METRICS = "metric.>"


# scaler → `mayfly up`, which starts and stops the workers of its machine
def local_nodes(verb: str) -> str:
    return f"mayfly.local.nodes.{verb}"


LOCAL_NODES = "mayfly.local.nodes.*"


# gateway, CLI, ``nats req`` → registry (queue group); what is about nodes → scaler (queue group)
def api(resource: str, verb: str) -> str:
    return f"mayfly.api.{resource}.{verb}"


API = "mayfly.api.>"
NODE_API = "mayfly.api.node.*"


# streams
def log(function: str, instance: str) -> str:
    return f"log.{function}.{instance}"


def logs_of(function: str) -> str:
    return f"log.{function}.*"


def usage(function: str) -> str:
    return f"usage.{function}"


ALL_LOGS = "log.>"
ALL_USAGE = "usage.>"


# KV buckets, their republish feeds, and object stores, in NATS's own layout
def kv(bucket: str, key: str) -> str:
    return f"$KV.{bucket}.{key}"


def kv_feed(bucket: str) -> str:
    """Where a bucket's stream republishes every change; ``kv_feed(b) + key`` is one key's."""
    return f"mayfly.kv.{bucket}."


def kv_feed_of(bucket: str) -> str:
    return f"mayfly.kv.{bucket}.>"


def kv_stream(bucket: str) -> str:
    return f"KV_{bucket}"


OBJECT_STREAM_PREFIX = "OBJ_"


def object_stream(bucket: str) -> str:
    return f"{OBJECT_STREAM_PREFIX}{bucket}"


def object_chunks(bucket: str, nuid: str) -> str:
    return f"$O.{bucket}.C.{nuid}"


def object_meta(bucket: str, encoded_name: str) -> str:
    return f"$O.{bucket}.M.{encoded_name}"


def direct_get(stream: str) -> str:
    return f"$JS.API.DIRECT.GET.{stream}"


def direct_get_last(stream: str, subject: str) -> str:
    return f"$JS.API.DIRECT.GET.{stream}.{subject}"


def stream_create(stream: str) -> str:
    return f"$JS.API.STREAM.CREATE.{stream}"


def stream_update(stream: str) -> str:
    return f"$JS.API.STREAM.UPDATE.{stream}"


def stream_info(stream: str) -> str:
    return f"$JS.API.STREAM.INFO.{stream}"


def stream_purge(stream: str) -> str:
    return f"$JS.API.STREAM.PURGE.{stream}"


def message_delete(stream: str) -> str:
    return f"$JS.API.STREAM.MSG.DELETE.{stream}"


def consumer_create(stream: str, consumer: str) -> str:
    return f"$JS.API.CONSUMER.CREATE.{stream}.{consumer}"


def consumer_info(stream: str, consumer: str) -> str:
    return f"$JS.API.CONSUMER.INFO.{stream}.{consumer}"


def consumer_list(stream: str) -> str:
    return f"$JS.API.CONSUMER.LIST.{stream}"


def consumer_delete(stream: str, consumer: str) -> str:
    return f"$JS.API.CONSUMER.DELETE.{stream}.{consumer}"


def consumer_pause(stream: str, consumer: str) -> str:
    return f"$JS.API.CONSUMER.PAUSE.{stream}.{consumer}"


def consumer_next(stream: str, consumer: str) -> str:
    return f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"


ACKS = "$JS.ACK.>"


# the server's own events, imported from its system account
DISCONNECT = "mayfly.sys.disconnect"


def account_disconnect(account: str) -> str:
    """As the system account has it."""
    return f"$SYS.ACCOUNT.{account}.DISCONNECT"


def service_verb(verb: str, name: str | None = None, identity: str | None = None) -> str:
    """NATS micro service discovery: ``$SRV.PING``, ``$SRV.INFO.registry``, ``$SRV.STATS.registry.<id>``."""
    return ".".join(part for part in ("$SRV", verb, name, identity) if part)


SERVICES = "$SRV.>"


def inbox(role: str) -> str:
    """The inbox prefix of a role: nobody else may subscribe below it."""
    return f"_INBOX_{role}"


GATEWAY_INBOX = inbox("gateway").encode() + b"."  # replies to calls that it sends on for clients by HTTP
CLIENT_INBOX = "_INBOX"  # what every NATS client uses unless told otherwise
SERVICE_IMPORT_REPLIES = "_R_.>"  # replies to calls that came through an account's service import

# A reply subject is the caller's choice and a service publishes to it with its own permissions: one that does not
# start so is refused, else a caller could have a worker write its result into the Route Cache.
REPLY_PREFIXES = (b"_INBOX", b"_R_.")

ROUTER_QUEUE = "router"


def trigger_queue(function: str) -> str:
    """The queue group for a subject of core NATS that triggers this function: each function gets each message."""
    return f"{ROUTER_QUEUE}.{function}"


TRIGGER_QUEUES = "router.>"
ACTIVATOR_QUEUE = "activator"
REGISTRY_QUEUE = "registry"
SCALER_QUEUE = "scaler"
