"""Deliveries gathered into batches: as many as the function wants, or those that came within its window.

On the wire to the instance a batch is a msgpack array of ``[id, subject, headers, attempt, payload]``.
"""

from collections.abc import Iterator, Sequence

import msgspec

from mayfly_proto import headers
from mayfly_proto.records import Batch
from mayfly_router.durable.delivery import Delivery

_ITEM_BYTES = 300  # of a batch's frame beside an item's payload and headers, roughly
_FAILURES = b"batchItemFailures"


class Gathering:
    def __init__(self, batch: Batch, bytes_limit: int) -> None:
        self._batch = batch
        self._limit = bytes_limit
        self._items: list[Delivery] = []
        self._bytes = 0
        self._since = 0.0

    def add(self, delivery: Delivery, now: float) -> list[Delivery]:
        """Returns the batch that this one completes, or that it did not fit into any more."""
        size = _size(delivery)
        full = self.take() if self._items and self._bytes + size > self._limit else []
        if not self._items:
            self._since = now
        self._items.append(delivery)
        self._bytes += size
        return full or (self.take() if len(self._items) >= self._batch.size else [])

    def due(self, now: float) -> list[Delivery]:
        """The batch whose window is over."""
        return self.take() if self._items and now - self._since >= self._batch.window_s else []

    def take(self) -> list[Delivery]:
        taken, self._items, self._bytes = self._items, [], 0
        return taken

    def remove(self, delivery: Delivery) -> None:
        self._items.remove(delivery)
        self._bytes -= _size(delivery)

    def __iter__(self) -> Iterator[Delivery]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


def pack(deliveries: list[Delivery]) -> tuple[bytes, bytes]:
    """Header block and payload of the call."""
    items = [(d.identity, d.subject, d.headers, d.attempt, d.payload) for d in deliveries]
    depth = max(delivery.depth for delivery in deliveries)  # what the batch's handler publishes has come that far
    return headers.block({headers.BATCH: str(len(items)), headers.DEPTH: str(depth)}), msgspec.msgpack.encode(items)


def failed(deliveries: Sequence[Delivery], result: bytes) -> list[Delivery]:
    """Those that a handler's result names as failed. One that names what was not in the batch, or that cannot be
    read, is taken for the failure of all, as AWS Lambda does: none is lost."""
    named = _named(result)
    if named is None:
        return list(deliveries)
    found = [delivery for delivery in deliveries if delivery.identity in named]
    return found if len(found) == len(named) else list(deliveries)


def names_failures(result: bytes) -> bool:
    """Whether any may have failed, of a batch that is not known here."""
    return _named(result) != set()


def _named(result: bytes) -> set[str] | None:
    """None: it cannot be read."""
    if _FAILURES not in result:
        return set()
    try:
        return {failure.itemIdentifier for failure in msgspec.json.decode(result, type=_Result).batchItemFailures}
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


class _Failure(msgspec.Struct):
    """By AWS Lambda's names."""

    itemIdentifier: str


class _Result(msgspec.Struct):
    batchItemFailures: list[_Failure] = []


def _size(delivery: Delivery) -> int:
    return len(delivery.payload) + len(delivery.headers or b"") + len(delivery.subject) * 4 + _ITEM_BYTES
