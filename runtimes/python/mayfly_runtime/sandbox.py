"""What a process gives up between the fork and user code, and in which order.

The order is forced: groups and mounts need root; rules about files are made while their paths can still be read; the
uid goes before the capabilities; a change of uid clears the parent-death signal and the dumpable flag, so both come
after it; no_new_privs is on before Landlock and seccomp; seccomp is last, as it forbids much of the above. A step
that fails raises, and the start fails with the step's name and errno: a sandbox is whole or there is no instance.
"""

import os
import resource
import signal
import sys
from dataclasses import dataclass

from mayfly_runtime import landlock, linux, root, seccomp

_OPEN_FILES = 1024
_PROCESSES = 4096  # all of one function on a node: threads count, and its instances share a uid
_FILE_BYTES = 1 << 30

_READABLE = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/proc", "/dev/random", "/dev/urandom", "/dev/zero",
    "/etc/alternatives", "/etc/ca-certificates", "/etc/gai.conf", "/etc/group", "/etc/host.conf", "/etc/hosts",
    "/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf", "/etc/passwd", "/etc/pki", "/etc/resolv.conf",
    "/etc/services", "/etc/ssl", "/run/systemd/resolve",
)  # fmt: skip
_WRITABLE = ("/dev/null", "/dev/full")


@dataclass(frozen=True, slots=True)
class Confinement:
    """What the worker wants of one process."""

    uid: int  # 0: keep the present one
    memory_mb: int
    limit_data: bool  # no control group: the limit is one of this process alone
    code: str
    tmp: str
    connect: list[int]  # TCP ports it may connect to, beside the usual ones


class Kernel:
    """What was looked up once, in the zygote, and holds for every process forked from it."""

    def __init__(self, *, private_root: bool, ports: list[int]) -> None:
        self.private_root = private_root
        self.ports = ports  # TCP ports that every function may connect to
        self.landlock = landlock.abi()
        self.filter = seccomp.program()
        self.template_filter = seccomp.program(template=True)
        self.interpreter = (sys.base_prefix, sys.base_exec_prefix)
        with open("/proc/self/statm") as statm:
            self.data_bytes = int(statm.read().split()[5]) * resource.getpagesize()
        self.rules: landlock.Rules | None = None  # of most functions, in a private root
        if private_root and self.landlock >= 4:
            self.rules = landlock.Rules(self.landlock, files=False)
            self.rules.allow_ports(ports)


def prepare(kernel: Kernel, groups: list[int]) -> None:
    """What is the same for every function. ``groups`` are open files of control groups to join. Raises ``OSError``."""
    for group in groups:
        with linux.step("join control group"):
            os.write(group, b"0")
    if kernel.private_root:
        root.enter()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
    linux.prctl("subreaper", linux.PR_SET_CHILD_SUBREAPER, 1)
    linux.prctl("no_new_privs", linux.PR_SET_NO_NEW_PRIVS, 1)


def confine(kernel: Kernel, want: Confinement, mounts: list[int], *, template: bool) -> None:
    """The rest. ``mounts`` is the code's mount in a private root, and nothing elsewhere. Raises ``OSError``."""
    for mount in mounts:
        root.furnish(mount, want.memory_mb)
    if want.limit_data:
        data = kernel.data_bytes + want.memory_mb * 2**20
        resource.setrlimit(resource.RLIMIT_DATA, (data, data))
    rules = _rules(kernel, want)
    if want.uid:
        _become(want.uid)
    if template:
        _keep_mounting()
    else:
        linux.keep_capabilities()
    linux.prctl("parent death signal", linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    linux.prctl("not dumpable", linux.PR_SET_DUMPABLE, 0)
    if rules is not None:
        rules.enforce()
    linux.load_seccomp(kernel.template_filter if template else kernel.filter)


def confine_fork(kernel: Kernel, tmp: int, groups: list[int]) -> None:
    """What is left to give up for an instance that a template forked. Raises ``OSError``."""
    for group in groups:
        with linux.step("join control group"):
            os.write(group, b"0")
    root.replace_tmp(tmp)
    linux.keep_capabilities()
    linux.prctl("parent death signal", linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    linux.prctl("subreaper", linux.PR_SET_CHILD_SUBREAPER, 1)
    linux.load_seccomp(kernel.filter)


def _keep_mounting() -> None:
    linux.prctl("dumpable", linux.PR_SET_DUMPABLE, 1)  # else /proc/self/uid_map is root's
    linux.unshare_user(linux.NEWNS)
    linux.keep_capabilities(linux.CAP_SYS_ADMIN)
    linux.prctl("no subreaper", linux.PR_SET_CHILD_SUBREAPER, 0)  # what its instances leave goes to the zygote


def _rules(kernel: Kernel, want: Confinement) -> landlock.Rules | None:
    """In a private root the mounts say what can be seen and written; elsewhere Landlock does."""
    if kernel.private_root and not want.connect:
        return kernel.rules
    if not kernel.landlock or (kernel.private_root and kernel.landlock < 4):
        return None
    rules = landlock.Rules(kernel.landlock, files=not kernel.private_root)
    if not kernel.private_root:
        rules.allow_reading((*_READABLE, *kernel.interpreter, want.code))
        rules.allow_writing((*_WRITABLE, want.tmp))
    rules.allow_ports([*kernel.ports, *want.connect])
    return rules


def _become(uid: int) -> None:
    resource.setrlimit(resource.RLIMIT_NPROC, (_PROCESSES, _PROCESSES))
    with linux.step(f"uid {uid}"):
        for stream in (1, 2):
            os.fchown(stream, uid, uid)  # so that it may open /dev/stdout
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
