"""A platform as a user gets it: the installed command, on free ports, in a directory of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.acceptance import outside
from tests.acceptance.docker_engine import Engine, NoEngine

MAYFLY = Path(sys.executable).with_name("mayfly")
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60
NO_SETTINGS: Mapping[str, str] = MappingProxyType({})
GROUPS = {"mortal": "mortal", "granting": "granting", "engine": "chaos"}  # tests by fixture
ACCESS = """
trigger_subjects = ["orders.>", "parcels.>", "sensors.>"]
publish_subjects = ["alerts.>"]
object_buckets = ["uploads"]
"""


@dataclass
class Platform:
    """What `mayfly up` printed and wrote, and the command bound to it."""

    process: subprocess.Popen[str]
    data: Path
    config_home: Path
    banner: list[str] = field(default_factory=list)

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "XDG_CONFIG_HOME": str(self.config_home), "MAYFLY_DATA": str(self.data)}

    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.data / "platform.json").read_text())
        return found

    def services(self) -> list[dict[str, Any]]:
        """``{"name", "pid"}`` of every process, as of now."""
        found: list[dict[str, Any]] = self.facts()["services"]
        return found

    @property
    def nats(self) -> str:
        return str(self.facts()["nats"])

    @property
    def http(self) -> str:
        return str(self.facts()["http"])

    @property
    def token(self) -> str:
        return str(self.facts()["token"])

    @property
    def user(self) -> str:
        return str(self.facts()["user"])

    @property
    def password(self) -> str:
        return str(self.facts()["password"])

    def cli(self, *args: str, input: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `mayfly ...` on this platform; with ``check``, it must succeed."""
        done = subprocess.run(
            [MAYFLY, *args], env=self.environ, input=input, capture_output=True, text=True, timeout=60
        )
        assert not check or done.returncode == 0, f"mayfly {' '.join(args)}: {done.returncode}: {done.stderr}"
        return done


def start(data: Path, config_home: Path, *flags: str, environ: Mapping[str, str] = NO_SETTINGS) -> Platform:
    """Returns when it is ready; the logs are in the assertion if it is not."""
    command = [str(MAYFLY), "up", "--data", str(data), "--port", "0", "--nats-port", "0", *flags]
    return started(command, data, config_home, environ=environ)


def started(
    command: Sequence[str], data: Path, config_home: Path, *, environ: Mapping[str, str] = NO_SETTINGS
) -> Platform:
    """A platform that this command runs until SIGTERM, and of which it says ``ready``."""
    inherited = {**os.environ, "XDG_CONFIG_HOME": str(config_home), **environ}
    process = subprocess.Popen(command, env=inherited, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    platform = Platform(process, data, config_home)
    assert process.stdout is not None
    for line in process.stdout:
        platform.banner.append(line.rstrip("\n"))
        if line.startswith("ready"):
            return platform
    raise AssertionError(f"{command} ended with {process.wait()}:\n" + "\n".join(platform.banner))


def stop(platform: Platform, timeout_s: float = STOP_TIMEOUT_S) -> int:
    platform.process.terminate()
    assert platform.process.stdout is not None
    try:
        return platform.process.wait(timeout=timeout_s)
    finally:
        platform.process.kill()
        platform.process.wait()
        platform.process.stdout.close()


@contextmanager
def running(folder: Path, *flags: str, environ: Mapping[str, str] = NO_SETTINGS) -> Iterator[Platform]:
    platform = start(folder / "data", folder / "config", *flags, environ=environ)
    try:
        yield platform
    finally:
        stop(platform)


@pytest.fixture(scope="package")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """One for all tests (of a test process) that break nothing."""
    with running(tmp_path_factory.mktemp("platform"), "--node-memory", "16384") as platform:
        yield platform


@pytest.fixture(scope="package")
def wounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with running(tmp_path_factory.mktemp("mortal"), "--node-memory", "4096") as platform:
        yield platform


@pytest.fixture
async def mortal(wounded: Platform) -> Platform:
    """One for all tests that kill services; each of them finds it whole."""
    await outside.until(lambda: outside.whole(wounded), timeout=START_TIMEOUT_S)
    return wounded


@pytest.fixture(scope="package")
def granting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """One whose functions may touch some of the user's own subjects and buckets."""
    folder = tmp_path_factory.mktemp("granting")
    (folder / "data").mkdir(mode=0o700)
    (folder / "data" / "access.toml").write_text(ACCESS)
    with running(folder, "--node-memory", "4096") as platform:
        yield platform


@pytest.fixture(scope="package")
def engine() -> Iterator[Engine]:
    """A Docker engine for all tests that start containers."""
    with ExitStack() as stack:
        try:
            engine = stack.enter_context(Engine())
        except NoEngine as error:
            pytest.skip(f"no Docker engine can be had here: {error}")
        yield engine


@pytest.hookimpl(tryfirst=True)  # xdist looks at marks in this hook too
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes seconds to start is started by one test process only; a cluster of containers takes its turn with the
    storms, each of which wants the machine for itself."""
    for item in items:
        if isinstance(item, pytest.Function) and item.path.is_relative_to(Path(__file__).parent):
            for fixture in GROUPS.keys() & set(item.fixturenames):
                item.add_marker(pytest.mark.xdist_group(GROUPS[fixture]))
