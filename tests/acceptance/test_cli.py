"""The command as people and scripts use it: what it prints where, and by which code it exits."""

import io
import json
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

from tests.acceptance import outside
from tests.acceptance.conftest import MAYFLY, Platform

EXAMPLES = Path(__file__).parents[2] / "examples"
READING = (["ls"], ["describe", "greet"], ["versions", "greet"], ["instances"], ["nodes"], ["logs", "greet"])

GREET = """
import time

def handler(event, context):
    print("greeting", event)
    if event == "raise":
        raise ValueError("no good")
    if event == "sleep":
        time.sleep(30)
    if event == "teapot":
        return {"statusCode": 418, "body": "short and stout"}
    return {"greeting": event}
"""


@pytest.fixture(scope="module")
def greet(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Platform:
    path = tmp_path_factory.mktemp("greet") / "greet.py"
    path.write_text(GREET)
    platform.cli("deploy", str(path), "--timeout", "5", "--env", "A=1", "--env", "B=x=y")
    return platform


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["invoke", "greet", "-d", '"Ada"'], 0),
        (["invoke", "greet@1", "-d", '"Ada"'], 0),
        (["invoke", "greet", "-d", "{", "--content-type", "application/json"], 1),
        (["invoke"], 2),
        (["invoke", "greet", "--timeout", "soon"], 2),
        (["invoke", "greet", "-d", "@/does/not/exist"], 2),
        (["no-such-command"], 2),
        (["deploy"], 2),
        (["deploy", "/does/not/exist"], 2),
        (["config", "greet"], 2),
        (["invoke", "greet", "-d", '"raise"'], 3),
        (["invoke", "greet", "-d", '"teapot"'], 3),
        (["invoke", "nobody"], 4),
        (["invoke", "greet@77"], 4),
        (["describe", "nobody"], 4),
        (["versions", "nobody"], 4),
        (["rm", "nobody"], 4),
        (["rollback", "nobody"], 4),
        (["logs", "nobody"], 4),
        (["config", "nobody", "--memory", "64"], 4),
        (["invoke", "greet", "-d", '"sleep"', "--timeout", "0.3"], 5),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_exit_codes(greet: Platform, arguments: list[str], code: int) -> None:
    """Scripts can tell apart what went wrong; people get one line on stderr that says it."""
    done = greet.cli(*arguments, check=False)
    assert done.returncode == code, done.stderr
    assert (not done.stderr) == (code == 0)
    if code in (1, 3, 4, 5):
        assert done.stderr.splitlines()[-1].startswith("Error: ")


def test_throttled_call_exits_by_6(platform: Platform, tmp_path: Path) -> None:
    """One instance, one place in the queue: the third call at once is turned away."""
    path = tmp_path / "narrow.py"
    path.write_text("import time\n\ndef handler(event, context):\n    time.sleep(1)\n")
    deploy = [str(path), "--max-instances", "1", "--max-queue", "1", "--timeout", "5"]
    platform.cli("deploy", *deploy)
    calls = [
        subprocess.Popen([MAYFLY, "invoke", "narrow"], env=platform.environ, stderr=subprocess.PIPE) for _ in range(5)
    ]
    for process in calls:
        process.communicate()
    codes = [process.returncode for process in calls]
    assert 0 in codes
    assert 6 in codes
    assert set(codes) == {0, 6}


def test_traceback_of_the_function_is_shown(greet: Platform) -> None:
    """Whoever calls by hand sees where it failed, on stderr; stdout stays clean for results."""
    done = greet.cli("invoke", "greet", "-d", '"raise"', check=False)
    assert 'raise ValueError("no good")' in done.stderr
    assert done.stdout == ""


def test_event_comes_from_argument_or_file_or_stdin(greet: Platform, tmp_path: Path) -> None:
    """`-d DATA`, `-d @FILE`, `-d -`; nothing but the result is on stdout, headers are on stderr if asked for."""
    (tmp_path / "event.json").write_text('"Grace"')
    assert json.loads(greet.cli("invoke", "greet", "-d", '"Ada"').stdout) == {"greeting": "Ada"}
    assert json.loads(greet.cli("invoke", "greet", "-d", f"@{tmp_path}/event.json").stdout) == {"greeting": "Grace"}
    assert json.loads(greet.cli("invoke", "greet", "-d", "-", input='"Mary"').stdout) == {"greeting": "Mary"}
    done = greet.cli("invoke", "greet", "--include", "-d", '"5"', "--content-type", "text/plain")
    assert json.loads(done.stdout) == {"greeting": '"5"'}
    assert "mayfly-start: " in done.stderr.lower()


@pytest.mark.parametrize("arguments", READING, ids=lambda arguments: arguments[0])
def test_json_is_a_list_of_flat_objects(greet: Platform, arguments: list[str]) -> None:
    """Every reading command can be read by a program without knowing more than column names."""
    greet.cli("invoke", "greet", "-d", '"Ada"')
    rows = json.loads(greet.cli(*arguments, "-o", "json").stdout)
    assert isinstance(rows, list)
    assert not [value for row in rows for value in row.values() if isinstance(value, dict | list)]
    if arguments[0] in ("nodes", "instances"):
        assert all(row["node"] == "n1" for row in rows)


@pytest.mark.parametrize("arguments", READING[:5], ids=lambda arguments: arguments[0])
def test_tables_have_no_colour_when_piped(greet: Platform, arguments: list[str]) -> None:
    """What is not a terminal gets plain text."""
    greet.cli("invoke", "greet", "-d", '"Ada"')
    done = greet.cli(*arguments)
    assert done.stdout.strip()
    assert "\x1b" not in done.stdout


