"""What the tests rely on of the tools that run them."""

import os
from pathlib import Path

import pytest


@pytest.mark.xdist_group("together")
@pytest.mark.parametrize("number", range(4))
def test_tests_of_a_group_run_in_one_process(number: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Else every platform that they share is started by each test process, and storms disturb each other."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    processes = Path(tmp_path_factory.getbasetemp().parent, f"group-of-{run}")
    processes.mkdir(exist_ok=True)
    (processes / str(os.getpid())).touch()
    assert [process.name for process in processes.iterdir()] == [str(os.getpid())]
