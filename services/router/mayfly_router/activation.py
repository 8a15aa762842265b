"""How many instances to order now.

The idea: a start is an event, not a loop. Whenever a call finds no free slot, a start ends or a call ends while others
wait, `need` says how many more instances the queue deserves beyond what is already coming: instances that are
starting, and slots that will free before a fresh instance could be ready (the credit). Counting what is coming is the
whole protection against a herd: the order raises `starting` in the same step, so the next question finds it covered.

Bounds: never more under way than `PENDING_CAP` or the number ready, whichever is larger (so N instances stand after
1 + log2(N / 32) cold starts); never more than `room`.

Against waiting too long on a credit that does not come true: once the oldest call has waited one cold start the
credit is nothing, and a queue that has not been empty for two cold starts gets one instance more per cold start.

Rejected: a desired count chased by a control loop (2 s of waiting where this has milliseconds), and one start per
waiting call (up to eight times the instances for the same waiting time).
"""

from math import ceil, floor

import msgspec

PENDING_CAP = 32
SHORTEST_PATIENCE_S = 0.020  # below this a cold start is as good as instant
CREDIT = 0.5  # of the completions expected during a cold start
SLACK = 0.5  # of a cold start: the further wait allowed to a call behind a fresh slot

FAILURES_BEFORE_BACKOFF = 5
FIRST_BACKOFF_S = 0.2
LONGEST_BACKOFF_S = 30.0


class Demand(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the owner knows of one version, exactly."""

    queued: int
    free: int = 0  # slots
    busy: int = 0  # slots
    ready: int = 0  # instances that take calls
    starting: int = 0  # instances ordered and not ready
    concurrency: int = 1
    room: int  # instances that the limit still allows
    eager: bool = False
    failing: bool = False  # the last start failed and nothing is ready
    service_s: float | None = None  # mean time of a call; None: none has ended yet
    cold_s: float = 0.03  # mean time from order to ready
    head_age_s: float = 0.0  # of the oldest waiting call
    waiting_s: float = 0.0  # since the queue was last empty
    since_order_s: float = float("inf")


def patience_s(cold_s: float) -> float:
    """How long a call may wait for slots to free before a start has to cover it."""
    return max(cold_s, SHORTEST_PATIENCE_S)


def need(demand: Demand) -> int:
    """Instances to order now; 0 when what is ready and coming covers the queue."""
    waiting = demand.queued - demand.free
    if waiting <= 0:
        return 0
    probe = 1 - demand.starting
    wanted = probe if demand.failing else max(_uncovered(demand, waiting), _overdue(demand))
    return max(0, min(wanted, max(PENDING_CAP, demand.ready) - demand.starting, demand.room))


def _uncovered(demand: Demand, waiting: int) -> int:
    patience = patience_s(demand.cold_s)
    service_s = patience if demand.service_s is None else demand.service_s
    per_instance: float = demand.concurrency
    credit = 0
    if not demand.eager:
        per_instance *= max(1.0, max(demand.cold_s * SLACK, SHORTEST_PATIENCE_S) / service_s)
        if demand.service_s is not None and demand.head_age_s < patience:
            credit = floor(CREDIT * demand.busy * demand.cold_s / service_s)
    return ceil((waiting - demand.starting * per_instance - credit) / per_instance - 1e-9)


def _overdue(demand: Demand) -> int:
    patience = patience_s(demand.cold_s)
    return int(demand.waiting_s >= 2 * patience and demand.since_order_s >= patience)


def backoff_s(failures: int, jitter: float) -> float:
    """How long to leave a version alone after so many failed starts in a row; ``jitter`` is from 0 to 1."""
    if failures < FAILURES_BEFORE_BACKOFF:
        return 0.0
    doubled: float = FIRST_BACKOFF_S * 2 ** min(failures - FAILURES_BEFORE_BACKOFF, 10)
    return min(LONGEST_BACKOFF_S, doubled) * (0.8 + 0.4 * jitter)
