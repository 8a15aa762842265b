"""What an instance may ask of its node on behalf of a call: the verbs of CONTRACT.md, and what each says.

User code wrote them: what is not exactly so breaks the contract.
"""

import msgspec

from mayfly_proto import subjects
from mayfly_worker.instance_frames import Broken

OUTSTANDING = 64  # asks of one instance that it has not taken the answer of
LISTED = 10_000  # keys or objects in one answer

_EVENT = subjects.event("")


class Ask(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Positional on the wire."""


class Publish(Ask, frozen=True):
    subject: str
    headers: dict[str, str]
    message_id: str | None

    @property
    def durable(self) -> bool:
        return self.subject.startswith(_EVENT)


class Call(Ask, frozen=True):
    function: str
    headers: dict[str, str]
    timeout_ms: int | None


class KvAsk(Ask, frozen=True):
    bucket: str


class KvKeys(KvAsk, frozen=True):
    prefix: str


class KvKeyed(KvAsk, frozen=True):
    key: str


class KvGet(KvKeyed, frozen=True):
    pass


class KvDelete(KvKeyed, frozen=True):
    pass


class KvPut(KvKeyed, frozen=True):
    ttl_s: int | None


class KvCreate(KvKeyed, frozen=True):
    ttl_s: int | None


class KvUpdate(KvKeyed, frozen=True):
    ttl_s: int | None
    revision: int


class ObjectAsk(Ask, frozen=True):
    bucket: str


class ObjectList(ObjectAsk, frozen=True):
    pass


class ObjectNamed(ObjectAsk, frozen=True):
    name: str


class ObjectInfo(ObjectNamed, frozen=True):
    pass


class ObjectDelete(ObjectNamed, frozen=True):
    pass


class ObjectChunks(ObjectAsk, frozen=True):
    nuid: str  # of one put: its chunks lie under it


class ObjectRead(ObjectChunks, frozen=True):
    sequence: int


class ObjectWrite(ObjectChunks, frozen=True):
    pass


class ObjectDiscard(ObjectChunks, frozen=True):
    pass


class ObjectFinish(ObjectChunks, frozen=True):
    name: str
    size: int
    chunks: int
    digest: str


_VERBS: dict[str, type[Ask]] = {
    "publish": Publish,
    "call": Call,
    "kv.get": KvGet,
    "kv.put": KvPut,
    "kv.create": KvCreate,
    "kv.update": KvUpdate,
    "kv.delete": KvDelete,
    "kv.keys": KvKeys,
    "objects.info": ObjectInfo,
    "objects.read": ObjectRead,
    "objects.write": ObjectWrite,
    "objects.finish": ObjectFinish,
    "objects.discard": ObjectDiscard,
    "objects.delete": ObjectDelete,
    "objects.list": ObjectList,
}
_decoders = {verb: msgspec.msgpack.Decoder(kind).decode for verb, kind in _VERBS.items()}


def parse(verb: str, arguments: bytes | msgspec.Raw) -> Ask:
    """Raises `Broken` and `msgspec.MsgspecError`: that is no runtime which speaks the contract."""
    decode = _decoders.get(verb)
    if decode is None:
        raise Broken(f"an ask for {verb[:40]!r}")
    return decode(arguments)
