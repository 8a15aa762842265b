"""How services frame what only services read: msgpack metadata, then the raw payload, which is never inside msgpack.

    frame = u32 little-endian length of the metadata | metadata (a msgpack array) | payload

The instance socket is a byte stream and carries more than one kind, so its frames have a longer head:

    frame = u8 kind | u32 length of the metadata | u32 length of the payload | metadata | payload
"""

import struct
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)

_LENGTH = struct.Struct("<I")
INSTANCE_HEAD = struct.Struct("<BII")

encode = msgspec.msgpack.Encoder().encode


def pack(meta: msgspec.Struct, payload: bytes = b"") -> bytes:
    raw = encode(meta)
    return _LENGTH.pack(len(raw)) + raw + payload


class Unpacker(Generic[T]):
    """Decodes frames whose metadata has one type. Raises `msgspec.MsgspecError` or `ValueError` on anything else."""

    def __init__(self, meta_type: type[T]) -> None:
        self._decode = msgspec.msgpack.Decoder(meta_type).decode

    def __call__(self, frame: bytes) -> tuple[T, bytes]:
        end = 4 + int.from_bytes(frame[:4], "little")
        if end > len(frame):
            raise ValueError(f"frame of {len(frame)} bytes says its metadata ends at {end}")
        return self._decode(frame[4:end]), frame[end:]


def pack_instance(kind: int, meta: object, payload: bytes = b"") -> bytes:
    raw = encode(meta)
    return INSTANCE_HEAD.pack(kind, len(raw), len(payload)) + raw + payload
