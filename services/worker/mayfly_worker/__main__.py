"""``python -m mayfly_worker``."""

import ctypes

from mayfly_chassis.service import main
from mayfly_worker.app import worker
from mayfly_worker.config import WorkerConfig

PR_SET_DUMPABLE = 4


def forbid_inspection() -> None:
    """No process of the same user may read this one's memory, in which the NATS password was."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")


if __name__ == "__main__":
    forbid_inspection()
    main("worker", worker, WorkerConfig)
