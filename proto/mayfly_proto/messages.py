"""Messages between services: msgpack arrays (see `codec`). Positional, so fields are only ever added at the end,
with a default: an old reader ignores them and a new one fills them in.

The warm path is `Invoke` (router → worker) and `Done` (worker → router); the result itself goes straight from the
worker to the caller.
"""

import msgspec


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Positional on the wire."""


class Invoke(_Message, frozen=True):
    """router → ``mayfly.node.<node>.invoke``. The caller's header block travels as the message's own, untouched;
    the event is the payload."""

    seq: int  # counts the frames from this router to this node, from 1
    router: str
    epoch: int  # of the members that made this router the function's owner
    function: str
    version: int
    invocation: str
    reply: str  # where the result goes; "" when nobody waits
    budget_ms: int  # until the caller's deadline
    attempt: int = 1


class Done(_Message, frozen=True):
    """worker → ``mayfly.router.<router>.done``: everything that one tick of its loop finished."""

    node: str
    node_epoch: int
    last_seq: int  # the highest `Invoke.seq` seen from this router
    done: list[int]  # answered, by result or by error
    refused: list[tuple[int, str]] = []  # not started: (seq, Refusal); the call is the router's again


class Refusal:
    """Why a call or a start was not taken, or not asked for."""

    BUSY = "busy"  # no free slot
    STALE = "stale"  # the router is no longer the function's owner
    DRAINING = "draining"
    NO_ROOM = "no_room"  # memory
    SLOTS = "slots"  # as many starts under way as the node allows
    LABELS = "labels"  # no node has the labels that the function asks for
    NO_NODES = "no_nodes"  # there is no worker at all
    SHARE = "share"  # the function may have no more of a cluster that is full


class Activate(_Message, frozen=True):
    """router → ``mayfly.activate``, a request: start these instances somewhere."""

    router: str
    epoch: int
    function: str
    version: int
    instances: list[str]  # ids, chosen by the router; a start is asked for once
    memory_mb: int
    budget_ms: int  # how long a placement may take
    labels: dict[str, str] = {}  # that the node must have


class Activated(_Message, frozen=True):
    """The answer to `Activate`: where each instance went. What is in neither place was not started."""

    placed: dict[str, str]  # instance → node
    reason: str = ""  # why the rest has no place: a Refusal


class Start(_Message, frozen=True):
    """activator → ``mayfly.node.<node>.start``, a request, answered before the start is over."""

    router: str
    epoch: int
    function: str
    version: int
    instances: list[str]
    memory_mb: int


class Started(_Message, frozen=True):
    """The node's word: which of them it starts. Ready instances show in the Route Cache, failed ones in `Failed`."""

    accepted: list[str]
    reason: str = ""  # a Refusal for the rest


class Failed(_Message, frozen=True):
    """worker → ``mayfly.router.<router>.failed``: an accepted start came to nothing."""

    node: str
    node_epoch: int
    function: str
    version: int
    instance: str
    kind: str  # an errors.ErrorType value
    message: str
    traceback: str = ""


class Stop(_Message, frozen=True):
    """router → ``mayfly.node.<node>.stop``: drain these instances (idle ones stop at once, busy ones when done)."""

    router: str
    epoch: int
    function: str
    version: int
    count: int = -1  # how many, idle ones first; -1: all of this version


class Hold(_Message, frozen=True):
    """owner → ``mayfly.node.<node>.hold``: keep this many ready instances here, and others so long when they are idle,
    for five minutes from now. Below 0: as the version says."""

    router: str
    epoch: int
    function: str
    version: int
    count: int
    keep_alive_ms: int = -1  # of one of them
    further_keep_alive_ms: int = -1  # of the rest


class Drain(_Message, frozen=True):
    """leading scaler → ``mayfly.node.<node>.drain``, a request, answered by `Drained`: the node takes no new
    instances, and what it has leaves as soon as its owners have replaced what is held; or it takes some again."""

    scaler: str
    epoch: int  # an older one than the node has seen is refused
    on: bool


class Drained(_Message, frozen=True):
    node: str
    node_epoch: int
    state: str  # states.Node value, from now on
    reason: str = ""  # a Refusal, when nothing was changed


class Blocked(_Message, frozen=True):
    """router → ``mayfly.scaler.blocked``: these instances found no place."""

    router: str
    function: str
    version: int
    instances: int
    memory_mb: int  # of each
    reason: str


class Adopt(_Message, frozen=True):
    """router → ``mayfly.node.<node>.adopt``, a request: from this epoch on these are the routers.

    The worker works out by `ownership.owner` which functions are this router's, hands it their calls, and refuses
    frames of an older epoch from any other router. A router that leaves asks as well, with members it is not one of:
    what the node refused of its frames is said before the answer.
    """

    router: str
    epoch: int
    members: list[str]


class InstanceView(_Message, frozen=True):
    function: str
    version: int
    instance: str
    state: str  # states.Instance value


class CallView(_Message, frozen=True):
    seq: int  # by which `Done` will name it: the router's own, or, for a call adopted from another router, below 0
    function: str
    version: int
    invocation: str
    reply: str
    budget_ms: int


class Adopted(_Message, frozen=True):
    """The answer to `Adopt`: what of the router's functions lives on this node."""

    node: str
    node_epoch: int
    last_seq: int  # the highest `Invoke.seq` seen from this router (0: none)
    instances: list[InstanceView]
    calls: list[CallView]


class Handover(_Message, frozen=True):
    """old owner → ``mayfly.router.<router>.handover``: a call that still waits. Header block and payload as in
    `Invoke`."""

    function: str
    version: int  # 0: whatever is current
    invocation: str
    reply: str
    budget_ms: int
    attempt: int = 1
    epoch: int = 0  # of the members by which the sender took the receiver for the owner
