"""Path templates: what may be one, and which of them exclude each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly_proto.records import Trigger
from mayfly_registry import http_paths


def trigger(path: str, *methods: str) -> Trigger:
    return Trigger(http=path, methods=list(methods))


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        (trigger("/orders/{id}"), trigger("/orders/{number}"), True),
        (trigger("/orders/{id}"), trigger("/orders/new"), False),
        (trigger("/orders"), trigger("/orders/{id}"), False),
        (trigger("/orders", "GET"), trigger("/orders", "POST"), False),
        (trigger("/orders", "GET", "PUT"), trigger("/orders", "PUT"), True),
        (trigger("/orders"), trigger("/orders", "PUT"), True),
        (trigger("/"), trigger("/"), True),
    ],
)
def test_two_functions_get_the_same_requests(one: Trigger, other: Trigger, overlap: bool) -> None:
    """Same shape and a method in common: a conflict; a literal beside a parameter: none."""
    assert http_paths.overlap(one, other) is overlap
    assert http_paths.overlap(other, one) is overlap


def test_conflict_does_not_name_its_owner() -> None:
    """The message says which path is taken, and by whom."""
    taken = http_paths.conflicts([trigger("/a/{x}", "GET")], {"b": [], "shop": [trigger("/a/{y}")]})
    assert taken == ["triggers: GET /a/{x} is taken: function shop has /a/{y}"]


@pytest.mark.parametrize(
    "path", ["", "a", "//", "/a/", "/a//b", "/a b", "/{}", "/{1}", "/{a}{b}", "/../a", "/./a", "/%2e"]
)
def test_a_path_that_no_request_can_have_is_taken(path: str) -> None:
    """Empty, dotted and escaped segments never match what a client sends, so they are refused."""
    with pytest.raises(http_paths.InvalidPath):
        http_paths.shape(path)


@pytest.mark.parametrize("path", ["/function/x", "/api/v1", "/healthz", "/metrics", "/docs"])
def test_a_function_takes_the_platforms_own_path(path: str) -> None:
    """The gateway's own paths cannot be taken over."""
    with pytest.raises(http_paths.InvalidPath, match="belongs to the platform"):
        http_paths.shape(path)


@given(st.text(max_size=30))
def test_odd_text_breaks_the_parser(text: str) -> None:
    """Any text is a shape or an InvalidPath."""
    try:
        shape = http_paths.shape(text)
    except http_paths.InvalidPath:
        return
    assert text.count("/") == max(len(shape), 1)
