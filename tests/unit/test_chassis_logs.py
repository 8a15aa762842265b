"""What a service writes to stderr."""

import json
import os
import pty
import subprocess
import sys

CODE = """
import structlog
from mayfly_chassis import logs

logs.configure("router", "info")
log = structlog.get_logger()
log.debug("not.shown")
log.info("call.done", function="hello")

def connect(password):
    raise RuntimeError("no")

try:
    connect("pass" + "word-of-the-operator")
except RuntimeError:
    log.exception("call.failed")
"""
SECRET = "password-of-the-operator"


def test_logs_are_json_with_tracebacks_but_without_what_variables_held() -> None:
    """One object a line, with event, level, time and service; a password in a variable stays out of it."""
    finished = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=30)
    assert finished.stdout == ""
    done, failed = [json.loads(line) for line in finished.stderr.splitlines()]
    assert done.pop("timestamp").endswith("Z")
    assert done == {"event": "call.done", "function": "hello", "level": "info", "service": "router"}
    assert failed["exception"][0]["exc_type"] == "RuntimeError"
    assert SECRET not in finished.stderr


def test_logs_on_a_terminal_are_for_people_and_hold_no_secrets_either() -> None:
    """Coloured lines and a plain traceback."""
    leader, follower = pty.openpty()
    subprocess.run([sys.executable, "-c", CODE], stderr=follower, check=True, timeout=30)
    os.close(follower)
    written = os.read(leader, 100_000).decode()
    os.close(leader)
    assert "call.done" in written
    assert "RuntimeError: no" in written
    assert SECRET not in written
