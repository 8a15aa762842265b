"""Processes that tests start, and end whatever happened."""

import asyncio


async def end(process: asyncio.subprocess.Process) -> None:
    """By force, if it lives."""
    if process.returncode is None:
        process.kill()
    await process.wait()
