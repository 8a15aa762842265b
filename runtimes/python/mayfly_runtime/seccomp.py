"""The system calls that user code may not make, as a BPF program.

A deny list: what changes the kernel, the clock, mounts, namespaces or other processes, what has a history of holes
and no use in a function (bpf, io_uring, userfaultfd, keyrings), and the ways around Landlock's rule for TCP ports:

* MPTCP sockets, which that rule does not see and which fall back to plain TCP;
* TCP Fast Open, which connects in ``sendto`` without being asked;
* socket families other than Unix, IPv4, IPv6 and netlink.

``clone3`` answers ENOSYS: its flags lie in memory, where a filter cannot look, and libc then uses ``clone``.
The numbers are those of the kernel's unistd_64.h and asm-generic/unistd.h.
"""

import platform
import struct

_NUMBERS: dict[str, tuple[int, int | None]] = {  # name: (x86_64, aarch64)
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "mbind": (237, 235),
    "migrate_pages": (256, 238),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "set_mempolicy": (238, 237),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
_CLONE = (56, 220)
_CLONE3 = (435, 435)
_IOCTL = (16, 29)
_SENDMMSG = (307, 269)
_SENDMSG = (46, 211)
_SENDTO = (44, 206)
_SOCKET = (41, 198)

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _EPERM, _ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026

_NEWNS = 0x00020000
_NAMESPACES = 0x7E020000  # CLONE_NEW* of mount, cgroup, uts, ipc, user, pid, net
_FASTOPEN = 0x20000000  # MSG_FASTOPEN
_FAMILIES = (1, 2, 10, 16)  # unix, inet, inet6, netlink
_MPTCP = 262
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C

_Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


def _argument(index: int) -> _Instruction:
    return (_LOAD, 0, 0, 16 + 8 * index)


def _unless(code: int, operand: int, body: list[_Instruction]) -> list[_Instruction]:
    return [(code, len(body), 0, operand), *body]


def _when(code: int, operand: int, body: list[_Instruction]) -> list[_Instruction]:
    return [(code, 0, len(body), operand), *body]


def program(machine: str = platform.machine(), *, template: bool = False) -> bytes:
    """A template may unshare its mounts and move one. Raises ``KeyError`` on a machine whose numbers are not known."""
    column = 0 if machine == "x86_64" else 1
    deny: list[_Instruction] = [(_RETURN, 0, 0, _EPERM)]
    allow: list[_Instruction] = [(_RETURN, 0, 0, _ALLOW)]

    def call(number: tuple[int, int | None], body: list[_Instruction]) -> list[_Instruction]:
        return _when(_EQUAL, number[column] or 0, body)

    def deny_bits(index: int, bits: int) -> list[_Instruction]:
        return [_argument(index), *_when(_ANY_BIT, bits, deny), *allow]

    other_family = list(deny)
    for family in _FAMILIES:
        other_family = _unless(_EQUAL, family, other_family)

    code = [(_LOAD, 0, 0, 4), *_unless(_EQUAL, _AUDIT_ARCH[machine], [(_RETURN, 0, 0, _KILL)]), (_LOAD, 0, 0, 0)]
    if machine == "x86_64":
        code += _when(_AT_LEAST, _X32, deny)
    code += call(_CLONE3, [(_RETURN, 0, 0, _ENOSYS)])
    code += call(_CLONE, deny_bits(0, _NAMESPACES))
    code += call(_SENDTO, deny_bits(3, _FASTOPEN))
    code += call(_SENDMSG, deny_bits(2, _FASTOPEN))
    code += call(_SENDMMSG, deny_bits(3, _FASTOPEN))
    code += call(_SOCKET, [_argument(0), *other_family, _argument(2), *_when(_EQUAL, _MPTCP, deny), *allow])
    code += call(_IOCTL, [_argument(1), *_when(_EQUAL, _TIOCSTI, deny), *_when(_EQUAL, _TIOCLINUX, deny), *allow])
    if template:
        code += call(_NUMBERS["unshare"], [_argument(0), *_when(_EQUAL, _NEWNS, allow), *deny])
        code += call(_NUMBERS["move_mount"], allow)
    for numbers in _NUMBERS.values():
        number = numbers[column]
        if number is not None:
            code += _when(_EQUAL, number, deny)
    code += allow
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)
