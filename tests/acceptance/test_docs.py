"""Every command in the docs is run, in order, as a reader would, and prints what the docs say it prints.

A ``console`` block holds lines that start with ``$ `` (a command) and what it printed. In the shown output ``...``
stands for anything within a line, and a line of only ``...`` for any lines. `mayfly up`, which goes on running, is
the platform that these tests run on: its shown output is compared with what that printed.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform, running

ROOT = Path(__file__).parents[2]
PAGES = ["README.md"]


@dataclass(frozen=True)
class Command:
    line: str
    shown: str


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform of its own, whose folder the reader's commands are typed in."""
    with running(tmp_path_factory.mktemp("tour")) as platform:
        yield platform


def commands(page: Path) -> Iterator[Command]:
    for block in re.findall(r"^```console\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, shown = part.partition("\n")
            while line.endswith("\\"):
                more, _, shown = shown.partition("\n")
                line = line[:-1] + more.strip()
            yield Command(line, shown)


def pattern(shown: str) -> str:
    lines = [
        r"(?:.*\n)*?" if line == "..." else ".*?".join(map(re.escape, line.split("..."))) + r"\n"
        for line in squeeze(shown).splitlines()
    ]
    return "".join(lines)


def squeeze(text: str) -> str:
    """Lines without indentation and with single spaces, none of them empty."""
    lines = (re.sub(r"\s+", " ", line).strip() for line in text.splitlines())
    return "".join(f"{line}\n" for line in lines if line)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.timeout(180)
def test_commands_of_the_docs_print_what_the_docs_show(page: str, tour: Platform, nats_cli: str) -> None:
    """A reader who types what is written gets what is written."""
    folder = tour.data.parent
    shutil.copytree(ROOT / "examples", folder / "examples", dirs_exist_ok=True)
    environ = tour.environ | {"PATH": f"{Path(nats_cli).parent}:{tour.environ['PATH']}"}
    found = list(commands(ROOT / page))
    assert len(found) > 10, "the page shows too few commands to be a tour"
    for command in found:
        if command.line.startswith(("make ", "git ")):
            continue
        if command.line.startswith("mayfly up"):
            output = "\n".join(tour.banner)
        else:
            line = command.line.replace("localhost:8080", tour.http.removeprefix("http://"))
            ran = subprocess.run(
                ["bash", "-c", line], cwd=folder, env=environ, capture_output=True, text=True, timeout=60
            )
            output = ran.stdout + ran.stderr
            assert ran.returncode == 0 or command.line.startswith("! "), f"$ {command.line}\n{output}"
        assert re.search(pattern(command.shown), squeeze(output)), (
            f"$ {command.line}\n{output}\n-- shown:\n{command.shown}"
        )


@pytest.mark.parametrize("page", PAGES)
def test_python_of_the_docs_runs(page: str, tour: Platform) -> None:
    """The snippets are whole programs that work on the platform of the tour."""
    tour.cli("deploy", str(ROOT / "examples/hello.py"))
    snippets = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    assert snippets
    for snippet in snippets:
        subprocess.run([sys.executable, "-c", snippet], env=tour.environ, check=True, timeout=60)
