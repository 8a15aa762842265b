"""What goes to a function and what comes back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from mayfly_proto import headers


@dataclass(frozen=True, slots=True)
class Result:
    """What a function returned."""

    payload: bytes
    headers: Mapping[str, str]

    @property
    def value(self) -> Any:
        """Decoded by its content type: JSON, str for text, else bytes; None when it is empty."""
        kind = self.headers.get(headers.CONTENT_TYPE, "application/json").partition(";")[0].strip()
        if kind == "application/json" or kind.endswith("+json"):
            return msgspec.json.decode(self.payload) if self.payload else None
        return self.payload.decode() if kind.startswith("text/") else self.payload

    @property
    def invocation(self) -> str:
        return self.headers.get(headers.INVOCATION, "")

    @property
    def cold(self) -> bool:
        return self.headers.get(headers.START) == headers.COLD

    @property
    def version(self) -> int | None:
        """Of the function; said by cold calls only."""
        version = self.headers.get(headers.VERSION)
        return int(version) if version else None


def encode(event: Any) -> tuple[bytes, str | None]:
    """The payload, and the content type where the function could not tell by itself."""
    if event is None:
        return b"", None
    if isinstance(event, bytes | bytearray | memoryview):
        return bytes(event), "application/octet-stream"
    if isinstance(event, str):
        return event.encode(), "text/plain"
    return msgspec.json.encode(event), "application/json"
