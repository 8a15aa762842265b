"""Subjects, headers and bucket names are built in proto and nowhere else: this reads every other module's strings."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("chassis", "broker_config", "services", "runtimes", "sdk")

LITERAL = re.compile(
    r"""
    mayfly\.(?:node|router|load|api|activate|kv|sys|schedule|due)\b   # between services
    | (?:^|\s)fn\.                                                    # a call
    | ^(?:async|event|log|usage|result|dlq)\.(?:$|[>*])               # a subject's beginning, or a wildcard
    | \$(?:KV|O|JS|SRV|SYS)\b                                         # NATS's own
    | _INBOX | ^_R_\.
    | ^(?:KV|OBJ)_
    | ^(?:Mayfly|Nats-Service)-[A-Z]                                  # headers
    """,
    re.VERBOSE,
)
NAMED_BUCKET = {"Bucket", "Mirror", "ObjectStore", "kv_stream", "object_stream", "kv_feed", "kv_feed_of"}

# The runtime imports none of ours; tests/contract compares its copies of names with proto.
OWN_COPIES = {"runtimes/python/mayfly_runtime"}


def _modules() -> list[Path]:
    return [
        path
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not any(path.is_relative_to(ROOT / copy) for copy in OWN_COPIES)
    ]


def _docstrings(tree: ast.Module) -> set[ast.AST]:
    """Strings that are statements of their own."""
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def literals(source: str) -> Iterator[str]:
    """``line: text`` of each subject, header or bucket name in the code."""
    tree = ast.parse(source)
    skipped = _docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node not in skipped and isinstance(node.value, str | bytes):
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            if LITERAL.search(text):
                yield f"{node.lineno}: {text!r}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in NAMED_BUCKET:
            for argument in node.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield f"{argument.lineno}: bucket {argument.value!r}"


@pytest.mark.parametrize("module", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_literals_outside_proto(module: Path) -> None:
    """A subject that is typed a second time can be mistyped; here none is."""
    assert list(literals(module.read_text())) == []


@pytest.mark.parametrize(
    "line",
    [
        'publish("fn.hello")',
        'publish(f"fn.{name}")',
        'f"log.{name}.{instance}"',
        '"log.>"',
        '"mayfly.node.n1.invoke"',
        'b"_INBOX.x"',
        '"Mayfly-Start"',
        'find(raw, b"Nats-Service-Error-Code")',
        'f"$KV.{bucket}.{key}"',
        '"KV_routes"',
        'Mirror(bus, "routes")',
        'kv.Bucket(bus, "nodes")',
    ],
)
def test_the_search_finds_them(line: str) -> None:
    """Each way to write one is seen."""
    assert list(literals(f"x = {line}"))


@pytest.mark.parametrize(
    "line",
    [
        '"log.dropped"',
        '"event.unknown"',
        '"mayfly.toml"',
        '"functions"',
        "Mirror(bus, storage.ROUTES)",
        '"content-type"',
    ],
)
def test_the_search_finds_nothing_else(line: str) -> None:
    """Words for logs, file names and fields are none."""
    assert not list(literals(f"x = {line}"))
