"""What idle instances of a trivial function weigh."""

import asyncio
from statistics import median
from typing import Any

from load import offer, stock_call, stock_client
from system import System, proportional_mb


async def measure(system: System, instances: int = 50) -> dict[str, Any]:
    system.deploy("bench-idle", "import time\n\ndef handler(event, context):\n    time.sleep(event)\n",
                  max_instances=instances, activation="eager", memory=64)  # fmt: skip
    client = await stock_client(system)
    try:
        call = stock_call(client)
        await offer(call, "fn.bench-idle", calls=instances, concurrency=instances, payload=b"0.5")
    finally:
        await client.close()
    rows = [row for row in await asyncio.to_thread(system.instances) if row["function"] == "bench-idle"]
    weights = [proportional_mb(row["pid"]) for row in rows]
    return {"instances": len(rows), "pss_mb_each": median(weights), "services_rss_mb": system.resident_mb()}
