"""What callers get, byte by byte."""

from mayfly_proto import headers
from mayfly_proto.errors import CallError, ErrorType, from_reply
from mayfly_worker import replies
from mayfly_worker.replies import cold, details, from_function, objection, warm


def test_warm_result_carries_two_headers_only() -> None:
    """Each header costs the caller's client time."""
    assert warm("inv1", 0, None) == b"NATS/1.0\r\nMayfly-Invocation: inv1\r\nMayfly-Start: warm\r\n\r\n"


def test_text_and_bytes_say_what_they_are() -> None:
    """JSON goes without saying."""
    assert headers.parse(warm("a", 1, None))["Content-Type"] == "text/plain; charset=utf-8"
    assert headers.parse(warm("a", 2, None))["Content-Type"] == "application/octet-stream"


def test_cold_result_says_what_it_cost() -> None:
    """The first result of an instance names version and duration; the function's own headers come through."""
    block = cold("a", 0, b"Mayfly-Http-Status: 201\r\n", 3, 12.3456)
    assert block.endswith(b"\r\n\r\n")
    assert headers.parse(block) == {
        "Mayfly-Invocation": "a",
        "Mayfly-Start": "cold",
        "Mayfly-Version": "3",
        "Mayfly-Duration-Ms": "12.346",
        "Mayfly-Http-Status": "201",
    }


def test_result_of_exactly_the_limit_passes_and_one_byte_more_does_not() -> None:
    """A frame above max_payload would close the connection of the whole node."""
    assert objection(0, None, 100, 100) is None
    error = objection(0, None, 101, 100)
    assert error is not None
    assert error.kind is ErrorType.TOO_LARGE


def test_what_an_instance_makes_up_is_a_bad_result() -> None:
    """A content type that does not exist, headers without bounds."""
    for content_type, extra in ((3, None), (-1, None), (0, b"A: " + b"x" * replies.MAX_EXTRA_HEADERS + b"\r\n")):
        error = objection(content_type, extra, 1, 100)
        assert error is not None
        assert error.kind is ErrorType.BAD_RESULT


def test_a_handler_cannot_raise_the_platforms_errors() -> None:
    """`node_lost` from user code would have the router write the node off."""
    assert from_function("node_lost", "x", "").kind is ErrorType.FUNCTION_ERROR
    assert from_function("nonsense", "x", "").kind is ErrorType.FUNCTION_ERROR
    assert from_function("bad_result", "x", "").kind is ErrorType.BAD_RESULT
    assert from_function("loop", "x", "").kind is ErrorType.LOOP


def test_an_endless_message_or_traceback_is_cut() -> None:
    """An error always fits into a message; of a traceback the end is kept."""
    error = from_function("function_error", "m" * 10**6, "t" * 10**6 + "end")
    assert len(error.body()) < 64 * 1024
    assert error.traceback.endswith("end")


def test_error_reads_back_as_it_was() -> None:
    """Headers and body say the same, and what went on where."""
    error = CallError(ErrorType.FUNCTION_TIMEOUT, "too slow", component="worker", invocation="inv1")
    block = error.headers(details(cold=True, version=2, duration_ms=1000.0))
    again = from_reply(block, error.body())
    assert again is not None
    assert (again.kind, again.message, again.invocation) == (ErrorType.FUNCTION_TIMEOUT, "too slow", "inv1")
    assert headers.parse(block)["Mayfly-Start"] == "cold"
    assert headers.parse(block)["Mayfly-Version"] == "2"
