"""Storing a message for certain: published until its stream says that it has it, and stored once all the same."""

import asyncio

from mayfly_chassis import jetstream
from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import JetStreamError, NoResponders, RequestTimeout, SubjectFull

_ATTEMPT_S = 2.0  # an acknowledgement that takes longer is taken for lost
_PAUSE_S = 0.1

_TRY_AGAIN = 10008  # JetStream system temporarily unavailable
_STORE_FAILED = 10077
_PER_SUBJECT = "per subject"  # in the description; the code is the same when the whole stream is full


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
