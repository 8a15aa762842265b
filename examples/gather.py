"""An async handler: one instance serves many calls at once.

mayfly deploy examples/gather.py --concurrency 100 && mayfly invoke gather -d '{"pauses": [0.1, 0.2, 0.3]}'
"""

import asyncio
import time


async def handler(event, context):
    """Waits for all of ``pauses`` (seconds) at the same time, as one would for several web services."""
    started = time.perf_counter()
    await asyncio.gather(*(asyncio.sleep(pause) for pause in event["pauses"]))
    return {"waited_s": round(time.perf_counter() - started, 3), "left_ms": context.get_remaining_time_in_millis()}
