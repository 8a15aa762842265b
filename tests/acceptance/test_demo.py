"""`make demo` shows the life of a function and goes on running."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.acceptance import outside

ROOT = Path(__file__).parents[2]


def test_demo_shows_cold_warm_and_reclaimed_and_stops_on_ctrl_c(tmp_path: Path) -> None:
    """Cold by NATS, warm by curl, run by an event, gone after its keep-alive, cold again; Ctrl-C ends it all."""
    environ = os.environ | {"PORT": "0", "NATS_PORT": "0", "XDG_CONFIG_HOME": str(tmp_path)}
    command = [sys.executable, str(ROOT / "examples/demo.py")]
    demo = subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert demo.stdout is not None
    lines = []
    for line in demo.stdout:
        lines.append(line)
        if "goes on running" in line:
            break
    below = outside.below(demo.pid)
    os.killpg(demo.pid, signal.SIGINT)  # as a terminal does
    lines += list(demo.stdout)
    demo.stdout.close()
    said = "".join(lines)
    assert demo.wait(timeout=30) == 0, said
    starts = [word for line in lines for word in ("cold", "warm") if f"mayfly-start: {word}" in line.lower()]
    assert starts == ["cold", "warm", "cold"], said
    assert "greeting Grace" in said, said
    assert said.count("no instances") == 1, said
    assert len(below) > 5
    assert not [pid for pid in below if outside.alive(pid)]
