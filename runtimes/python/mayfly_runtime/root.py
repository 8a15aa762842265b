"""The private root: all that instances see of the machine's files.

Made once, by the zygote, as a small read-only tmpfs with the system's programs and libraries, the interpreter, a few
files of /etc and five devices in it. Everything keeps its own path, but folders on the way are new and open to all:
an interpreter below somebody's closed home works for an unprivileged uid. Nothing else of the machine is there, so no
rule has to keep it away. An instance adds its code and a /tmp of its own in a mount namespace of its own.
"""

import os
import shutil
import stat
import sys

from mayfly_runtime import linux

CODE = "/code"
TMP = "/tmp"  # noqa: S108  a mount of the instance's own

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
_ETC_FOLDERS = ("/etc/alternatives", "/etc/ca-certificates", "/etc/ld.so.conf.d", "/etc/pki", "/etc/ssl")
_ETC_FILES = (
    "gai.conf", "group", "host.conf", "hostname", "hosts", "ld.so.cache", "ld.so.conf", "localtime", "mime.types",
    "nsswitch.conf", "os-release", "protocols", "resolv.conf", "services", "timezone",
)  # fmt: skip
_DEVICES = ("null", "zero", "full", "random", "urandom")
_LINKS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/shm": TMP,  # noqa: S108
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
    "/var/tmp": TMP,  # noqa: S108
}
_TMP_FLAGS = linux.MS_NOSUID | linux.MS_NODEV
_USERS = "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"


def build(place: str) -> None:
    """Makes the root at the folder ``place`` and moves this process, alone in its mount namespace, into it."""
    linux.mount("tmpfs", place, "tmpfs", linux.MS_NOSUID, "size=16m,mode=755")
    for path in (*_SYSTEM, sys.base_prefix, sys.base_exec_prefix, *_ETC_FOLDERS):
        _bring(place, path)
    for name in _ETC_FILES:
        if os.path.exists(f"/etc/{name}"):
            shutil.copyfile(f"/etc/{name}", f"{place}/etc/{name}")
    with open(f"{place}/etc/passwd", "w") as passwd:
        passwd.write(_USERS)
    for folder in ("/dev", "/proc", "/var", CODE, TMP):
        os.makedirs(place + folder, exist_ok=True)
    for device in _DEVICES:
        _make_device(f"{place}/dev/{device}", os.stat(f"/dev/{device}").st_rdev)
    for link, target in _LINKS.items():
        os.symlink(target, place + link)
    linux.make_read_only(place)
    linux.mount("proc", f"{place}/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC, "hidepid=2")
    linux.pivot_root(place)


def _bring(place: str, path: str) -> None:
    """A link is copied, a folder is bound; what lies in a folder that is there already needs neither."""
    if os.path.islink(path):
        os.symlink(os.readlink(path), place + path)
    elif os.path.isdir(path) and not os.path.exists(place + path):
        os.makedirs(place + path)
        linux.mount(path, place + path, None, linux.MS_BIND | linux.MS_REC)


def _make_device(path: str, number: int) -> None:
    os.mknod(path, stat.S_IFCHR | 0o666, number)
    os.chmod(path, 0o666)  # noqa: S103  what every process may use


def enter() -> None:
    """Gives this process a view of its own, with an empty /tmp."""
    linux.unshare(linux.NEWNS)
    linux.mount("tmpfs", TMP, "tmpfs", _TMP_FLAGS, "mode=1777")


def replace_tmp(tmp: int) -> None:
    """A view of its own once more, with ``tmp``, a detached mount, over the template's /tmp."""
    linux.unshare(linux.NEWNS)
    linux.move_mount(tmp, TMP)


def furnish(code: int, tmp_mb: int) -> None:
    """``code``, a detached mount, at /code; and the bound of /tmp."""
    linux.move_mount(code, CODE)
    linux.mount("tmpfs", TMP, "tmpfs", linux.MS_REMOUNT | _TMP_FLAGS, f"size={tmp_mb}m,mode=1777")
