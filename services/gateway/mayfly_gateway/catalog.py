"""What there is to call, worked out from the buckets `functions` and `versions`."""

from dataclasses import dataclass

from mayfly_gateway.routes import Route, Routes
from mayfly_proto import names, records, storage, subjects


@dataclass(frozen=True, slots=True)
class Target:
    name: str  # as called: hello, hello@3
    subject: bytes
    timeout_s: float
    tells_callers_apart: bool = False  # the router is to know who calls


class Catalog:
    """The changes of both buckets go in; targets and routes come out, worked out when they are first asked for."""

    def __init__(self) -> None:
        self._functions: dict[str, records.FunctionRecord] = {}
        self._versions: dict[str, records.VersionSpec] = {}
        self._targets: dict[str, Target] = {}
        self._routes: Routes | None = None

    def function_changed(self, name: str, value: bytes | None) -> None:
        """A change of bucket `functions`; None: the key is gone."""
        if value is None:
            self._functions.pop(name, None)
        else:
            self._functions[name] = records.decode(value, records.FunctionRecord)
        self._targets.clear()
        self._routes = None

    def version_changed(self, key: str, value: bytes | None) -> None:
        """A change of bucket `versions`; None: the key is gone."""
        if value is None:
            self._versions.pop(key, None)
        else:
            self._versions[key] = records.decode(value, records.VersionSpec)
        self._targets.clear()
        self._routes = None

    def __contains__(self, function: str) -> bool:
        return function in self._functions

    def target(self, text: str) -> Target | None:
        """What ``hello`` or ``hello@3`` names; None where it is not known. Raises `names.InvalidName`."""
        if (known := self._targets.get(text)) is not None:
            return known
        name, asked = parse(text)
        record = self._functions.get(name)
        if record is None or (version := callable_version(record, asked)) is None:
            return None
        spec = self._versions.get(storage.version_key(name, version))
        if spec is None:
            return None
        self._targets[text] = found = target(spec, asked)
        return found

    def routes(self) -> Routes:
        """The http triggers of every function's current version."""
        if self._routes is None:
            self._routes = Routes(
                Route(trigger.http, frozenset(trigger.methods), name)
                for name, record in self._functions.items()
                if (spec := self._versions.get(storage.version_key(name, record.current))) is not None
                for trigger in spec.triggers
                if trigger.http
            )
        return self._routes


def parse(text: str) -> tuple[str, int | None]:
    """`names.parse_target` for what a stranger typed: one spelling for each version, and no endless numbers."""
    if len(text) > 300:
        raise names.InvalidName(f"{text[:30]!r}...: function names are {names.FUNCTION_RULE}")
    name, version = names.parse_target(text)
    if version is not None and text != f"{name}@{version}":
        raise names.InvalidName(f"{text!r}: a version is written without leading zeros")
    return name, version


def callable_version(record: records.FunctionRecord, asked: int | None) -> int | None:
    version = record.current if asked is None else asked
    return version if version in record.versions else None


def target(spec: records.VersionSpec, asked: int | None) -> Target:
    name = spec.name if asked is None else f"{spec.name}@{asked}"
    subject = subjects.call(spec.name, asked).encode()
    return Target(name, subject, spec.timeout_s, tells_callers_apart=spec.caller_rate_limit > 0)
