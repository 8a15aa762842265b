"""Which router owns a function: rendezvous hashing, so that a router that comes or goes moves only its own share."""

from collections.abc import Iterable
from hashlib import blake2b


def owner(function: str, members: Iterable[str]) -> str | None:
    """The member with the highest weight for this function; None when there are no members."""
    return max(members, key=lambda member: (_weight(function, member), member), default=None)


def _weight(function: str, member: str) -> bytes:
    return blake2b(f"{member}\0{function}".encode(), digest_size=8).digest()
