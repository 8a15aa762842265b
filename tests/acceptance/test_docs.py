"""Every command in the docs is run, in order, as a reader would, and prints what the docs say it prints.

A ``console`` block holds lines that start with ``$ `` (a command) and what it printed. In the shown output ``...``
stands for anything within a line, and a line of only ``...`` for any lines. `mayfly up`, which goes on running, is
the platform that these tests run on, one for each page: its shown output is compared with what that printed. A command
that only looks is typed again while it does not show yet what it is to show: events take their time.

A block whose first line is a comment that names a file (``# guide/main.py``) is that file; any other ``python`` block
is a whole program, and is run.
"""

import os
import pty
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform, running

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": 30,
    "docs/operations.md": 20,
    "docs/events.md": 20,
    "docs/scaling.md": 15,
}  # so many commands at least
PATIENCE_S = 20

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w./-]+\.\w+)\n")
_LOOKS = re.compile(
    r"mayfly (logs|ls|dlq (ls|show)|instances|nodes|top|scaler log) |nats .*(info|view|get|subjects|report) "
)


@dataclass(frozen=True)
class Block:
    kind: str
    text: str

    @property
    def file(self) -> str | None:
        named = _FILE.match(self.text)
        return named[1] if named else None


@dataclass(frozen=True)
class Command:
    line: str
    shown: str


class Reader:
    """Types what is written, in a folder of his own."""

    def __init__(self, folder: Path, platform: Platform, nats_cli: str) -> None:
        self.folder = folder
        self.platform = platform
        self.environ = platform.environ | {"PATH": f"{Path(nats_cli).parent}:{platform.environ['PATH']}"}

    def read(self, block: Block) -> None:
        if block.file:
            save(self.folder, block)
        elif block.kind == "python":
            subprocess.run([sys.executable, "-c", block.text], env=self.environ, check=True, timeout=60)
        elif block.kind == "console":
            for command in commands(block.text):
                self.type(command)

    def type(self, command: Command) -> None:
        if command.line.startswith(("make ", "git ")):
            return
        deadline = time.monotonic() + PATIENCE_S
        while True:
            output = self._output(command.line)
            if re.search(pattern(command.shown), squeeze(output)):
                return
            again = _LOOKS.match(f"{command.line} ") and time.monotonic() < deadline
            assert again, f"$ {command.line}\n{output}\n-- shown:\n{command.shown}"
            time.sleep(0.2)

    def _output(self, line: str) -> str:
        if line.startswith("mayfly up"):
            return "\n".join(self.platform.banner)
        line = line.replace("localhost:8080", self.platform.http.removeprefix("http://"))
        line = line.replace("localhost:4222", self.platform.nats.removeprefix("nats://"))
        if "stream view" in line:
            return self._on_a_terminal(line)
        ran = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert ran.returncode == 0, f"$ {line}\n{ran.stdout}"
        return ran.stdout

    def _on_a_terminal(self, line: str) -> str:
        """For a command that insists on one."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            ["bash", "-c", line], cwd=self.folder, env=self.environ, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        output = b""
        with suppress(OSError):  # the other end is closed
            while chunk := os.read(ours, 65536):
                output += chunk
        os.close(ours)
        assert process.wait(timeout=60) == 0, f"$ {line}\n{output.decode()}"
        return output.decode()


def save(folder: Path, block: Block) -> None:
    assert block.file
    path = folder / block.file
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text(block.text)


def blocks(page: str) -> list[Block]:
    return [Block(kind, text) for kind, text in _BLOCK.findall((ROOT / page).read_text())]


def commands(text: str) -> Iterator[Command]:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, shown = part.partition("\n")
        while line.endswith("\\"):
            more, _, shown = shown.partition("\n")
            line = line[:-1] + more.strip()
        yield Command(line, shown)


def flags_of_up(found: list[Block]) -> list[str]:
    """Of the first `mayfly up` that a page shows; none where it shows none."""
    lines = [command.line for block in found if block.kind == "console" for command in commands(block.text)]
    return next((line.split()[2:] for line in lines if line.startswith("mayfly up")), [])


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
@pytest.mark.timeout(240)
def test_the_docs_show_what_happens(page: str, tmp_path: Path, nats_cli: str) -> None:
    """A reader who types what is written gets what is written; programs run, handlers do what is said of them."""
    found = blocks(page)
    typed = sum(len(list(commands(block.text))) for block in found if block.kind == "console")
    assert typed >= PAGES[page], "the page shows too few commands"
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / ".mayfly").symlink_to("data")
    for block in found:  # what is there before the platform starts
        if block.file and block.file.startswith(".mayfly/"):
            save(tmp_path, block)
    with running(tmp_path, *flags_of_up(found)) as platform:
        reader = Reader(tmp_path, platform, nats_cli)
        for block in found:
            reader.read(block)
