"""What a handler is given, and what becomes of what it returns, raises and prints."""

import pytest

from mayfly_proto import headers
from tests.integration.runtime_driver import Node

ECHO = "def handler(event, context):\n    return [type(event).__name__, event if not isinstance(event, bytes) else 0]\n"
JSON = headers.block({"Content-Type": "application/json; charset=utf-8"})
TEXT = headers.block({"content-type": "text/csv"})
FORM = headers.block({"Content-Type": "application/x-www-form-urlencoded"})
IMAGE = headers.block({"Content-Type": "image/png"})
HTTP = headers.block(
    {
        "Mayfly-Http": "GET /orders/a%20b?x=1&y=",
        "Mayfly-Http-Route": "id=a%20b",
        "User-Agent": "curl",
        "Mayfly-Timeout-Ms": "5",
    }
)


@pytest.mark.parametrize(
    ("content_type", "payload", "event"),
    [
        (None, b'{"a": 1}', ["dict", {"a": 1}]),
        (None, b"plain words", ["str", "plain words"]),
        (None, b"\xff\x00", ["bytes", 0]),
        (None, b"", ["NoneType", None]),
        (JSON, b"[1]", ["list", [1]]),
        (TEXT, b"1", ["str", "1"]),
        (FORM, b'{"curl": "-d"}', ["dict", {"curl": "-d"}]),
        (IMAGE, b"1", ["bytes", 0]),
    ],
)
async def test_event_type_ignores_content_type(
    node: Node, content_type: bytes | None, payload: bytes, event: object
) -> None:
    """The content type decides what the event is; without one, JSON if it parses, else text, else bytes."""
    instance = await node.start(ECHO)
    assert (await instance.call(payload, headers=content_type)).json == event


@pytest.mark.parametrize(("content_type", "payload"), [(JSON, b"{"), (JSON, b"\xff"), (TEXT, b"\xff")])
async def test_malformed_payload_reaches_handler(node: Node, content_type: bytes, payload: bytes) -> None:
    """A payload that is not what its content type says is the caller's error."""
    instance = await node.start(ECHO)
    answer = await instance.call(payload, headers=content_type)
    assert answer.kind == "bad_request" and answer.message
    assert (await instance.call(b"1")).json == ["int", 1], "the instance serves on"


@pytest.mark.parametrize(("payload", "event"), [("json", ["int", 1]), ("text", ["str", "1"]), ("bytes", ["bytes", 0])])
async def test_manifest_payload_is_ignored(node: Node, payload: str, event: object) -> None:
    """`payload` in the manifest overrides the content type."""
    instance = await node.start(ECHO, payload=payload)
    assert (await instance.call(b"1", headers=IMAGE)).json == event


@pytest.mark.parametrize(
    ("returned", "content_type", "payload"),
    [
        ("{'a': ['ä', None, True, 1.5]}", 0, '{"a":["ä",null,true,1.5]}'.encode()),
        ("None", 0, b"null"),
        ("'text'", 1, b"text"),
        ("b'raw'", 2, b"raw"),
        ("{'statusCode': 201}", 0, b'{"statusCode":201}'),
    ],
)
async def test_result_type_is_lost(node: Node, returned: str, content_type: int, payload: bytes) -> None:
    """Text, bytes and JSON are told apart; a status code means nothing to a caller that is not HTTP."""
    instance = await node.start(f"def handler(event, context): return {returned}")
    answer = await instance.call()
    assert (answer.content_type, answer.payload) == (content_type, payload)


@pytest.mark.parametrize(
    ("returned", "complaint"),
    [
        (
            "{'rows': [1, {'when': __import__('datetime').date(2024, 1, 1)}]}",
            "result['rows'][1]['when'] of type datetime.date",
        ),
        ("{(1, 2): 3}", "a key of type tuple in result"),
        ("[float('nan')]", "result[0]: nan is not a JSON number"),
        ("'\\ud800'", "text is not valid Unicode"),
        ("(loop := [], loop.append(loop), loop)[2]", "nested too deep or in a circle"),
    ],
)
async def test_unserialisable_result_says_nothing(node: Node, returned: str, complaint: str) -> None:
    """The complaint names the place in the result, and the instance serves on."""
    instance = await node.start(f"def handler(event, context): return {returned} if event else 'fine'")
    answer = await instance.call(1)
    assert answer.kind == "bad_result" and complaint in answer.message
    assert (await instance.call(0)).payload == b"fine"


