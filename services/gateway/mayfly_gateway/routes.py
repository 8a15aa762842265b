"""Which function an HTTP request belongs to: the path templates of all http triggers, as one trie.

A template is literal segments and ``{parameter}`` segments: ``/orders/{id}``. A parameter takes one whole segment that
is not empty. Where several templates fit, the one with a literal furthest to the left wins, among those that take the
method. Segments are compared after percent-decoding, so an encoded slash never splits one.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote

RESERVED = frozenset(
    ("function", "async-function", "event", "api", "docs", "healthz", "readyz", "metrics", "openapi.json")
)  # first segments that are Mayfly's own


@dataclass(frozen=True, slots=True)
class Route:
    template: str
    methods: frozenset[str]  # upper case; empty: any
    function: str

    def takes(self, method: str) -> bool:
        return not self.methods or method in self.methods or (method == "HEAD" and "GET" in self.methods)


@dataclass(frozen=True, slots=True)
class Match:
    function: str
    parameters: dict[str, str]


@dataclass(frozen=True, slots=True)
class NotAllowed:
    """The path is known, the method is not."""

    allow: tuple[str, ...]


@dataclass(slots=True)
class _Node:
    literals: dict[str, "_Node"] = field(default_factory=dict)
    parameter: "_Node | None" = None
    routes: list[tuple[Route, tuple[str, ...]]] = field(default_factory=list)  # with the names of its parameters


class Routes:
    """Immutable once made: a changed set of triggers is a new one."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        for route in sorted(routes, key=lambda route: (route.function, route.template)):
            self._add(route)

    def _add(self, route: Route) -> None:
        node, names = self._root, []
        for segment in _split(route.template):
            if segment.startswith("{") and segment.endswith("}"):
                names.append(segment[1:-1])
                if node.parameter is None:
                    node.parameter = _Node()
                node = node.parameter
            else:
                node = node.literals.setdefault(unquote(segment), _Node())
        node.routes.append((route, tuple(names)))

    def find(self, method: str, path: str) -> Match | NotAllowed | None:
        """``path`` as it came, percent-encoded, without its query."""
        allow: set[str] = set()
        for node, values in _ends(self._root, tuple(map(unquote, _split(path))), ()):
            for route, names in node.routes:
                if route.takes(method):
                    return Match(route.function, dict(zip(names, values, strict=True)))
                allow |= route.methods
        if not allow:
            return None
        return NotAllowed(tuple(sorted(allow | ({"HEAD"} if "GET" in allow else set()))))


def _split(path: str) -> list[str]:
    return path.removeprefix("/").split("/")


def _ends(node: _Node, segments: tuple[str, ...], values: tuple[str, ...]) -> Iterator[tuple[_Node, tuple[str, ...]]]:
    """Every node that the segments lead to, literal before parameter. Visits no node twice: the trie is a tree."""
    if not segments:
        yield node, values
        return
    head, rest = segments[0], segments[1:]
    if (literal := node.literals.get(head)) is not None:
        yield from _ends(literal, rest, values)
    if node.parameter is not None and head:
        yield from _ends(node.parameter, rest, (*values, head))
