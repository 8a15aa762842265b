"""Who may do what: one NATS user for each role, with exactly the subjects that its work needs.

A service answers by publishing to its caller's inbox, so it holds the inboxes of the roles that call it, and no
`allow_responses`: for a process that only passes a reply subject on, the server would keep every unused grant.
Inbox prefixes are by role: nobody reads another role's replies. Connections without a role of their own (a bare
``nats req``) share ``_INBOX.>``, so an operator gives the CLI an ``--inbox-prefix``; `mayfly up` writes it into the
CLI's context.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mayfly_broker.access import Access
from mayfly_proto import storage, subjects

ANY = "*"
REST = ">"

CLIENT = "client"
GATEWAY = "gateway"
REGISTRY = "registry"
ROUTER = "router"
ACTIVATOR = "activator"
WORKER = "worker"
SCALER = "scaler"
OPERATOR = "operator"


@dataclass(frozen=True)
class Permissions:
    """Allow lists; what is in neither is refused. ``subject queue`` allows a subscription in that queue group only."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def _inbox(role: str) -> str:
    return f"{subjects.inbox(role)}.>"


def _queue(subject: str, group: str) -> str:
    return f"{subject} {group}"


def _get(*streams: str) -> tuple[str, ...]:
    """Read messages by direct get: the batched form, and the last message of a subject."""
    return tuple(form for s in streams for form in (subjects.direct_get(s), subjects.direct_get_last(s, REST)))


def _read(*buckets: str) -> tuple[str, ...]:
    return _get(*map(subjects.kv_stream, buckets))


def _feed(*buckets: str) -> tuple[str, ...]:
    return tuple(map(subjects.kv_feed_of, buckets))


def _write(*buckets: str) -> tuple[str, ...]:
    return tuple(subjects.kv(bucket, REST) for bucket in buckets)


def _store(*buckets: str) -> tuple[str, ...]:
    """Put objects."""
    return tuple(form(b, ANY) for b in buckets for form in (subjects.object_chunks, subjects.object_meta))


def _discard(*buckets: str) -> tuple[str, ...]:
    """Remove objects: their chunks are purged from the stream."""
    return tuple(subjects.stream_purge(subjects.object_stream(bucket)) for bucket in buckets)


_PEOPLE = (f"{subjects.CLIENT_INBOX}.>", _inbox(OPERATOR))  # who asks $SRV.> and, by `nats req`, anything else
_CALLERS = (  # of functions
    *_PEOPLE,
    _inbox(CLIENT),
    _inbox(GATEWAY),
    subjects.SERVICE_IMPORT_REPLIES,
    _inbox(WORKER),  # on behalf of its functions
)
_DURABLE = (storage.EVENTS, storage.ASYNC, storage.SCHEDULES)  # streams whose consumers feed functions