async def test_http_result_is_passed_as_json(node: Node) -> None:
    """A call by HTTP may answer with status, headers and body."""
    source = """
        def handler(event, context):
            headers = {"Content-Type": "text/html", "Set-Cookie": ["a=1", "b=2"]}
            return {"statusCode": 404, "headers": headers, "body": "<p>"}
    """
    answer = await (await node.start(source)).call(headers=HTTP)
    lines = b"Mayfly-Http-Status: 404\r\nContent-Type: text/html\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
    assert (answer.extra_headers, answer.payload) == (lines, b"<p>")


@pytest.mark.parametrize(
    "returned",
    [
        "{'statusCode': 200, 'headers': {'X': 'a\\r\\nNats-Service-Error-Code: 500'}}",
        "{'statusCode': 200, 'headers': {'Nats-Service-Error': 'x'}}",
        "{'statusCode': 200, 'headers': {'a b': 'x'}}",
        "{'statusCode': 999}",
        "{'statusCode': 200, 'body': '?', 'isBase64Encoded': True}",
    ],
)
async def test_response_header_smuggles_lines(node: Node, returned: str) -> None:
    """What cannot be a response is refused, most of all header values with line breaks."""
    instance = await node.start(f"def handler(event, context): return {returned}")
    assert (await instance.call(headers=HTTP)).kind == "bad_result"


async def test_http_request_is_unknown_to_handler(node: Node) -> None:
    """`context.http` is the request; it is None for other calls."""
    source = """
        def handler(event, context):
            http = context.http
            return http and [http.method, http.path, http.query, http.params, http.headers]
    """
    instance = await node.start(source)
    assert (await instance.call(headers=HTTP)).json == [
        "GET", "/orders/a b", {"x": "1", "y": ""}, {"id": "a b"}, {"User-Agent": "curl"},
    ]  # fmt: skip
    assert (await instance.call()).json is None


async def test_context_lacks_names(node: Node) -> None:
    """The context has AWS Lambda's names and Mayfly's own."""
    source = """
        import time

        def handler(event, context):
            assert 0 < context.get_remaining_time_in_millis() <= 3000
            assert 0 < context.deadline - time.time() <= 3
            return [context.aws_request_id, context.function_name, context.function_version, context.memory_limit_in_mb,
                    context.invocation, context.attempt, context.cold, context.headers]
    """
    instance = await node.start(source, name="a.b", version=7, memory_mb=64)
    expected = ["inv-1", "a.b", "7", 64, "inv-1", 1, True, {"X": "y"}]
    assert (await instance.call(headers=headers.block({"X": "y"}))).json == expected
    assert (await instance.call()).json[-2:] == [False, {}]


async def test_error_shows_platform_frames(node: Node) -> None:
    """An exception is answered with its sentence and the user's frames; the instance serves on."""
    source = """
        def inner():
            raise ValueError("no such order")

        def handler(event, context):
            return inner() if event else "fine"
    """
    instance = await node.start(source)
    answer = await instance.call(1)
    assert (answer.kind, answer.message) == ("function_error", "ValueError: no such order")
    assert "in inner" in answer.traceback and "/code/function.py" in answer.traceback
    assert "mayfly_runtime" not in answer.traceback
    assert (await instance.call(0)).payload == b"fine"


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("import sys; sys.exit(3)", "function_error"),
        ("raise KeyboardInterrupt", "function_error"),
        ("raise MemoryError", "out_of_memory"),
        ("class Odd(Exception):\n        def __str__(self): raise RuntimeError\n    raise Odd", "function_error"),
    ],
)
async def test_odd_exception_ends_instance(node: Node, statement: str, kind: str) -> None:
    """Whatever is raised answers the call, and does not end the instance."""
    instance = await node.start(f"def handler(event, context):\n    if not event: return 1\n    {statement}\n")
    assert (await instance.call(1)).kind == kind
    assert (await instance.call(0)).json == 1


