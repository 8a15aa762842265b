"""Consumers page by page: what is not seen here may lose its events."""

import json
from typing import Any, cast

from mayfly_chassis.bus import Bus, Reply
from mayfly_registry.consumers import Consumers


class Server:
    """Two consumers a page; one of the first page is deleted after it was read."""

    def __init__(self) -> None:
        self.names = ["a", "b", "c", "d"]

    async def request(self, _subject: str, body: bytes, **_: Any) -> Reply:
        offset = json.loads(body)["offset"]
        page = self.names[offset : offset + 2]
        infos = [
            {
                "stream_name": "EVENTS",
                "name": name,
                "config": {},
                "created": "2026-01-01T00:00:00Z",
                "ack_floor": {"stream_seq": 0},
            }
            for name in page
        ]
        answer = {"total": len(self.names), "consumers": infos}
        if not offset and "a" in self.names:
            self.names.remove("a")
        return Reply(None, json.dumps(answer).encode())


async def test_a_consumer_that_moves_up_a_page_is_seen() -> None:
    """One before it is deleted between two pages: overlooked, it would be taken to need no event any more."""
    found = await Consumers(cast(Bus, Server())).on(["EVENTS"])
    assert [info.name for info in found] == ["b", "c", "d"]
