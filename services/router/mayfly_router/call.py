"""A call at its owner, from its arrival until the worker says that it is done."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mayfly_router.durable.delivery import Delivery
    from mayfly_router.share import Share

FOREVER_S = 1e8  # until the deadline of a call that has none


class Call:
    """Times are of the owner's monotonic clock, in seconds."""

    __slots__ = (
        "adopted",
        "arrived",
        "attempt",
        "deadline",
        "deliveries",
        "gathered",
        "headers",
        "invocation",
        "left",
        "payload",
        "pinned",
        "reply",
        "sent",
        "share",
    )

    def __init__(
        self,
        invocation: str,
        reply: str,
        headers: bytes | None,
        payload: bytes,
        arrived: float,
        pinned: int = 0,
        attempt: int = 1,
    ) -> None:
        self.invocation = invocation
        self.reply = reply  # "": nobody waits for an answer
        self.headers = headers  # the caller's block, passed on untouched
        self.payload = payload
        self.arrived = arrived
        self.deadline = arrived  # until somebody who knows the function says more
        self.pinned = pinned  # the version asked for; 0: whatever is current
        self.attempt = attempt
        self.deliveries: tuple[Delivery, ...] = ()  # what it handles, if it is durable: then `reply` settles them
        self.gathered = False  # its payload is a batch
        self.adopted = False  # taken over in flight: its payload is not here
        self.left = 0.0  # when it left its slot, or was answered from here
        self.sent = 0.0
        self.share: Share | None = None  # where it runs

    def budget_ms(self, now: float) -> int:
        """What is left until the caller's deadline."""
        return max(1, int((self.deadline - now) * 1000))

    def try_again(self) -> None:
        """It was lost, and runs once more."""
        self.attempt += 1
        for delivery in self.deliveries:
            delivery.attempt += 1

    def __repr__(self) -> str:
        version = f"@{self.pinned}" if self.pinned else ""
        return f"<Call {self.invocation}{version} attempt {self.attempt}>"