async def test_async_calls_wait_for_each_other(node: Node) -> None:
    """A coroutine function serves as many calls at once as the worker sends; each line knows its call."""
    source = """
        import asyncio
        everyone = asyncio.Barrier(3)

        async def handler(event, context):
            print("before", event)
            await everyone.wait()
            print("after", event)
            return event
    """
    instance = await node.start(source, concurrency=3)
    calls = [instance.begin(number) for number in (1, 2, 3)]
    assert [(await call).json for call in calls] == [1, 2, 3]
    lines = {(f"inv-{number}", f"{word} {number}") for number in (1, 2, 3) for word in ("before", "after")}
    assert {(invocation, line) for _, invocation, line in instance.logs} == lines


@pytest.mark.parametrize("word", ["", "async "])
async def test_large_payload_is_cut(node: Node, word: str) -> None:
    """Megabytes pass both ways, also while another event is waiting behind them."""
    instance = await node.start(f"{word}def handler(event, context): return event", payload="bytes")
    large = bytes(range(256)) * 16384
    calls = [instance.begin(payload) for payload in (large, b"small", large)]
    assert [len((await call).payload) for call in calls] == [len(large), 5, len(large)]
    assert (await instance.call(large)).payload == large


async def test_output_is_lost_or_unlabelled(node: Node) -> None:
    """What is printed and logged comes as whole lines with stream and invocation, before the answer."""
    source = """
        import logging, subprocess, sys
        print("importing")

        def handler(event, context):
            print("one\\ntwo")
            print("both in ", end="")
            sys.stderr.write("oops\\n")
            logging.getLogger("app").info("logged")
            sys.stdout.buffer.write(b"one line\\n")
            subprocess.run(["/bin/echo", "from a subprocess"], check=True)
            print("no line end", end="")
    """
    instance = await node.start(source)
    assert instance.logs == [("stdout", "", "importing")]
    await instance.call()
    instance.process.stop()
    await instance.exit()
    labelled = [log for log in instance.logs if log[1]]
    printed = [line for stream, _, line in labelled if stream == "stdout"]
    assert printed == ["one", "two", "both in one line", "no line end"]
    assert [line for stream, _, line in labelled if stream == "stderr"] == ["oops", "INFO app: logged"]
    assert {invocation for _, invocation, _ in labelled} == {"inv-1"}
    assert ("stdout", "", "from a subprocess") in instance.logs


async def test_forked_child_writes_into_the_socket(node: Node) -> None:
    """What user code forks prints to the pipe, and its end is not the instance's."""
    source = """
        import multiprocessing

        def work(queue):
            print("child")
            queue.put(42)

        def handler(event, context):
            fork = multiprocessing.get_context("fork")
            queue = fork.Queue()
            child = fork.Process(target=work, args=(queue,))
            child.start()
            answer = queue.get()
            child.join()
            return answer
    """
    instance = await node.start(source)
    assert (await instance.call()).json == 42
    assert (await instance.call()).json == 42
    instance.process.stop()
    await instance.exit()
    assert instance.logs == [("stdout", "", "child")] * 2


async def test_package_cannot_bring_its_own_modules(node: Node) -> None:
    """Code of several modules and data files works, with a msgpack of its own; the runtime's is out of sight."""
    files = {
        "app/__init__.py": "",
        "app/main.py": """
            import pathlib, sys
            import msgpack
            from app.text import words

            def handler(event, context):
                data = pathlib.Path("app/data.txt").read_text()
                path = [p for p in sys.path if "site-packages" in p or "runtimes" in p]
                return [msgpack.version, words, data, path]
        """,
        "app/text.py": "words = 'hello'",
        "app/data.txt": "data",
        "msgpack.py": "version = 'mine'",
    }
    instance = await node.start(files, handler="app.main:handler")
    assert (await instance.call()).json == ["mine", "hello", "data", []]
