"""Storing a message for certain: published until its stream says that it has it, and stored once all the same."""

import asyncio

from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import (
    BusError,
    JetStreamError,
    MessageTooLarge,
    NoResponders,
    RequestTimeout,
    SubjectFull,
)
from mayfly_proto.errors import CallError, ErrorType

_ATTEMPT_S = 2.0  # an acknowledgement that takes longer is taken for lost
_PAUSE_S = 0.1
_BUSY_S = 5  # until a subject that is full may be tried again

_TRY_AGAIN = 10008  # JetStream system temporarily unavailable
_STORE_FAILED = 10077
_TOO_LARGE = 10054  # for the stream, headers included
_PER_SUBJECT = "per subject"  # in the description; the code is the same when the whole stream is full


async def accept(bus: Bus, subject: str, payload: bytes, *, headers: bytes, wait_s: float, component: str) -> int:
    """`store` for whoever has callers of his own. Raises `CallError` that ``component`` answers for."""
    try:
        return await store(bus, subject, payload, headers=headers, wait_s=wait_s)
    except SubjectFull:
        message = f"as many messages of {subject} as may wait are waiting"
        raise CallError(ErrorType.THROTTLED, message, component=component, retry_after_s=_BUSY_S) from None
    except MessageTooLarge as error:
        raise CallError(ErrorType.TOO_LARGE, str(error), component=component) from None
    except JetStreamError as error:
        if error.code == _TOO_LARGE:
            message = f"{len(payload)} bytes, and {len(headers)} of headers: more than the stream takes in a message"
            raise CallError(ErrorType.TOO_LARGE, message, component=component) from None
        message = f"the stream does not take it: {error}"
        raise CallError(ErrorType.UNAVAILABLE, message, component=component, retry_after_s=1) from None
    except BusError:
        message = f"no acknowledgement in {wait_s:g} s: it may have been stored, or not"
        raise CallError(ErrorType.UNAVAILABLE, message, component=component, retry_after_s=1) from None


async def store(bus: Bus, subject: str, payload: bytes, *, headers: bytes, wait_s: float) -> int:
    """Returns the sequence. The same ``headers`` go with each attempt: with a ``Nats-Msg-Id`` in them, a message whose
    acknowledgement was lost is stored once.

    Raises `SubjectFull`, `JetStreamError` when the stream refuses it, and after ``wait_s`` without an acknowledgement
    `NoResponders` or `RequestTimeout`: it may have been stored then.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + wait_s
    while True:
        left_s = max(deadline - clock(), 0.0)
        try:
            return await jetstream.publish(
                bus, subject, payload, headers=headers, timeout_s=min(max(left_s, _PAUSE_S), _ATTEMPT_S)
            )
        except JetStreamError as error:
            if error.code == _STORE_FAILED and _PER_SUBJECT in str(error):
                raise SubjectFull(str(error), error.code) from None
            if error.code != _TRY_AGAIN or left_s <= _PAUSE_S:
                raise
        except (NoResponders, RequestTimeout):
            if left_s <= _PAUSE_S:
                raise
        await asyncio.sleep(_PAUSE_S)