def test_deploy_of_a_project_and_its_zip(platform: Platform, tmp_path: Path) -> None:
    """A folder with a manifest gives each of its functions; unchanged, it makes no new version, also as a ZIP."""
    first = platform.cli("deploy", str(EXAMPLES / "shop")).stdout
    assert "shop.price is at version" in first
    assert "shop.order is at version" in first
    assert json.loads(platform.cli("invoke", "shop.price", "-d", '{"article": "lamp"}').stdout)["price"] == 47.6
    answer = outside.http_call(platform.http, "GET", "/orders/7")
    assert (answer.code, json.loads(answer.body)["order"]) == (200, 7)
    assert platform.cli("deploy", str(EXAMPLES / "shop")).stdout.count("unchanged") == 2

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("main.py", "def handler(event, context):\n    return 'from a zip'\n")
    (tmp_path / "zipped.zip").write_bytes(buffer.getvalue())
    platform.cli("deploy", str(tmp_path / "zipped.zip"), "--handler", "main:handler")
    assert platform.cli("invoke", "zipped").stdout == "from a zip"


def test_examples_work_as_they_say(platform: Platform) -> None:
    """The commands in the examples' own docstrings."""
    platform.cli("deploy", str(EXAMPLES / "hello.py"))
    answer = json.loads(platform.cli("invoke", "hello", "-d", '{"name": "Ada"}').stdout)
    assert answer["greeting"] == "Hello, Ada!"
    platform.cli("deploy", str(EXAMPLES / "gather.py"), "--concurrency", "100")
    answer = json.loads(platform.cli("invoke", "gather", "-d", '{"pauses": [0.1, 0.2, 0.3]}').stdout)
    assert 0.3 <= answer["waited_s"] < 0.6


def test_init_makes_a_project_that_deploys(platform: Platform, tmp_path: Path) -> None:
    """What `init` writes works as it is, and is never written over something else."""
    made = subprocess.run([MAYFLY, "init", "first.steps"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "mayfly deploy" in made.stdout
    platform.cli("deploy", str(tmp_path / "first.steps"))
    assert json.loads(platform.cli("invoke", "first.steps").stdout) == {"greeting": "Hello, world!"}
    again = subprocess.run([MAYFLY, "init", "first.steps"], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 1
    assert "there already" in again.stderr


def test_versions_and_rollback_and_config(greet: Platform, tmp_path: Path) -> None:
    """`config` changes one variable and keeps the others; `rollback` goes back to what was."""
    greet.cli("config", "greet", "--env", "B=2", "--memory", "64")
    (described,) = json.loads(greet.cli("describe", "greet", "-o", "json").stdout)
    assert (described["env.A"], described["env.B"], described["memory"]) == ("1", "2", 64)
    greet.cli("rollback", "greet", "1")
    rows = json.loads(greet.cli("versions", "greet", "-o", "json").stdout)
    assert [row["version"] for row in rows if row["current"]] == [1]
    assert greet.cli("describe", "greet", "--code").stdout.strip() == GREET.strip()


def test_logs_follow(greet: Platform) -> None:
    """`logs -f` shows a line that is printed after it was started, and `--tail` the last ones only."""
    follow = [MAYFLY, "logs", "greet", "-f", "--tail", "0"]
    with subprocess.Popen(follow, env=greet.environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            deadline = time.monotonic() + 20
            line = ""
            caller = subprocess.Popen(
                ["sh", "-c", f"for n in 1 2 3 4 5; do {MAYFLY} invoke greet -d '\"later\"'; sleep 0.5; done"],
                env=greet.environ,
                stdout=subprocess.DEVNULL,
            )
            while "greeting later" not in line and time.monotonic() < deadline:
                line = process.stdout.readline()
            assert "greeting later" in line
        finally:
            process.terminate()
            caller.wait()
    rows = json.loads(greet.cli("logs", "greet", "--tail", "1", "-o", "json").stdout)
    assert len(rows) == 1


def test_platform_is_found_by_address(greet: Platform) -> None:
    """MAYFLY_URL and MAYFLY_TOKEN instead of a data directory, from any machine; a wrong token is refused."""
    environ = {name: value for name, value in greet.environ.items() if name != "MAYFLY_DATA"}
    for token, code in ((greet.token, 0), ("wrong", 1)):
        found = {**environ, "MAYFLY_URL": greet.http, "MAYFLY_TOKEN": token}
        assert subprocess.run([MAYFLY, "ls"], env=found, capture_output=True).returncode == code


def test_without_a_platform_it_says_how_to_start_one(tmp_path: Path) -> None:
    """The first mistake of a newcomer: no platform here, or one that does not run."""
    done = subprocess.run([MAYFLY, "ls"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "mayfly up" in done.stderr
    done = subprocess.run(
        [MAYFLY, "ls"], capture_output=True, text=True, env={"MAYFLY_URL": "http://127.0.0.1:9", "PATH": "/bin"}
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "cannot reach the platform" in done.stderr


def test_commands_start_quickly() -> None:
    """Neither rich nor nats nor pydantic is imported to print a list."""
    script = (
        "import sys\nfrom mayfly.cli import main\n"
        "try: main(['ls', '--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'rich', 'nats', 'pydantic', 'asyncio', 'http.client'} & set(sys.modules)))"
    )
    python = MAYFLY.with_name("python")
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    done = subprocess.run(
        [python, "-c", "import sys, mayfly; print(len([m for m in sys.modules if m.startswith('mayfly')]))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed(shell: str) -> None:
    """Printed, never installed into somebody's shell."""
    done = subprocess.run([MAYFLY, "completion", shell], capture_output=True, text=True, check=True)
    assert "_MAYFLY_COMPLETE" in done.stdout
