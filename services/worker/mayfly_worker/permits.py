"""Which asks a version may make: what its manifest lists, said in the form that NATS and the platform take.

The registry has checked the lists against the operator's; the platform's own stays closed whatever a manifest says.
"""

import re

from mayfly_broker import access
from mayfly_proto import names, storage
from mayfly_proto.errors import CallError, ErrorType
from mayfly_proto.records import VersionSpec
from mayfly_worker import asks
from mayfly_worker.asks import Ask
from mayfly_worker.replies import COMPONENT

MAX_HEADERS = 32 * 1024

_SUBJECT = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*")
_KEY = re.compile(r"[-/_=a-zA-Z0-9]+(\.[-/_=a-zA-Z0-9]+)*")
_PREFIX = re.compile(r"([-/_=a-zA-Z0-9]+(\.[-/_=a-zA-Z0-9]+)*\.?)?")
_NUID = re.compile(r"[A-Za-z0-9]{1,64}")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_RESERVED = ("nats-", "mayfly-")
_LONGEST = 1024  # characters of a subject, key or name


def objection(spec: VersionSpec, ask: Ask, size: int, limit: int) -> CallError | None:
    """Why it is not carried out; ``size`` is its payload's, ``limit`` that of all payloads."""
    if size > limit:
        return _error(ErrorType.TOO_LARGE, f"{size} bytes, more than the {limit} that a message may carry")
    match ask:
        case asks.Publish():
            return _publishing(spec, ask) or _headers(ask.headers, ask.message_id)
        case asks.Call():
            return _calling(spec, ask) or _headers(ask.headers, None)
        case asks.KvAsk():
            return _bucket("kv", spec.kv, ask.bucket, storage.BUCKETS) or _key(ask)
        case asks.ObjectAsk():
            return _bucket("objects", spec.objects, ask.bucket, storage.OBJECT_STORES) or _object(ask)
    raise TypeError(type(ask))


def _publishing(spec: VersionSpec, ask: asks.Publish) -> CallError | None:
    subject = ask.subject
    if len(subject) > _LONGEST or not subject.isprintable() or not _SUBJECT.fullmatch(subject):
        return _error(ErrorType.BAD_REQUEST, f"{subject[:80]!r} is no subject to publish to: words joined by dots")
    reserved = access.is_reserved(subject) and not ask.durable
    if reserved or not any(access.covers(pattern, subject) for pattern in spec.publish):
        return _denied("publish", "cover", subject)
    return None


def _calling(spec: VersionSpec, ask: asks.Call) -> CallError | None:
    try:
        function, _ = names.parse_target(ask.function)
    except names.InvalidName as error:
        return _error(ErrorType.BAD_REQUEST, str(error)[:500])
    if not any(access.covers(pattern, function) for pattern in spec.call):
        return _denied("call", "cover", function)
    if ask.timeout_ms is not None and ask.timeout_ms < 1:
        return _error(ErrorType.BAD_REQUEST, "timeout: must be above 0 seconds")
    return None


def _bucket(setting: str, allowed: list[str], bucket: str, platforms: tuple[str, ...]) -> CallError | None:
    return None if bucket in allowed and bucket not in platforms else _denied(setting, "name", bucket[:80])


def _key(ask: asks.KvAsk) -> CallError | None:
    if isinstance(ask, asks.KvKeys) and (len(ask.prefix) > _LONGEST or not _PREFIX.fullmatch(ask.prefix)):
        return _error(ErrorType.BAD_REQUEST, f"{ask.prefix[:80]!r} is no beginning of a key")
    if isinstance(ask, asks.KvKeyed) and (len(ask.key) > _LONGEST or not _KEY.fullmatch(ask.key)):
        rule = "letters, digits and -/_=, in parts joined by dots"
        return _error(ErrorType.BAD_REQUEST, f"{ask.key[:80]!r} is no key: {rule}")
    if isinstance(ask, asks.KvPut | asks.KvCreate | asks.KvUpdate) and ask.ttl_s is not None and ask.ttl_s < 1:
        return _error(ErrorType.BAD_REQUEST, "ttl: must be 1 second or more")
    return None


def _object(ask: asks.ObjectAsk) -> CallError | None:
    if isinstance(ask, asks.ObjectNamed | asks.ObjectFinish) and not 0 < len(ask.name) <= _LONGEST:
        return _error(ErrorType.BAD_REQUEST, f"an object's name has 1 to {_LONGEST} characters")
    if isinstance(ask, asks.ObjectChunks) and not _NUID.fullmatch(ask.nuid):
        return _error(ErrorType.BAD_REQUEST, "malformed id of an object's chunks")
    return None


def _headers(fields: dict[str, str], message_id: str | None) -> CallError | None:
    if sum(len(name) + len(value) for name, value in fields.items()) + len(message_id or "") > MAX_HEADERS:
        return _error(ErrorType.TOO_LARGE, f"headers of more than {MAX_HEADERS} characters")
    for name, value in fields.items():
        if not _HEADER.fullmatch(name) or name.lower().startswith(_RESERVED):
            return _error(ErrorType.BAD_REQUEST, f"{name[:80]!r} cannot be the name of a header")
        if not _is_line(value):
            return _error(ErrorType.BAD_REQUEST, f"the value of header {name[:80]} has a line break in it")
    if message_id is not None and not (message_id and _is_line(message_id)):
        return _error(ErrorType.BAD_REQUEST, "message_id: one line of text")
    return None


def _is_line(text: str) -> bool:
    return not any(character in text for character in "\r\n\0")


def _denied(setting: str, verb: str, what: str) -> CallError:
    return _error(ErrorType.FORBIDDEN, f"{setting} in the manifest does not {verb} {what}")


def _error(kind: ErrorType, sentence: str) -> CallError:
    return CallError(kind, sentence, component=COMPONENT)
