"""Finding a handler in a package by reading the code, never by running it.

`choose` names the handler when the user does not; `check` says what is wrong with one: its module is not there, the
code does not parse, no top-level name of the module is called so, or it is a plain ``def`` where ``concurrency`` wants
several calls at once. What only running the code can tell (decorators, ``import *``) is given the benefit of the doubt.
"""

import ast
import re
import warnings
from collections.abc import Iterator
from difflib import get_close_matches
from enum import Enum
from pathlib import PurePosixPath

from mayfly_registry.errors import InvalidHandler
from mayfly_registry.package import PY, Contents

FUNCTION = "handler"  # what a handler is called unless the user says otherwise
MODULES = ("main", FUNCTION)  # where it is looked for in a ZIP, before the sole module at its top

_MODULE = re.compile(r"(?!__)[A-Za-z0-9_-]+\.py")


class Kind(Enum):
    """What a top-level name is bound to, as far as the text tells."""

    SYNC = "def"
    ASYNC = "async def"
    UNKNOWN = "anything else"


def choose(contents: Contents) -> str:
    """``module:handler``, when the package leaves no doubt about the module. Raises `InvalidHandler`."""
    if contents.package.format == PY:
        return f"{PurePosixPath(contents.package.filename).stem}:{FUNCTION}"
    modules = sorted(path.removesuffix(".py") for path in contents.files if _MODULE.fullmatch(path))
    for name in MODULES:
        if name in modules:
            return f"{name}:{FUNCTION}"
    if len(modules) == 1:
        return f"{modules[0]}:{FUNCTION}"
    found = f"has {len(modules)} modules at its top" if modules else "has no module at its top"
    raise InvalidHandler(f"handler: say which, as module:function: the package {found}, none called main or handler")


def check(contents: Contents, handler: str, concurrency: int) -> None:
    """Raises `InvalidHandler` or `package.InvalidPackage`."""
    module, _, function = handler.partition(":")
    path = _module_file(contents, module)
    kinds, open_ended = _top_level(contents.read(path), path)
    if function not in kinds and not open_ended:
        near = get_close_matches(function, kinds, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(kinds)[:10]) or 'none at all'}"
        raise InvalidHandler(f"handler: {path} has no top-level name {function!r}: {hint}")
    if concurrency > 1 and kinds.get(function) is Kind.SYNC:
        raise InvalidHandler(
            f"concurrency: {concurrency} calls at once need an async handler: make it 'async def {function}', or take 1"
        )


def _module_file(contents: Contents, module: str) -> str:
    base = module.replace(".", "/")
    candidates = (f"{base}.py", f"{base}/__init__.py")
    for path in candidates:
        if path in contents.files:
            return path
    raise InvalidHandler(
        f"handler: module {module!r} is not in the package: neither {candidates[0]} nor {candidates[1]}"
    )


def _top_level(source: bytes, path: str) -> tuple[dict[str, Kind], bool]:
    """The names that a module binds, and whether it may bind others (by ``import *`` or ``__getattr__``)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the user's code: the user sees them when it runs
            module = ast.parse(source, path)
            compile(module, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        where = f"{path}, line {error.lineno}" if error.lineno else path
        text = f": {error.text.strip()[:120]}" if error.text else ""
        raise InvalidHandler(f"handler: {where}: {error.msg}{text}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise InvalidHandler(f"handler: {path} cannot be parsed: {type(error).__name__}") from None
    kinds: dict[str, Kind] = {}
    for name, kind in _bindings(module.body):
        kinds[name] = kind if kinds.get(name, kind) is kind else Kind.UNKNOWN
    open_ended = "*" in kinds or "__getattr__" in kinds
    return kinds, open_ended


def _bindings(body: list[ast.stmt]) -> Iterator[tuple[str, Kind]]:
    """Names bound by these statements and by the blocks in them, functions and classes left closed."""
    for statement in body:
        match statement:
            case ast.FunctionDef(name=name, decorator_list=decorators):
                yield name, Kind.UNKNOWN if decorators else Kind.SYNC
            case ast.AsyncFunctionDef(name=name, decorator_list=decorators):
                yield name, Kind.UNKNOWN if decorators else Kind.ASYNC
            case ast.ClassDef(name=name):
                yield name, Kind.UNKNOWN
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                for alias in names:
                    yield alias.asname or alias.name.partition(".")[0], Kind.UNKNOWN
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Lambda()):
                yield name, Kind.SYNC
            case _:
                yield from _inside(statement)


def _inside(statement: ast.stmt) -> Iterator[tuple[str, Kind]]:
    """Assignments, loops, ``with``, ``if``, ``try``, ``match``: their own names, then their blocks."""
    for child in ast.iter_child_nodes(statement):
        if isinstance(child, ast.stmt):
            yield from _bindings([child])
        elif isinstance(child, (ast.ExceptHandler, ast.match_case)):
            yield from _bindings(child.body)
        else:
            for node in ast.walk(child):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    yield node.id, Kind.UNKNOWN
