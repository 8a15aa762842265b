"""What is told of a message, beside its payload: of a call's, and of each event in a batch."""

from mayfly_runtime import cloudevents

_SUBJECT = "Mayfly-Subject"
_HTTP = b"\r\nMayfly-Http:"


class Message:
    """A header block, read when it is asked for."""

    __slots__ = ("_headers", "_raw", "envelope")

    envelope: dict[str, str]  # attributes of a CloudEvent in structured mode; not set for anything else

    def __init__(self, raw: bytes | None) -> None:
        self._raw = raw
        self._headers: dict[str, str] | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Of a name that comes twice, the last."""
        if self._headers is None:
            self._headers = parse_headers(self._raw)
        return self._headers

    def describe(self, invocation: str, nats_subject: str | None) -> cloudevents.Event | None:
        return cloudevents.describe(self.headers, getattr(self, "envelope", None), invocation, nats_subject)


class Item(Message):
    """One event of a batch."""

    __slots__ = ("_nats_subject", "attempt", "id")

    def __init__(self, id_: str, nats_subject: str | None, raw: bytes | None, attempt: int) -> None:
        super().__init__(raw)
        self.id = id_
        self.attempt = attempt
        self._nats_subject = nats_subject

    @property
    def event(self) -> cloudevents.Event | None:
        return self.describe(self.id, self._nats_subject)


def came_by_http(raw: bytes | None) -> bool:
    return raw is not None and _HTTP in raw


def find_header(raw: bytes, name: bytes) -> str:
    """One value of a raw block without parsing the rest; names are matched whatever their case."""
    start = raw.lower().find(b"\r\n" + name.lower() + b":")
    if start < 0:
        return ""
    start += len(name) + 3
    return raw[start : raw.index(b"\r\n", start)].decode("utf-8", "replace").strip()


def parse_headers(raw: bytes | None) -> dict[str, str]:
    fields = {}
    for line in (raw or b"").split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            fields[name.decode("latin-1")] = value.strip().decode("utf-8", "replace")
    return fields


def published_on(headers: dict[str, str]) -> str | None:
    """The router adds that at the end, so a publisher's own does not count."""
    return headers.get(_SUBJECT)
