"""`python -m mayfly_worker`, as it runs in production."""

import asyncio
import os
import sys
from pathlib import Path

from mayfly_broker.server import EmbeddedServer
from tests.integration.processes import end
from tests.integration.worker_driver import config_of


class WorkerProcess:
    def __init__(self, server: EmbeddedServer, directory: Path, **variables: str) -> None:
        config = config_of(server, directory)
        self.environment = os.environ | {
            "MAYFLY_NATS_URL": config.nats_url,
            "MAYFLY_NATS_PASSWORD_FILE": str(config.nats_password_file),
            "MAYFLY_WORKER_DIRECTORY": str(config.directory),
            "MAYFLY_WORKER_MEMORY_MB": "1024",
            **variables,
        }

    async def start(self) -> asyncio.subprocess.Process:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mayfly_worker", env=self.environment, stderr=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        return self.process

    async def end(self) -> None:
        await end(self.process)
