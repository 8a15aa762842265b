"""Every error a caller can meet, from a real cause, by NATS and by HTTP: the same code, type and JSON body, never an
empty one; nothing hangs, and the next call works."""

import asyncio
import io
import json
import zipfile
from typing import Any

import pytest

from tests.acceptance import outside

TROUBLE = """
import os, sys, time

def handler(event, context):
    what = (event or {}).get("do")
    if what == "raise":
        raise ValueError("no good")
    if what == "set":
        return {1, 2}
    if what == "sleep":
        time.sleep(60)
    if what == "exit":
        print("last words", file=sys.stderr)
        os._exit(3)
    if what == "segfault":
        import ctypes
        ctypes.string_at(0)
    if what == "memory":
        kept = []
        while True:
            kept.append(bytearray(8 << 20))
    if what == "big":
        return "x" * event["size"]
    return "fine"
"""

CASES = [
    ("raise", 500, "function_error", "ValueError: no good"),
    ("set", 500, "bad_result", "set"),
    ("sleep", 504, "function_timeout", ""),
    ("exit", 502, "instance_crashed", ""),
    ("segfault", 502, "instance_crashed", ""),
    ("memory", 502, "out_of_memory", ""),
]


@pytest.fixture(scope="module")
def trouble(platform: Any) -> Any:
    outside.deploy(platform, "trouble", TROUBLE, timeout=2, memory=96, max_instances=4)
    return platform


async def both_ways(platform: Any, function: str, payload: bytes) -> list[outside.Answer]:
    kind = {"Content-Type": "application/json"}
    async with outside.client(platform.nats) as connection:
        by_nats = await outside.call(connection, function, payload, headers=kind)
    by_http = await asyncio.to_thread(outside.http_call, platform.http, "POST", f"/function/{function}", payload, kind)
    return [by_nats, by_http]


@pytest.mark.parametrize(("do", "code", "kind", "words"), CASES, ids=[case[0] for case in CASES])
async def test_failures_of_the_function(trouble: Any, do: str, code: int, kind: str, words: str) -> None:
    """A function that raises, hangs, dies or eats its memory: the caller gets the code and the reason."""
    for answer in await both_ways(trouble, "trouble", json.dumps({"do": do}).encode()):
        assert (answer.code, answer.error["code"], answer.error["type"]) == (code, code, kind), answer.body
        assert words in answer.error["message"]
        assert answer.error["invocation"] == answer.headers["Mayfly-Invocation"]
    async with outside.client(trouble.nats) as connection:
        assert (await outside.call(connection, "trouble", b"{}")).body == b"fine"


async def test_traceback_and_last_words_reach_the_caller(trouble: Any) -> None:
    """The traceback of what was raised, and the last lines of stderr of what died."""
    (raised, _) = await both_ways(trouble, "trouble", b'{"do": "raise"}')
    assert 'raise ValueError("no good")' in raised.error["traceback"]
    (died, _) = await both_ways(trouble, "trouble", b'{"do": "exit"}')
    assert "last words" in died.error["traceback"]
    (faulted, _) = await both_ways(trouble, "trouble", b'{"do": "segfault"}')
    assert "Segmentation fault" in faulted.error["traceback"]


async def test_invalid_json_with_a_json_content_type_is_400(trouble: Any) -> None:
    """The caller said JSON and sent something else: the function is not called."""
    for answer in await both_ways(trouble, "trouble", b"{nonsense"):
        assert (answer.code, answer.error["type"]) == (400, "bad_request")


async def test_unknown_function(trouble: Any) -> None:
    """NATS answers 'no responders' for a name that no function has; gateway and command say 404."""
    async with outside.client(trouble.nats) as connection:
        assert (await outside.call(connection, "nobody")).code == 503
    answer = outside.http_call(trouble.http, "POST", "/function/nobody")
    assert (answer.code, answer.error["type"]) == (404, "not_found")
    assert trouble.cli("invoke", "nobody", check=False).returncode == 4


async def test_payload_and_result_over_the_limit_are_413(trouble: Any) -> None:
    """A payload, and a result, of exactly the server's max_payload: refused, and nobody's connection is lost."""
    async with outside.client(trouble.nats) as connection:
        limit = connection.max_payload
        headroom = 200  # the caller's own headers count for the server
        for size in (limit - headroom, limit - 65536 + 1):
            answer = await outside.call(connection, "trouble", b'"' + b"x" * (size - 2) + b'"')
            assert (answer.code, answer.error["type"]) == (413, "too_large"), size
        answer = outside.http_call(trouble.http, "POST", "/function/trouble", b"x" * (limit + 1))
        assert (answer.code, answer.error["type"]) == (413, "too_large")
        for size in (limit, limit + 1):
            answer = await outside.call(connection, "trouble", b'{"do": "big", "size": %d}' % size)
            assert (answer.code, answer.error["type"]) == (413, "too_large"), size
        assert (await outside.call(connection, "trouble", b"{}")).body == b"fine"


