"""What a process has used of the processors."""

from pathlib import Path


def used_s(pid: int) -> float:
    """Of all its threads that live, as the scheduler counts it, in nanoseconds; the usual count is in hundredths of a
    second, and leaves out most of a start. Raises ``OSError`` when one ends meanwhile."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9
