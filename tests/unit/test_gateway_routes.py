"""The matcher of http triggers: which function, which parameters, and what else a path would take."""

from hypothesis import given
from hypothesis import strategies as st

from mayfly_gateway.routes import RESERVED, Match, NotAllowed, Route, Routes
from mayfly_registry import http_paths


def route(template: str, function: str = "f", *methods: str) -> Route:
    return Route(template, frozenset(methods), function)


def test_parameters_are_named_and_decoded() -> None:
    """A parameter is its whole segment, percent-decoded, an encoded slash included."""
    routes = Routes([route("/orders/{id}/items/{item}")])
    assert routes.find("GET", "/orders/a%2Fb/items/%C3%A9") == Match("f", {"id": "a/b", "item": "é"})


def test_parameter_is_never_empty_or_several_segments() -> None:
    """``/orders/{id}`` is neither ``/orders/`` nor ``/orders/1/2`` nor ``/orders``."""
    routes = Routes([route("/orders/{id}")])
    for path in ("/orders/", "/orders/1/2", "/orders", "/orders/1/", "//1"):
        assert routes.find("GET", path) is None


def test_literal_beats_parameter_from_the_left() -> None:
    """The most literal template wins, whatever the order of deploys."""
    templates = {"/{a}/{b}": "both", "/x/{b}": "first", "/{a}/y": "second", "/x/y": "none"}
    for ordered in (list(templates), list(reversed(templates))):
        routes = Routes(route(template, templates[template]) for template in ordered)
        found = {path: routes.find("GET", path) for path in ("/x/y", "/x/1", "/1/y", "/1/2")}
        assert {path: match.function for path, match in found.items() if isinstance(match, Match)} == {
            "/x/y": "none",
            "/x/1": "first",
            "/1/y": "second",
            "/1/2": "both",
        }


def test_dead_end_of_a_literal_falls_back_to_the_parameter() -> None:
    """``/x/y`` that leads nowhere further does not hide ``/{a}/z``."""
    routes = Routes([route("/x/y", "literal"), route("/{a}/z", "parameter")])
    assert routes.find("GET", "/x/z") == Match("parameter", {"a": "x"})


def test_other_methods_are_named_when_the_path_is_known() -> None:
    """405 needs the union of what the path would take; a template that takes the method wins over one that does not."""
    routes = Routes([route("/a/b", "posts", "POST"), route("/a/{x}", "gets", "GET")])
    assert routes.find("GET", "/a/b") == Match("gets", {"x": "b"})
    assert routes.find("PUT", "/a/b") == NotAllowed(("GET", "HEAD", "POST"))
    assert routes.find("POST", "/a/c") == NotAllowed(("GET", "HEAD"))


def test_head_is_taken_where_get_is() -> None:
    """HTTP wants HEAD to work wherever GET does."""
    assert Routes([route("/a", "f", "GET")]).find("HEAD", "/a") == Match("f", {})


def test_no_methods_means_any() -> None:
    """A trigger that names no method takes all of them."""
    assert Routes([route("/", "root")]).find("PROPFIND", "/") == Match("root", {})


def test_registry_keeps_out_of_what_the_gateway_reserves() -> None:
    """A trigger that deploys is one that the gateway will serve: both keep the same first segments."""
    assert set(http_paths.PLATFORM) == RESERVED


segments = st.sampled_from(["a", "b", "c", "{p}"])
templates = st.lists(segments, min_size=1, max_size=4).map(
    lambda parts: "/" + "/".join(f"{{p{i}}}" if part == "{p}" else part for i, part in enumerate(parts))
)
paths = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


def _fits(template: str, path: str) -> bool:
    one, other = template.split("/"), path.split("/")
    return len(one) == len(other) and all(a == b or a.startswith("{") for a, b in zip(one, other, strict=True))


@given(st.lists(templates, max_size=8, unique=True), paths)
def test_finds_the_most_literal_of_all_that_fit(given_templates: list[str], path: str) -> None:
    """Against the definition: of the templates that fit, the one whose parameters come latest."""
    fitting = [template for template in given_templates if _fits(template, path)]
    found = Routes(route(template, template) for template in given_templates).find("GET", path)
    if not fitting:
        assert found is None
        return
    best = min([part.startswith("{") for part in template.split("/")] for template in fitting)
    assert isinstance(found, Match)
    assert [part.startswith("{") for part in found.function.split("/")] == best
    names = [part[1:-1] for part in found.function.split("/") if part.startswith("{")]
    assert list(found.parameters) == names
