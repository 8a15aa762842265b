"""Handlers are found by reading the code: what cannot work is refused, what might work is not, and nothing is run."""

import io
import zipfile

import pytest

from mayfly_proto.records import VersionSpec
from mayfly_registry import draft, handler, package
from mayfly_registry.errors import InvalidHandler, InvalidManifest, Refusal
from mayfly_registry.package import Contents

SYNC = "def handler(event, context):\n    return event\n"


def one(source: str, filename: str = "hello.py") -> Contents:
    return package.read(source.encode(), filename)


def several(*paths: str) -> Contents:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as writer:
        for path in paths:
            writer.writestr(path, SYNC)
    return package.read(packed.getvalue(), "hello.zip")


@pytest.mark.parametrize(
    "source",
    [
        SYNC,
        "async def handler(event, context): ...",
        "from elsewhere import handler",
        "from elsewhere import run as handler",
        "import handler",
        "import handler.inner",
        "from elsewhere import *",
        "def __getattr__(name): ...",
        "class handler: ...",
        "handler = make()",
        "other = handler = make()",
        "first, (handler, *rest) = make()",
        "handler: object = make()",
        "(handler := make())",
        "try:\n    from fast import handler\nexcept ImportError:\n    def handler(e, c): ...",
        "if True:\n    pass\nelse:\n    handler = 1",
        "with x() as handler: pass",
        "for handler in x(): pass",
        "match x():\n    case 1:\n        handler = 1",
        "# -*- coding: latin-1 -*-\n" + SYNC,
        "pattern = '\\d'\n" + SYNC,
    ],
)
def test_handler_that_works_is_refused(source: str) -> None:
    """Every way of binding a top-level name counts, and warnings about the user's code are the user's."""
    handler.check(one(source), "hello:handler", 1)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "def outer():\n    def handler(e, c): ...",
        "class A:\n    def handler(self): ...",
        "handler",
        "x.handler = 1",
        "handler()",
        "def f(handler): ...",
    ],
)
def test_handler_that_is_not_there_is_found(source: str) -> None:
    """Nested, used or named only: there is no such top-level name."""
    with pytest.raises(InvalidHandler, match=r"handler: hello\.py has no top-level name 'handler'"):
        handler.check(one(source), "hello:handler", 1)


def test_misspelt_handler_gets_no_hint() -> None:
    """The nearest name is suggested."""
    with pytest.raises(InvalidHandler, match="did you mean handler"):
        handler.check(one(SYNC), "hello:handlr", 1)


def test_syntax_error_is_found_at_the_first_call() -> None:
    """Deploy says where the code does not parse, and shows the line."""
    with pytest.raises(InvalidHandler, match=r"handler: hello\.py, line 2: .*: return \)"):
        handler.check(one("def handler(event, context):\n    return )\n"), "hello:handler", 1)
    with pytest.raises(InvalidHandler, match=r"hello\.py, line 1: 'return' outside function"):
        handler.check(one("return 1"), "hello:handler", 1)


@pytest.mark.parametrize("source", ["(" * 5000, "-" * 50_000 + "1", "a" + ".b" * 50_000, "\0", "# coding: klingon\n"])
def test_code_brings_the_registry_down(source: str) -> None:
    """Code that no parser takes is refused as such."""
    with pytest.raises(InvalidHandler, match=r"^handler: hello\.py"):
        handler.check(one(source), "hello:handler", 1)


@pytest.mark.parametrize("source", [SYNC, "handler = lambda event, context: event"])
def test_sync_handler_gets_several_calls_at_once(source: str) -> None:
    """A plain def cannot serve several calls at once: refused, with the way out."""
    handler.check(one(source), "hello:handler", 1)
    with pytest.raises(InvalidHandler, match=r"concurrency: 4 calls at once need an async handler: make it 'async def"):
        handler.check(one(source), "hello:handler", 4)


@pytest.mark.parametrize(
    "source",
    [
        "async def handler(event, context): ...",
        "@asynchronous\ndef handler(event, context): ...",
        "from elsewhere import handler",
        "if x:\n    async def handler(e, c): ...\nelse:\n    def handler(e, c): ...",
    ],
)
def test_async_handler_is_held_for_a_sync_one(source: str) -> None:
    """What may be async is given the benefit of the doubt."""
    handler.check(one(source), "hello:handler", 100)


def test_module_in_a_package_is_not_found() -> None:
    """Dotted modules are files in folders, or the folder's __init__."""
    contents = several("app/api.py", "other/__init__.py")
    handler.check(contents, "app.api:handler", 1)
    handler.check(contents, "other:handler", 1)
    with pytest.raises(InvalidHandler, match=r"module 'app\.web' is not in the package: neither app/web\.py nor"):
        handler.check(contents, "app.web:handler", 1)


@pytest.mark.parametrize(
    ("contents", "chosen"),
    [
        (one(SYNC), "hello:handler"),
        (one(SYNC, "my-function.py"), "my-function:handler"),
        (several("main.py", "handler.py", "other.py"), "main:handler"),
        (several("handler.py", "other.py"), "handler:handler"),
        (several("orders.py", "lib/a.py", "lib/b.py"), "orders:handler"),
        (several("orders.py", "__main__.py"), "orders:handler"),
    ],
)
def test_default_handler_is_another(contents: Contents, chosen: str) -> None:
    """One file: its own; a ZIP: main, handler, or the only module at its top."""
    assert handler.choose(contents) == chosen


@pytest.mark.parametrize("contents", [several("a.py", "b.py"), several("lib/a.py")])
def test_default_handler_is_a_guess(contents: Contents) -> None:
    """In doubt the user is asked."""
    with pytest.raises(InvalidHandler, match="handler: say which, as module:function"):
        handler.choose(contents)


def with_manifest(text: str) -> Contents:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as writer:
        writer.writestr("main.py", SYNC)
        writer.writestr("mayfly.toml", text)
    return package.read(packed.getvalue(), "hello.zip")


def test_manifest_in_the_zip_is_not_read() -> None:
    """A ZIP deployed by curl alone has the settings of its own mayfly.toml; given ones take their place."""
    contents = with_manifest("[functions.hello]\nmemory = 512\n")
    assert draft.build("hello", contents, None, frozenset()).memory_mb == 512
    assert draft.build("hello", contents, {"timeout": 9}, frozenset()) == VersionSpec(
        name="hello",
        version=0,
        runtime="python",
        handler="main:handler",
        package=contents.package,
        created="",
        timeout_s=9.0,
    )


@pytest.mark.parametrize(
    "text", ["[functions.other]", "[functions.hello]\nmemory = 1", "functions = ", "x = 1" * 99_999]
)
def test_bad_manifest_in_the_zip_is_ignored(text: str) -> None:
    """What is wrong with it is said, never passed over."""
    with pytest.raises(Refusal, match=r"mayfly\.toml|memory"):
        draft.build("hello", with_manifest(text), None, frozenset())


def test_manifest_and_handler_are_checked_one_after_the_other_only() -> None:
    """A wrong setting is reported even when the package is fine."""
    with pytest.raises(InvalidManifest):
        draft.build("hello", one(SYNC), {"memory": 1}, frozenset())


@pytest.mark.parametrize(
    ("function", "data", "filename"), [("billing.charge", b"x = 1", "charge.py"), ("a-b", b"PK\x03\x04", "a-b.zip")]
)
def test_code_without_a_name_gets_none(function: str, data: bytes, filename: str) -> None:
    """Code that comes without a file name is called after the function."""
    assert draft.default_filename(function, data) == filename