def roles(access: Access) -> Mapping[str, Permissions]:
    """``access``: what of the user's own functions may touch."""
    return MappingProxyType(
        {
            CLIENT: Permissions(
                publish=(subjects.FUNCTIONS, subjects.ASYNC_CALLS, subjects.EVENTS, subjects.METRICS),
                subscribe=(f"{subjects.CLIENT_INBOX}.>", _inbox(CLIENT)),
            ),
            GATEWAY: Permissions(
                publish=(
                    subjects.FUNCTIONS,
                    subjects.ASYNC_CALLS,
                    subjects.EVENTS,
                    subjects.API,
                    subjects.node_instances(ANY),
                    *_read(storage.FUNCTIONS, storage.VERSIONS, storage.NODES, storage.TARGETS),
                    *_get(storage.LOGS, storage.RESULTS, storage.DECISIONS),
                    *_get(*map(subjects.object_stream, (storage.CODE, storage.INCOMING))),
                    *_store(storage.INCOMING),
                    *_discard(storage.INCOMING),
                    *_PEOPLE,
                ),
                subscribe=(
                    _inbox(GATEWAY),
                    subjects.SERVICES,
                    *_feed(storage.FUNCTIONS, storage.VERSIONS, storage.NODES, storage.TARGETS),
                    subjects.LOAD,
                    subjects.DECISIONS,
                    subjects.ALL_LOGS,
                    subjects.ALL_RESULTS,  # of durable calls that are waited for
                ),
            ),
            REGISTRY: Permissions(
                publish=(
                    subjects.FUNCTIONS,  # the probe that ends a deploy
                    *_write(storage.FUNCTIONS, storage.VERSIONS, storage.NUMBERS),
                    *_read(storage.FUNCTIONS, storage.VERSIONS, storage.NUMBERS),
                    *_store(storage.CODE),
                    subjects.object_meta(storage.INCOMING, ANY),
                    *_discard(storage.CODE, storage.INCOMING),
                    subjects.stream_info(subjects.object_stream(storage.CODE)),  # which chunks there are
                    # `deploy --object BUCKET/NAME` reads a bucket of the user's; a batch is asked for by stream alone
                    subjects.direct_get(ANY),
                    subjects.direct_get_last(ANY, subjects.object_meta(ANY, ANY)),
                    subjects.direct_get_last(ANY, subjects.object_chunks(ANY, ANY)),
                    *(subjects.direct_get_last(s, REST) for s in (*_DURABLE, storage.RESULTS, storage.DLQ)),
                    subjects.consumer_create(ANY, ANY),
                    subjects.consumer_info(ANY, ANY),
                    subjects.consumer_list(ANY),
                    subjects.consumer_delete(ANY, ANY),
                    subjects.consumer_pause(ANY, ANY),
                    *map(subjects.stream_info, (*_DURABLE, storage.DLQ)),
                    *map(subjects.stream_purge, (*_DURABLE, storage.DLQ)),
                    *map(subjects.message_delete, (storage.ASYNC, storage.DLQ)),
                    subjects.SCHEDULES,
                    subjects.ALL_DUE,  # dead letters, driven again
                    subjects.DEAD_LETTERS,  # durable calls of what no function is called
                    subjects.ALL_RESULTS,
                    subjects.CANCEL,
                    *_PEOPLE,
                    _inbox(GATEWAY),
                ),
                subscribe=(
                    _inbox(REGISTRY),
                    subjects.SERVICES,
                    _queue(subjects.API, subjects.REGISTRY_QUEUE),
                ),
            ),
            ROUTER: Permissions(
                publish=(
                    subjects.node_invoke(ANY),
                    subjects.node_adopt(ANY),
                    subjects.node_stop(ANY),
                    subjects.node_hold(ANY),
                    subjects.router_handover(ANY),
                    subjects.router_ping(ANY),
                    subjects.ACTIVATE,
                    subjects.load_router(ANY),
                    subjects.BLOCKED,
                    *_write(storage.ROUTERS, storage.IDEMPOTENCY),
                    *_read(storage.FUNCTIONS, storage.VERSIONS, storage.ROUTES, storage.NODES, storage.ROUTERS),
                    *_read(storage.IDEMPOTENCY, storage.TARGETS),
                    subjects.consumer_next(ANY, ANY),
                    subjects.consumer_info(ANY, ANY),
                    subjects.ACKS,
                    subjects.direct_get(ANY),  # the event of a delivery that another router has begun with
                    *map(subjects.message_delete, (storage.ASYNC,)),  # a call that is taken back
                    *map(subjects.stream_purge, (storage.SCHEDULES,)),
                    subjects.SCHEDULES,  # retries
                    subjects.DEAD_LETTERS,
                    subjects.ALL_RESULTS,
                    subjects.EVENTS,  # destinations
                    *access.publish_subjects,
                    subjects.SETTLE,
                    subjects.KEYED,
                    *_CALLERS,
                    _inbox(REGISTRY),  # its probe
                    _inbox(ROUTER),
                ),
                subscribe=(
                    _inbox(ROUTER),
                    subjects.SERVICES,
                    _queue(subjects.FUNCTIONS, subjects.ROUTER_QUEUE),
                    _queue(subjects.SETTLE, subjects.ROUTER_QUEUE),
                    _queue(subjects.KEYED, subjects.ROUTER_QUEUE),
                    _queue(subjects.CANCEL, subjects.ROUTER_QUEUE),
                    *(_queue(subject, subjects.TRIGGER_QUEUES) for subject in access.trigger_subjects),
                    subjects.router_anything(ANY),
                    subjects.LOAD_NODES,
                    subjects.SHARES,
                    subjects.DISCONNECT,
                    *_feed(storage.FUNCTIONS, storage.VERSIONS, storage.ROUTES, storage.NODES, storage.ROUTERS),
                    *_feed(storage.TARGETS),
                ),
            ),
            ACTIVATOR: Permissions(
                publish=(
                    subjects.node_start(ANY),
                    *_write(storage.ROUTES),  # a gone node's entries are purged
                    *_read(storage.ROUTES, storage.NODES),
                    *_PEOPLE,
                    _inbox(ROUTER),
                ),
                subscribe=(
                    _inbox(ACTIVATOR),
                    subjects.SERVICES,
                    _queue(subjects.ACTIVATE, subjects.ACTIVATOR_QUEUE),
                    subjects.LOAD_NODES,
                    *_feed(storage.ROUTES, storage.NODES),
                ),
            ),
            WORKER: Permissions(
                publish=(
                    subjects.router_done(ANY),
                    subjects.router_failed(ANY),
                    subjects.load_node(ANY),
                    subjects.ALL_LOGS,
                    subjects.ALL_USAGE,
                    *_write(storage.ROUTES, storage.NODES),
                    *_read(storage.VERSIONS, storage.ROUTES, storage.NODES),
                    *_get(subjects.object_stream(storage.CODE)),
                    subjects.SETTLE,
                    subjects.KEYED,
                    # on behalf of functions, as far as their manifests say
                    subjects.FUNCTIONS,
                    subjects.EVENTS,
                    subjects.METRICS,
                    *access.publish_subjects,
                    *_write(*access.kv_buckets),
                    *_read(*access.kv_buckets),
                    *_store(*access.object_buckets),
                    *_get(*map(subjects.object_stream, access.object_buckets)),
                    *_discard(*access.object_buckets),
                    *_CALLERS,
                    *map(_inbox, (ROUTER, ACTIVATOR, SCALER)),
                ),
                subscribe=(
                    _inbox(WORKER),
                    subjects.SERVICES,
                    subjects.node_anything(ANY),
                    *_feed(storage.NODES),  # a newer worker of the same name
                ),
            ),
            SCALER: Permissions(
                publish=(
                    subjects.node_drain(ANY),
                    subjects.SHARES,
                    subjects.DECISIONS,
                    subjects.LOCAL_NODES,
                    *_write(storage.TARGETS, storage.LEARNED, storage.LEASES),
                    *_read(storage.FUNCTIONS, storage.VERSIONS, storage.NODES),
                    *_read(storage.TARGETS, storage.LEARNED, storage.LEASES),
                    *_PEOPLE,
                    _inbox(GATEWAY),
                ),
                subscribe=(
                    _inbox(SCALER),
                    subjects.SERVICES,
                    _queue(subjects.NODE_API, subjects.SCALER_QUEUE),
                    subjects.LOAD,
                    subjects.BLOCKED,
                    subjects.METRICS,
                    *_feed(storage.FUNCTIONS, storage.VERSIONS, storage.NODES),
                    *_feed(storage.TARGETS),
                ),
            ),
            OPERATOR: Permissions(publish=(REST,), subscribe=(REST,)),
        }
    )


ROLES = roles(Access())
