"""Makes the streams and buckets, or brings those that exist to what the JSON files here say.

The files are the server's own StreamConfig, raw: a typed client would drop the fields that it does not know.
"""

import asyncio
from collections.abc import Iterator
from importlib.resources import files

import msgspec

from mayfly_chassis.bus import Bus
from mayfly_proto import subjects

_NAME_IN_USE = 10058  # a stream of this name exists, with another configuration


class BootstrapError(Exception):
    """The server refused a stream or bucket; the message names it and gives the server's reason."""


class _Error(msgspec.Struct):
    description: str
    err_code: int = 0


class _Answer(msgspec.Struct):
    error: _Error | None = None


class _Named(msgspec.Struct):
    name: str


def configurations() -> Iterator[tuple[str, bytes]]:
    """Name and JSON of every stream, those behind buckets included."""
    for folder in ("streams", "buckets"):
        for file in files("mayfly_broker").joinpath(folder).iterdir():
            raw = file.read_bytes()
            yield msgspec.json.decode(raw, type=_Named).name, raw


async def bootstrap(bus: Bus) -> None:
    """Needs an operator's connection. May be repeated at any time. Raises `BootstrapError` or `BusError`."""
    await asyncio.gather(*(_ensure(bus, name, config) for name, config in configurations()))


async def _ensure(bus: Bus, name: str, config: bytes) -> None:
    error = await _ask(bus, subjects.stream_create(name), config)
    if error is not None and error.err_code == _NAME_IN_USE:
        error = await _ask(bus, subjects.stream_update(name), config)
    if error is not None:
        raise BootstrapError(f"stream {name}: {error.description}")


async def _ask(bus: Bus, subject: str, config: bytes) -> _Error | None:
    reply = await bus.request(subject, config)
    return msgspec.json.decode(reply.payload, type=_Answer).error
