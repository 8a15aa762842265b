"""What there is to call, out of the changes of two buckets that arrive in any order."""

import msgspec
import pytest

from mayfly_gateway.catalog import Catalog
from mayfly_gateway.routes import Match
from mayfly_proto import names, records
from mayfly_proto.records import FunctionRecord, Package, Trigger, VersionSpec


def record(current: int, *versions: int, name: str = "hello") -> bytes:
    return records.encode(FunctionRecord(name=name, current=current, versions=list(versions or (current,))))


def spec(version: int, *, timeout_s: float = 3.0, paths: tuple[str, ...] = (), name: str = "hello") -> bytes:
    return records.encode(
        VersionSpec(
            name=name,
            version=version,
            runtime="python",
            handler="hello:handler",
            package=Package(sha256="0" * 64, size=1, format="py", filename="hello.py"),
            created="2026-01-01T00:00:00Z",
            timeout_s=timeout_s,
            triggers=[Trigger(http=path) for path in paths],
        )
    )


def test_target_follows_the_current_version() -> None:
    """The plain name is the current version, with its timeout; a number is that version, while it can be called."""
    known = Catalog()
    known.version_changed("hello.1", spec(1, timeout_s=1))
    known.version_changed("hello.2", spec(2, timeout_s=2))
    known.function_changed("hello", record(1, 1))
    assert (found := known.target("hello")) is not None
    assert (found.subject, found.timeout_s) == (b"fn.hello", 1)
    assert known.target("hello@2") is None
    known.function_changed("hello", record(2, 1, 2))
    assert (found := known.target("hello")) is not None
    assert found.timeout_s == 2
    assert (found := known.target("hello@1")) is not None
    assert (found.subject, found.timeout_s) == (b"fn.hello@1", 1)
    known.function_changed("hello", None)
    assert known.target("hello") is None


def test_function_ahead_of_its_version_is_not_known_yet() -> None:
    """The two buckets are two streams: a record whose spec has not come is looked up, not guessed at."""
    known = Catalog()
    known.function_changed("hello", record(1))
    assert known.target("hello") is None
    known.version_changed("hello.1", spec(1))
    assert known.target("hello") is not None


@pytest.mark.parametrize(
    "text", ["", "Hello", "a b", "hello.>", "*", "hello@", "hello@x", "hello@01", "hello@0", "a" * 400]
)
def test_what_a_stranger_types_is_never_a_subject(text: str) -> None:
    """Wildcards, spaces, endless numbers and second spellings are refused before anything is sent."""
    with pytest.raises(names.InvalidName):
        Catalog().target(text)


def test_trigger_of_another_kind_takes_the_root_path() -> None:
    """Only http triggers have paths."""
    catalog = Catalog()
    catalog.function_changed("hello", record(1, 1))
    made = records.decode(spec(1), VersionSpec)
    other = msgspec.structs.replace(made, triggers=[Trigger(event="a"), Trigger(schedule="@hourly", number=1)])
    catalog.version_changed("hello.1", records.encode(other))
    assert catalog.routes().find("GET", "/") is None


def test_routes_are_those_of_current_versions() -> None:
    """A deploy moves a path, a rollback moves it back, a delete takes it away."""
    known = Catalog()
    known.version_changed("hello.1", spec(1, paths=("/old",)))
    known.version_changed("hello.2", spec(2, paths=("/new",)))
    known.function_changed("hello", record(1, 1))
    assert known.routes().find("GET", "/old") == Match("hello", {})
    known.function_changed("hello", record(2, 1, 2))
    assert known.routes().find("GET", "/old") is None
    assert known.routes().find("GET", "/new") == Match("hello", {})
    known.function_changed("hello", None)
    assert known.routes().find("GET", "/new") is None
