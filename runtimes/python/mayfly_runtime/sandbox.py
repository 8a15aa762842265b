"""What a process gives up between the fork and user code, and in which order.

The order is forced: groups and mounts need root; rules about files are made while their paths can still be read; the uid goes
before the capabilities; a change of uid clears the parent-death signal and the dumpable flag, so both come after it;
no_new_privs must be on before Landlock and seccomp; seccomp is last, as it forbids much of the above. A step that fails
raises, and the start fails with the step's name and errno: a sandbox is whole or there is no instance.
"""

import os
import resource
import signal
from dataclasses import dataclass

from mayfly_runtime import landlock, linux, root, seccomp

_OPEN_FILES = 1024
_PROCESSES = 4096  # all of one function on a node: threads count, and its instances share a uid
_FILE_BYTES = 1 << 30

_READABLE = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/proc", "/dev/random", "/dev/urandom", "/dev/zero", "/etc/alternatives",
    "/etc/ca-certificates", "/etc/gai.conf", "/etc/group", "/etc/host.conf", "/etc/hosts", "/etc/ld.so.cache", "/etc/localtime",
    "/etc/nsswitch.conf", "/etc/passwd", "/etc/pki", "/etc/resolv.conf", "/etc/services", "/etc/ssl", "/run/systemd/resolve",
)  # fmt: skip
_WRITABLE = ("/dev/null", "/dev/full")


@dataclass(frozen=True, slots=True)
class Confinement:
    """What the worker wants of one process."""

    uid: int  # 0: keep the present one
    memory_mb: int
    limit_data: bool  # no control group: the limit is one of this process alone
    private_root: bool
    code: str
    tmp: str
    ports: list[int]  # TCP ports it may connect to


class Kernel:
    """What was looked up once, in the zygote, and holds for every process forked from it."""

    def __init__(self, runtime_paths: tuple[str, ...]) -> None:
        self.landlock = landlock.abi()
        self.filter = seccomp.program()
        self.data_bytes = _data_bytes()
        self.runtime_paths = runtime_paths


def _data_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[5]) * resource.getpagesize()


def confine(kernel: Kernel, want: Confinement, groups: list[int], code_mount: int | None) -> None:
    """``groups`` are open ``cgroup.procs`` files. Raises ``OSError``."""
    for group in groups:
        os.write(group, b"0")
    if code_mount is not None:
        root.enter(code_mount, want.memory_mb)
    _limit(kernel, want)
    rules = _rules(kernel, want)
    if want.uid:
        _become(want.uid)
    linux.drop_capabilities()
    linux.prctl("parent death signal", linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    linux.prctl("not dumpable", linux.PR_SET_DUMPABLE, 0)
    linux.prctl("subreaper", linux.PR_SET_CHILD_SUBREAPER, 1)
    linux.prctl("no_new_privs", linux.PR_SET_NO_NEW_PRIVS, 1)
    if rules is not None:
        rules.enforce()
    linux.load_seccomp(kernel.filter)


def _limit(kernel: Kernel, want: Confinement) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
    if want.uid:
        resource.setrlimit(resource.RLIMIT_NPROC, (_PROCESSES, _PROCESSES))
    if want.limit_data:
        data = kernel.data_bytes + want.memory_mb * 2**20
        resource.setrlimit(resource.RLIMIT_DATA, (data, data))


def _rules(kernel: Kernel, want: Confinement) -> landlock.Rules | None:
    """In a private root the mounts say what can be seen and written; elsewhere Landlock does."""
    files = not want.private_root
    if not kernel.landlock or (kernel.landlock < 4 and not files):
        return None
    rules = landlock.Rules(kernel.landlock, files=files)
    if files:
        rules.allow_reading((*_READABLE, *kernel.runtime_paths, want.code))
        rules.allow_writing((*_WRITABLE, want.tmp))
    rules.allow_ports(want.ports)
    return rules


def _become(uid: int) -> None:
    for stream in (1, 2):
        os.fchown(stream, uid, uid)  # so that it may open /dev/stdout
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
