"""Several events in one call: a list in, and out which of them failed.

    payload = msgpack array of [id, subject, header block or nil, attempt, payload]

An event that cannot be decoded is none of the others' business: it is left out and reported as failed. What the
handler reports may name events by id or by their place in its list; the router gets ids.
"""

import sys
from collections.abc import Callable
from typing import Any

from mayfly_runtime import event, wire
from mayfly_runtime.context import Context, Function
from mayfly_runtime.message import Item, published_on

_BATCH = b"\r\nMayfly-Batch:"
_FAILURES = "batchItemFailures"
_IDENTIFIER = "itemIdentifier"
_ITEM = (str, str, bytes | None, int, bytes)


def decode(function: Function, headers: bytes | None, payload: bytes, context: Context) -> list[Any]:
    """The events; a call for one of them is a list of one. Raises `event.BadRequest`."""
    context.batch = []
    context.undecodable = []
    if headers is None or _BATCH not in headers:
        item = Item(context.invocation, published_on(context.headers), headers, context.attempt)
        single = event.decode(function, headers, payload, item)
        if hasattr(item, "envelope"):
            context.envelope = item.envelope
        context.batch.append(item)
        return [single]
    events = []
    for id_, subject, block, attempt, raw in _items(payload):
        item = Item(id_, subject, block, attempt)
        try:
            events.append(event.decode(function, block, raw, item))
        except event.BadRequest as error:
            print(f"event {id_}: {error}", file=sys.stderr)  # noqa: T201  into the function's log
            context.undecodable.append(id_)
        else:
            context.batch.append(item)
    return events


def _items(payload: bytes) -> list[Any]:
    try:
        items: list[Any] = wire.decode(payload)
    except Exception as error:  # noqa: BLE001  whatever msgpack raises: it is not what the router sends
        raise event.BadRequest(f"malformed batch: {error}") from None
    if not isinstance(items, list) or not all(map(_is_item, items)):
        raise event.BadRequest("malformed batch")
    return items


def _is_item(item: Any) -> bool:
    return (
        isinstance(item, list)
        and len(item) == len(_ITEM)
        and all(isinstance(part, kind) for part, kind in zip(item, _ITEM, strict=True))
    )


def plain(handler: Callable[[list[Any], Context], Any]) -> Callable[[list[Any], Context], Any]:
    def handle(events: list[Any], context: Context) -> Any:
        return _reported(handler(events, context) if events else None, context)

    return handle


def coroutine(handler: Callable[[list[Any], Context], Any]) -> Callable[[list[Any], Context], Any]:
    async def handle(events: list[Any], context: Context) -> Any:
        return _reported(await handler(events, context) if events else None, context)

    return handle


def _reported(result: Any, context: Context) -> Any:
    """The handler's result, with failures as ids and with those that it has not seen. Raises `event.BadResult`."""
    failures = result.get(_FAILURES) if isinstance(result, dict) else None
    if not failures and not context.undecodable:
        return result
    if not isinstance(failures or [], list):
        raise event.BadResult(f"{_FAILURES} must be a list")
    ids = [item.id for item in context.batch or []]
    failed = [_identify(failure, ids) for failure in failures or []]
    rest = result if isinstance(result, dict) else {}
    return rest | {_FAILURES: [{_IDENTIFIER: id_} for id_ in dict.fromkeys([*failed, *context.undecodable])]}


def _identify(failure: Any, ids: list[str]) -> str:
    named = failure.get(_IDENTIFIER) if isinstance(failure, dict) else failure
    if isinstance(named, int) and not isinstance(named, bool) and 0 <= named < len(ids):
        return ids[named]
    if isinstance(named, str) and named in ids:
        return named
    raise event.BadResult(f"{_FAILURES} names {str(named)[:80]!r}, which is no event of this batch")
