"""What a handler may have its node do: scripts of asks (see `asks`), and the objects that offer them."""

import base64
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mayfly_runtime import event
from mayfly_runtime.asks import CallError, Script

_CHUNK = 512 * 1024  # bytes, as other clients of object stores have it
_CONTENT_TYPES = (None, "text/plain; charset=utf-8", "application/octet-stream")

Run = Callable[[Script[Any]], Any]  # the result, or something to await


def publish(subject: str, payload: Any, headers: Mapping[str, str], message_id: str | None) -> Script[Any]:
    fields, body = _message(payload, headers)
    identity, _ = yield "publish", (subject, fields, message_id), body
    return identity


def call(function: str, payload: Any, headers: Mapping[str, str], timeout_s: float | None) -> Script[Any]:
    fields, body = _message(payload, headers)
    timeout_ms = None if timeout_s is None else math.ceil(timeout_s * 1000)
    content_type, result = yield "call", (function, fields, timeout_ms), body
    return event.read(content_type, result)


def _message(payload: Any, headers: Mapping[str, str]) -> tuple[dict[str, str], bytes]:
    """JSON goes without saying, as in results."""
    fields = {str(name): str(value) for name, value in headers.items()}
    if payload is None:
        return fields, b""
    kind, body = event.encode_body(payload)
    content_type = _CONTENT_TYPES[kind]
    if content_type is not None and not any(name.lower() == "content-type" for name in fields):
        fields["Content-Type"] = content_type
    return fields, body


@dataclass(frozen=True, slots=True)
class Entry:
    value: bytes
    revision: int


class Kv:
    """A bucket; keys are text, values bytes (text is written as UTF-8, anything else as JSON)."""

    __slots__ = ("_run", "bucket")

    def __init__(self, bucket: str, run: Run) -> None:
        self.bucket = bucket
        self._run = run

    def get(self, key: str) -> Any:
        return self._run(self._get(key, lambda entry: entry.value))

    def get_json(self, key: str) -> Any:
        return self._run(self._get(key, lambda entry: json.loads(entry.value)))

    def entry(self, key: str) -> Any:
        return self._run(self._get(key, lambda entry: entry))

    def put(self, key: str, value: Any, ttl: float | None = None) -> Any:
        return self._run(self._write("kv.put", key, value, ttl))

    def create(self, key: str, value: Any, ttl: float | None = None) -> Any:
        return self._run(self._write("kv.create", key, value, ttl))

    def update(self, key: str, value: Any, revision: int, ttl: float | None = None) -> Any:
        return self._run(self._write("kv.update", key, value, ttl, revision))

    def delete(self, key: str) -> Any:
        return self._run(_value("kv.delete", self.bucket, key))

    def keys(self, prefix: str = "") -> Any:
        return self._run(_value("kv.keys", self.bucket, prefix))

    def _get(self, key: str, form: Callable[[Entry], Any]) -> Script[Any]:
        revision, value = yield "kv.get", (self.bucket, key), b""
        return None if revision is None else form(Entry(value, revision))

    def _write(self, verb: str, key: str, value: Any, ttl: float | None, *revision: int) -> Script[int]:
        ttl_s = None if ttl is None else math.ceil(ttl)
        written, _ = yield verb, (self.bucket, key, ttl_s, *revision), event.encode_body(value)[1]
        return int(written)


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    name: str
    size: int  # bytes
    digest: str  # "SHA-256=" and base64url
    modified: str  # RFC 3339


class Objects:
    """An object store; how large an object may be is a matter of this instance's memory."""

    __slots__ = ("_run", "bucket")

    def __init__(self, bucket: str, run: Run) -> None:
        self.bucket = bucket
        self._run = run

    def get(self, name: str) -> Any:
        return self._run(self._get(name))

    def put(self, name: str, data: bytes | str) -> Any:
        return self._run(self._put(name, data.encode() if isinstance(data, str) else bytes(data)))

    def info(self, name: str) -> Any:
        return self._run(self._info(name))

    def list(self) -> Any:
        return self._run(_value("objects.list", self.bucket))

    def delete(self, name: str) -> Any:
        return self._run(_value("objects.delete", self.bucket, name))

    def _info(self, name: str) -> Script[ObjectInfo | None]:
        found, _ = yield "objects.info", (self.bucket, name), b""
        return None if found is None else ObjectInfo(*found[:4])

    def _get(self, name: str) -> Script[bytes]:
        found, _ = yield "objects.info", (self.bucket, name), b""
        if found is None:
            raise CallError("not_found", 404, f"{self.bucket} has no object {name}")
        _, size, digest, _, nuid = found
        parts = []
        following = 1 if size else 0
        while following:
            following, part = yield "objects.read", (self.bucket, nuid, following), b""
            parts.append(part)
        data = b"".join(parts)
        if len(data) != size or _digest(hashlib.sha256(data).digest()) != digest:
            raise CallError("conflict", 409, f"{self.bucket}/{name} was replaced meanwhile, or is damaged")
        return data

    def _put(self, name: str, data: bytes) -> Script[ObjectInfo]:
        nuid = os.urandom(11).hex().upper()
        digest = _digest(hashlib.sha256(data).digest())
        starts = range(0, len(data), _CHUNK)
        try:
            for start in starts:
                yield "objects.write", (self.bucket, nuid), data[start : start + _CHUNK]
            finish = (self.bucket, nuid, name, len(data), len(starts), digest)
            modified, _ = yield "objects.finish", finish, b""
        except CallError:
            if data:
                yield from _value("objects.discard", self.bucket, nuid)
            raise
        return ObjectInfo(name, len(data), digest, modified)


def _value(verb: str, *arguments: Any) -> Script[Any]:
    value, _ = yield verb, arguments, b""
    return value


def _digest(digest: bytes) -> str:
    return "SHA-256=" + base64.urlsafe_b64encode(digest).decode()
