"""What a provider of nodes does. It decides nothing; each verb goes by a node's name, and may be repeated."""

from typing import Protocol

from mayfly_scaler.nodes.drains import Numbering


class ProviderError(Exception):
    """It could not be done, or nobody knows. The message is one sentence for people."""


class Provider(Protocol):
    numbering: Numbering  # what its nodes are called
    own_processors: bool  # each further node brings some; else all are on one machine
    from_the_end: bool  # only the node with the highest number can be taken away

    async def list(self) -> frozenset[str]:
        """The nodes that it has, whatever they are doing. Raises `ProviderError`."""

    async def add(self, node: str) -> None:
        """Have it start; nothing happens when it is there. Raises `ProviderError`."""

    async def remove(self, node: str) -> None:
        """Have it end in good order and go; nothing happens when it is not there. Raises `ProviderError`."""

    async def close(self) -> None:
        """Give connections back."""
