"""kill -9 of services at moments that a seed chooses, each by the pid that ``platform.json`` has for it then."""

import asyncio
import json
import random
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.acceptance import outside
from tests.acceptance.conftest import Platform

VICTIMS = ("router", "worker", "registry", "nats")
BACK_S = 40.0  # in which a service must be there again: the launcher waits 5 s at most, an election takes 9 s


def moments(rng: random.Random, times: int, seconds: float) -> dict[str, list[float]]:
    """When each service is killed, in seconds from the start."""
    return {service: sorted(rng.uniform(0, seconds) for _ in range(times)) for service in VICTIMS}


@dataclass
class Killer:
    platform: Platform
    rng: random.Random
    killed: Counter[str] = field(default_factory=Counter)
    _dead: set[int] = field(default_factory=set)

    async def kill(self, plan: dict[str, list[float]]) -> None:
        """Returns when all have been killed as often as the plan says, and are there again."""
        sizes = Counter(entry["name"] for entry in self.platform.services())
        await asyncio.gather(*(self._one(service, sizes[service], when) for service, when in plan.items()))

    async def _one(self, service: str, size: int, when: list[float]) -> None:
        """One process of a service at a time: it dies again only when it, or all of its kind, are back."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        for moment in when:
            await asyncio.sleep(started + moment - loop.time())
            victims = await outside.until(lambda: self._alive(service, size), timeout=BACK_S)
            victim = self.rng.choice(victims)
            self._dead.add(victim)
            outside.kill_9(victim)
            self.killed[service] += 1
        await outside.until(lambda: self._alive(service, size), timeout=BACK_S)

    def _alive(self, service: str, size: int) -> list[int]:
        """Its processes, if all are there; of a cluster of NATS servers, if it is whole again."""
        pids = [entry["pid"] for entry in self.platform.services() if entry["name"] == service]
        there = len(pids) == size and not self._dead.intersection(pids) and all(map(outside.alive, pids))
        if there and service == "nats" and size > 1:
            there = all(_whole(self.platform.data, pid) for pid in pids)
        return pids if there else []


def _whole(data: Path, pid: int) -> bool:
    """What a server says of itself; its address is in the file that it writes."""
    try:
        (ports,) = (data / "nats").glob(f"*/run/*_{pid}.ports")
        addresses: dict[str, Any] = json.loads(ports.read_bytes())
        with urllib.request.urlopen(f"{addresses['monitoring'][0]}/healthz", timeout=5) as page:
            return bool(page.status == 200)
    except (ValueError, OSError, urllib.error.URLError):
        return False
