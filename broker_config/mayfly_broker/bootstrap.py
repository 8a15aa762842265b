"""Makes the streams and buckets, or brings those that exist to what the JSON files here say.

The files are the server's own StreamConfig, raw: a typed client would drop the fields that it does not know.
"""

import asyncio
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import msgspec

from mayfly_chassis.bus import Bus
from mayfly_chassis.errors import RequestTimeout
from mayfly_proto import subjects

_NAME_IN_USE = 10058  # a stream of this name exists, with another configuration
_NOT_YET = (10005, 10008, 10009)  # what a cluster says that still chooses its leader, or waits for its servers
_CLUSTER_TIMEOUT_S = 30.0
_RETRY_S = 0.2


class BootstrapError(Exception):
    """The server refused a stream or bucket; the message names it and gives the server's reason."""


class _Error(msgspec.Struct):
    description: str
    err_code: int = 0


class _Answer(msgspec.Struct):
    error: _Error | None = None


class _Replicated(msgspec.Struct):
    num_replicas: int


class _Info(msgspec.Struct):
    config: _Replicated


class _Named(msgspec.Struct):
    name: str


def configurations() -> Iterator[tuple[str, bytes]]:
    """Name and JSON of every stream, those behind buckets included."""
    for folder in ("streams", "buckets"):
        for file in files("mayfly_broker").joinpath(folder).iterdir():
            raw = file.read_bytes()
            yield msgspec.json.decode(raw, type=_Named).name, raw


async def bootstrap(bus: Bus, replicas: int | None = None) -> None:
    """Needs an operator's connection. May be repeated at any time. Raises `BootstrapError` or `BusError`.

    ``replicas``: on how many servers of a cluster each is kept; None: as it is, or one.
    """
    await asyncio.gather(*(_ensure(bus, name, config, replicas) for name, config in configurations()))


async def _ensure(bus: Bus, name: str, config: bytes, replicas: int | None) -> None:
    error = await _ask(bus, subjects.stream_create(name), _replicated(config, replicas))
    if error is not None and error.err_code == _NAME_IN_USE:
        kept = replicas or await _replicas(bus, name)
        error = await _ask(bus, subjects.stream_update(name), _replicated(config, kept))
    if error is not None:
        raise BootstrapError(f"stream {name}: {error.description}")


async def _replicas(bus: Bus, name: str) -> int:
    reply = await bus.request(subjects.stream_info(name))
    return msgspec.json.decode(reply.payload, type=_Info).config.num_replicas


def _replicated(config: bytes, replicas: int | None) -> bytes:
    if replicas is None:
        return config
    fields: dict[str, Any] = msgspec.json.decode(config)
    return msgspec.json.encode(fields | {"num_replicas": replicas})


async def _ask(bus: Bus, subject: str, config: bytes) -> _Error | None:
    """The server's error, if any; a cluster that is not ready yet is asked again."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _CLUSTER_TIMEOUT_S
    while True:
        try:
            reply = await bus.request(subject, config)
            error = msgspec.json.decode(reply.payload, type=_Answer).error
            if error is None or error.err_code not in _NOT_YET or loop.time() > deadline:
                return error
        except RequestTimeout:
            if loop.time() > deadline:
                raise
        await asyncio.sleep(_RETRY_S)
