"""The system call filter, run on a small interpreter of the kernel's filter language: for both machines, on either."""

import struct

import pytest

from mayfly_runtime import seccomp

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# name: (x86_64, aarch64)
NUMBERS = {
    "read": (0, 63), "openat": (257, 56), "connect": (42, 203), "futex": (202, 98), "execve": (59, 221),
    "clone": (56, 220), "clone3": (435, 435), "socket": (41, 198), "ioctl": (16, 29), "sendto": (44, 206),
    "sendmsg": (46, 211), "unshare": (272, 97), "move_mount": (429, 429), "mount": (165, 40), "ptrace": (101, 117),
    "bpf": (321, 280), "io_uring_setup": (425, 425), "keyctl": (250, 219), "setns": (308, 268),
}  # fmt: skip

CALLS = [
    ("read", (), ALLOW),
    ("openat", (), ALLOW),
    ("connect", (), ALLOW),
    ("futex", (), ALLOW),
    ("execve", (), ALLOW),
    ("clone", (0x003D0F00,), ALLOW),  # what a thread is made with
    ("clone", (0x10000000,), EPERM),
    ("clone3", (), ENOSYS),
    ("socket", (2, 1, 6), ALLOW),
    ("socket", (1, 1, 0), ALLOW),
    ("socket", (2, 1, 262), EPERM),
    ("socket", (38, 5, 0), EPERM),
    ("ioctl", (0, 0x5401), ALLOW),
    ("ioctl", (0, 0x5412), EPERM),
    ("sendto", (3, 0, 0, 0x4000), ALLOW),
    ("sendto", (3, 0, 0, 0x20004000), EPERM),
    ("sendmsg", (3, 0, 0x20000000), EPERM),
    ("unshare", (0x00020000,), EPERM),
    ("move_mount", (), EPERM),
    ("mount", (), EPERM),
    ("ptrace", (), EPERM),
    ("bpf", (), EPERM),
    ("io_uring_setup", (), EPERM),
    ("keyctl", (), EPERM),
    ("setns", (), EPERM),
]


def run(program: bytes, arch: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """What the kernel does of such a program: loads, jumps and a return."""
    padded = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("<IIQ6Q", number, arch, 0, *padded)
    code = list(struct.iter_unpack("HBBI", program))
    at, accumulator = 0, 0
    while True:
        opcode, if_true, if_false, operand = code[at]
        at += 1
        if opcode == 0x20:
            accumulator = struct.unpack_from("<I", data, operand)[0]
        elif opcode == 0x06:
            return int(operand)
        else:
            holds = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: bool(accumulator & operand)}
            at += if_true if holds[opcode] else if_false


@pytest.mark.parametrize("machine", ARCH)
@pytest.mark.parametrize(("name", "arguments", "verdict"), CALLS)
def test_call_gets_wrong_verdict(machine: str, name: str, arguments: tuple[int, ...], verdict: int) -> None:
    """What functions need is allowed; what reaches beyond them is not."""
    number = NUMBERS[name][machine != "x86_64"]
    assert run(seccomp.program(machine), ARCH[machine], number, arguments) == verdict


@pytest.mark.parametrize("machine", ARCH)
@pytest.mark.parametrize(
    ("name", "arguments", "verdict"),
    [
        ("unshare", (0x00020000,), ALLOW),
        ("unshare", (0x10020000,), EPERM),
        ("unshare", (0x20000000,), EPERM),
        ("move_mount", (), ALLOW),
        ("mount", (), EPERM),
        ("setns", (), EPERM),
    ],
)
def test_template_may_do_more_than_needed(machine: str, name: str, arguments: tuple[int, ...], verdict: int) -> None:
    """A template may unshare its mounts, nothing else, and move one."""
    number = NUMBERS[name][machine != "x86_64"]
    assert run(seccomp.program(machine, template=True), ARCH[machine], number, arguments) == verdict


def test_foreign_abi_passes() -> None:
    """Calls by another ABI have other numbers: 32-bit ones kill, x32 ones are denied."""
    program = seccomp.program("x86_64")
    assert run(program, 0x40000003, 11) == KILL
    assert run(program, ARCH["x86_64"], 0x40000000 | 0) == EPERM