async def test_queue_full_is_429_with_retry_after(platform: Any) -> None:
    """`max_queue` bounds who may wait; who may not is told when to come back."""
    source = "import time\n\ndef handler(event, context):\n    time.sleep(0.5)\n"
    outside.deploy(platform, "full", source, max_instances=1, max_queue=2, timeout=10)
    async with outside.client(platform.nats) as connection:
        await outside.call(connection, "full")
        answers = await asyncio.gather(*(outside.call(connection, "full") for _ in range(8)))
    refused = [answer for answer in answers if answer.code == 429]
    assert len(refused) == 8 - 3
    assert all(answer.code == 200 for answer in answers if answer not in refused)
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
    assert {answer.error["type"] for answer in refused} == {"throttled"}


async def test_deadline_that_passes_in_the_queue_is_408(platform: Any) -> None:
    """A caller's own deadline (`Mayfly-Timeout-Ms`) ends its wait, and never runs the function afterwards."""
    source = "import time\n\ndef handler(event, context):\n    time.sleep(1.0)\n"
    outside.deploy(platform, "late", source, max_instances=1, timeout=10)
    async with outside.client(platform.nats) as connection:
        await outside.call(connection, "late")
        first = asyncio.create_task(outside.call(connection, "late"))
        await outside.until(lambda: outside.instances(platform, "late")[0]["state"] == "busy")
        second = await outside.call(connection, "late", headers={"Mayfly-Timeout-Ms": "300"})
        assert (second.code, second.error["type"]) == (408, "deadline_exceeded")
        assert (await first).code == 200


async def test_no_room_anywhere_is_503(mortal: Any) -> None:
    """A function that fits on no node is refused with the reason, not left to wait for its deadline."""
    outside.deploy(mortal, "giant", "def handler(event, context):\n    return 1\n", memory=10240)
    loop = asyncio.get_running_loop()
    started = loop.time()
    for answer in await both_ways(mortal, "giant", b"{}"):
        assert (answer.code, answer.error["type"]) == (503, "no_capacity")
    assert loop.time() - started < 10


async def test_import_error_is_502_with_its_traceback(platform: Any) -> None:
    """Code that cannot be imported: the caller sees where, and the function stays deployed."""
    outside.deploy(platform, "broken", "import nothing_of_that_name\n\ndef handler(event, context):\n    pass\n")
    for answer in await both_ways(platform, "broken", b"{}"):
        assert (answer.code, answer.error["type"]) == (502, "init_failed")
        assert "nothing_of_that_name" in answer.error["traceback"]


BAD_SETTINGS = [
    ({"memory": 1}, "memory"),
    ({"timeout": 0}, "timeout"),
    ({"concurrency": 4}, "concurrency"),  # the handler is not async
    ({"handler": "nowhere"}, "handler"),
    ({"runtime": "cobol"}, "runtime"),
    ({"isolation": "vault"}, "isolation"),
    ({"colour": "red"}, "colour"),
    ({"triggers": [{"http": "no-slash"}]}, "http"),
    ({"max_instances": 1, "min_instances": 2}, "min_instances"),
]


@pytest.mark.parametrize(("settings", "field"), BAD_SETTINGS, ids=[field for _, field in BAD_SETTINGS])
def test_bad_manifest_is_400_and_names_the_field(platform: Any, settings: dict[str, object], field: str) -> None:
    """What is wrong with a manifest is said by field, and nothing is deployed."""
    body = {"source": "def handler(event, context):\n    pass\n", "filename": "bad.py", "settings": settings}
    answer = outside.manage(platform, "POST", "functions/bad-manifest", body)
    assert (answer.code, answer.error["type"]) == (400, "bad_request")
    assert field in answer.error["message"]
    assert outside.manage(platform, "GET", "functions/bad-manifest").code == 404


def archive(**entries: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as writer:
        for name, text in entries.items():
            writer.writestr(name.replace("|", "/"), text)
    return packed.getvalue()


def linked() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as writer:
        link = zipfile.ZipInfo("main.py")
        link.external_attr = 0o120777 << 16
        writer.writestr(link, "/etc/passwd")
    return packed.getvalue()


def bomb() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("main.py", "def handler(event, context):\n    pass\n")
        writer.writestr("zeros", bytes(260 << 20))
    return packed.getvalue()


BAD_ZIPS = {
    "traversal": lambda: archive(**{"..|..|evil.py": "x = 1", "main.py": "def handler(e, c): pass"}),
    "absolute": lambda: archive(**{"|evil.py": "x = 1", "main.py": "def handler(e, c): pass"}),
    "link": linked,
    "bomb": bomb,
    "truncated": lambda: archive(**{"main.py": "def handler(e, c): pass"})[:-30],
    "no handler": lambda: archive(**{"main.py": "def other(e, c): pass"}),
}


@pytest.mark.parametrize("attack", BAD_ZIPS)
def test_bad_zip_is_400(platform: Any, attack: str) -> None:
    """An archive that would write elsewhere, explode, or hold no handler is refused whole."""
    answer = outside.manage(platform, "POST", "functions/bad-zip", BAD_ZIPS[attack]())
    assert (answer.code, answer.error["type"]) == (400, "bad_request"), answer.body
    assert outside.manage(platform, "GET", "functions/bad-zip").code == 404


def test_management_needs_its_token(platform: Any) -> None:
    """Without the token, or with a wrong one, nothing is shown and nothing is done."""
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        answer = outside.http_call(platform.http, "GET", "/api/v1/functions", headers=headers)
        assert (answer.code, answer.error["type"]) == (401, "unauthorized")
