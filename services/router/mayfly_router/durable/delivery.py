"""An event or durable call as a consumer hands it over, and what its headers say about its way here.

Everything that is needed to settle a delivery stands in its acknowledgement subject,
``$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<consumer sequence>.<timestamp>.<pending>``, and travels in the
subject on which its outcome is awaited; so an outcome can be settled by a router that has never seen the delivery. What
such a router lacks, the payload, is read from the stream (`Delivery.whole`).

A message on ``mayfly.due.<function>`` was put there by the platform itself (a retry, a call for later, a dead letter
driven again, the tick of a schedule): only there are headers about attempts believed.
"""

from typing import TYPE_CHECKING

from mayfly_proto import headers, storage, subjects
from mayfly_router.durable import claims

if TYPE_CHECKING:
    from mayfly_router.durable.source import Source

_ACK = len(subjects.ACK_PREFIX)
_OURS = b"\r\nMayfly-"
_INVOCATION = headers.INVOCATION.encode()
_ATTEMPT = headers.ATTEMPT.encode()
_SUBJECT = headers.EVENT_SUBJECT.encode()
_FIRST_AT = headers.FIRST_AT.encode()
_KEY = headers.IDEMPOTENCY_KEY.encode()
_DEPTH = headers.DEPTH.encode()
_SCHEDULER = headers.SCHEDULER.encode()


class Delivery:
    __slots__ = (
        "ack",
        "attempt",
        "claimed",
        "extended",
        "first_at",
        "headers",
        "identity",
        "invocation",
        "key",
        "parked",
        "payload",
        "redelivered",
        "sequence",
        "source",
        "subject",
        "taken",
        "whole",
    )

    def __init__(self, source: "Source", ack: bytes, redelivered: int, sequence: int, now: float) -> None:
        self.source = source
        self.ack = ack
        self.redelivered = redelivered
        self.sequence = sequence
        self.extended = now  # when its lease was extended last
        self.invocation = self.identity = f"{source.letter}{sequence}"  # `identity` is unique within the function
        if source.letter == storage.OTHER_STREAM:
            self.identity = f"{self.invocation}-{source.consumer}"
        self.attempt = 1
        self.first_at = 0  # unix ms of the first attempt; 0: this is the first
        self.subject = ""  # where it was published
        self.headers: bytes | None = None  # the publisher's
        self.payload = b""
        self.key = ""  # of the events that run one after another
        self.whole = False  # the message is known
        self.parked = False  # it waits for others of its key
        self.claimed = False  # its idempotency key, if it has one, is taken by it
        self.taken = False  # it runs, or its end is being written down: it cannot be taken back

    def fill(self, subject: bytes, raw: bytes | None, payload: bytes) -> "Delivery":
        """The message itself."""
        self.subject = subject.decode("utf-8", "replace")  # the server takes any bytes
        if self.is_held:
            self.source.bytes += len(payload) - len(self.payload)
        self.headers, self.payload, self.whole = raw, payload, True
        if self.source.is_due:
            self._read_due(raw or b"")
        return self

    def _read_due(self, raw: bytes) -> None:
        if (invocation := headers.find(raw, _INVOCATION)) is not None:
            self.invocation = invocation.decode()
            self.attempt = int(headers.find(raw, _ATTEMPT) or 1)
            self.first_at = int(headers.find(raw, _FIRST_AT) or 0)
            self.subject = (headers.find(raw, _SUBJECT) or b"").decode() or self.subject
            scheduler = headers.find(raw, _SCHEDULER) or b""
            self.identity = scheduler.decode().rpartition(".")[2] or f"{self.invocation}-{self.sequence}"
            self.headers = headers.publishers(raw)

    def park(self) -> None:
        """It waits for others of its key: no place in the window is taken by it."""
        if not self.parked:
            self.parked = True
            self.source.parked += 1

    def unpark(self) -> None:
        if self.parked:
            self.parked = False
            self.source.parked -= 1

    def drop(self) -> None:
        """It is no longer looked after here."""
        self.unpark()
        if self.is_held:
            del self.source.held[self.sequence]
            self.source.bytes -= len(self.payload)

    @property
    def is_held(self) -> bool:
        """It is looked after here; not so one that another connection has had, or that was given back."""
        return self.source.held.get(self.sequence) is self

    @property
    def waits(self) -> bool:
        """It is looked after here, and can be taken back."""
        return self.is_held and not self.taken

    @property
    def settle(self) -> str:
        """Where its outcome is awaited."""
        return subjects.settle(self.source.function, self.ack[_ACK:].decode())

    @property
    def is_call(self) -> bool:
        """Somebody may ask for its result."""
        return self.invocation.startswith(storage.ID_LETTERS[storage.ASYNC])

    @property
    def key_of_call(self) -> str | None:
        """Where it has to claim its idempotency key, if it is a call with one."""
        if not self.is_call or self.headers is None or _OURS not in self.headers:
            return None
        found = headers.find(self.headers, _KEY)
        return claims.key(self.source.function, found.decode("utf-8", "replace")) if found else None

    @property
    def claim(self) -> str | None:
        """What it has a claim to, and has to give up or to fulfil."""
        return self.key_of_call if self.claimed else None

    @property
    def depth(self) -> int:
        """How many functions it has come through."""
        if self.headers is None or _OURS not in self.headers:
            return 0
        found = headers.find(self.headers, _DEPTH) or b"0"
        return int(found[:6]) if found.isdigit() else 0

    def for_handler(self) -> bytes:
        """The publisher's headers, and where it published. The last one of a name counts: it cannot be forged."""
        return headers.appended(self.headers, headers.EVENT_SUBJECT, self.subject.encode())

    def __repr__(self) -> str:
        return f"<Delivery {self.invocation} of {self.source.function}, attempt {self.attempt}>"


def parse_ack(ack: bytes) -> tuple[bytes, int, int, int]:
    """``(b"<stream>.<consumer>", times delivered, sequence, pending)`` of an acknowledgement subject."""
    _, _, stream, consumer, delivered, sequence, _, _, pending = ack.split(b".")
    return b"%b.%b" % (stream, consumer), int(delivered), int(sequence), int(pending)


def parse_settle(subject: str) -> tuple[str, bytes]:
    """Function and acknowledgement subject of a settle subject."""
    tokens = subject.removeprefix(subjects.SETTLE_PREFIX).split(".")
    ack = ".".join(tokens[-subjects.ACK_TOKENS :])
    return ".".join(tokens[: -subjects.ACK_TOKENS]), f"{subjects.ACK_PREFIX}{ack}".encode()
