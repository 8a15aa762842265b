"""Whose address a limit for each caller goes by: nobody can say that he is another, and each is one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly_gateway import callers
from mayfly_gateway.translation import Field

PEER = ("10.0.0.9", 40_000)


def forwarded(*values: str) -> list[Field]:
    return [(b"x-forwarded-for", value.encode()) for value in values]


def test_header_of_a_client_counts_for_nothing() -> None:
    """Without a trusted proxy the connection's other end is the caller, whatever the client says."""
    assert callers.address(PEER, forwarded("1.2.3.4"), 0) == "10.0.0.9"


@pytest.mark.parametrize(
    ("proxies", "values", "caller"),
    [
        (1, ["1.2.3.4"], "1.2.3.4"),
        (1, ["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
        (1, ["6.6.6.6", "1.2.3.4"], "1.2.3.4"),
        (2, ["6.6.6.6, 1.2.3.4, 10.0.0.1"], "1.2.3.4"),
        (2, ["1.2.3.4"], "10.0.0.9"),
        (1, [], "10.0.0.9"),
        (1, ["not an address"], "10.0.0.9"),
        (1, [""], "10.0.0.9"),
        (1, ["1.2.3.4:5678"], "1.2.3.4"),
        (1, ["[2001:DB8::1]:5678"], "2001:db8::1"),
        (1, ["2001:db8:0:0::1"], "2001:db8::1"),
        (1, ["::ffff:1.2.3.4"], "1.2.3.4"),
    ],
)
def test_trusted_proxies_are_counted_from_the_right(proxies: int, values: list[str], caller: str) -> None:
    """Each trusted proxy appends whom it has seen; one caller is one, with whatever port and spelling."""
    assert callers.address(PEER, forwarded(*values), proxies) == caller


def test_connection_without_an_address_is_a_caller() -> None:
    """A Unix socket has no address: all who come by it are one caller, and none is without a limit."""
    assert callers.address(None, [], 0) == callers.NOBODY
    assert callers.address(("/run/x.sock", 0), [], 0) == callers.NOBODY


@given(st.text(alphabet=st.characters(max_codepoint=255)), st.integers(0, 3))
def test_whatever_is_sent_is_one_line(text: str, proxies: int) -> None:
    """What goes into a header block is an address, never a stranger's text."""
    address = callers.address(PEER, [(b"x-forwarded-for", text.encode("latin-1"))], proxies)
    assert set(address) <= set("0123456789abcdef.:") or "%" in address
    assert "\r" not in address
    assert "\n" not in address
