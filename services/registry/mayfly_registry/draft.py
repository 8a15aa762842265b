"""From what a user sent to the spec of a version that has no number yet: settings, package and handler agree."""

from typing import Any

import msgspec

from mayfly_proto import names
from mayfly_proto.records import VersionSpec
from mayfly_registry import handler, manifest, numbers, package
from mayfly_registry.allowed import Allowed
from mayfly_registry.errors import InvalidManifest, InvalidRequest
from mayfly_registry.package import Contents

MANIFEST_LIMIT = 256 * 1024  # bytes


def default_filename(function: str, data: bytes) -> str:
    """For code that came without one: ``charge.py`` for ``billing.charge``."""
    kind = package.ZIP if package.is_zip(data) else package.PY
    return f"{function.rpartition('.')[2]}.{kind}"


def build(function: str, contents: Contents, given: dict[str, Any] | None, allowed: Allowed) -> VersionSpec:
    """Raises `Refusal` with what is wrong. ``given`` None: what the package's own manifest says, else the defaults."""
    if given is None:
        given = _own_settings(function, contents)
    settings = manifest.check(given, allowed)
    chosen = settings.handler or handler.choose(contents)
    handler.check(contents, chosen, settings.concurrency)
    fields = settings.model_dump() | {
        "name": function,
        "version": 0,
        "created": "",
        "handler": chosen,
        "package": contents.package,
    }
    return msgspec.convert(fields, VersionSpec, from_attributes=True)


def same(one: VersionSpec, other: VersionSpec) -> bool:
    """Whether they differ in number and time only, and in the numbers of their triggers."""
    return _plain(one) == _plain(other)


def _plain(spec: VersionSpec) -> VersionSpec:
    return msgspec.structs.replace(spec, version=0, created="", triggers=numbers.without(spec.triggers))


def _own_settings(function: str, contents: Contents) -> dict[str, Any]:
    if manifest.FILENAME not in contents.files:
        return {}
    try:
        text = contents.read(manifest.FILENAME, MANIFEST_LIMIT).decode()
    except UnicodeDecodeError:
        raise InvalidManifest([f"{manifest.FILENAME}: is not UTF-8"]) from None
    return manifest.read(text, function)


def check_name(name: str) -> str:
    """Return it, or raise `InvalidRequest` with the rule."""
    try:
        return names.check_function(name)
    except names.InvalidName as error:
        raise InvalidRequest(str(error)) from None
