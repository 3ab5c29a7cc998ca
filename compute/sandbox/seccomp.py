"""The system-call filter of a sandbox as BPF, assembled here: a bare machine may have no libseccomp.

A deny list. An unknown name stops the build, because skipping it would leave a hole that no log shows.
"""

import errno
import os
import struct
from dataclasses import dataclass
from typing import Final

from compute.sandbox.syscalls import NUMBERS
from settlement.domain.errors import NoSandbox

DENIED: Final[dict[str, str]] = {
    "roots": "pivot_root chroot",
    "mounts": "mount umount2 move_mount fsopen fsconfig fsmount fspick open_tree mount_setattr",
    "namespaces": "setns unshare",
    "other processes": "ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp pidfd_open pidfd_getfd",
    "kernel code": "kexec_load kexec_file_load init_module finit_module delete_module",
    "observation": "bpf perf_event_open lookup_dcookie syslog fanotify_init",
    "keys": "keyctl add_key request_key",
    "large attack surface": "userfaultfd io_uring_setup io_uring_enter io_uring_register landlock_create_ruleset memfd_secret",
    "handles past the mount view": "open_by_handle_at name_to_handle_at",
    "the machine": "swapon swapoff reboot acct quotactl quotactl_fd nfsservctl vhangup sethostname setdomainname iopl ioperm",
    "the clock": "settimeofday clock_settime clock_adjtime adjtimex",
    "memory placement": "mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node modify_ldt personality",
    "System V and POSIX queues": "shmget shmat shmctl msgget semget mq_open",
}
# Flags of clone that make a namespace: mount, cgroup, uts, ipc, user, pid, net.
NAMESPACE_FLAGS: Final = 0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x7000_0000
TERMINAL_INJECTION: Final = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
AF_UNIX: Final = 1
UNKNOWN_FROM: Final = 463  # the first number that nobody has looked at for this list (Linux 6.10)
X32_BIT: Final = 0x4000_0000  # calls of the x32 ABI carry it in their number

# From linux/bpf_common.h, linux/seccomp.h and linux/audit.h.
LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
JUMP_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
JUMP_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
JUMP_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
RETURN: Final = 0x06  # BPF_RET | BPF_K
ALLOW: Final = 0x7FFF_0000
KILL_PROCESS: Final = 0x8000_0000
ERRNO: Final = 0x0005_0000
OFFSET_NUMBER: Final = 0
OFFSET_ARCHITECTURE: Final = 4
OFFSET_ARGUMENTS: Final = 16  # each 64 bits; the low half first on a little-endian machine
ARGUMENT_BYTES: Final = 8
INSTRUCTION: Final = struct.Struct("<HBBI")


@dataclass(frozen=True)
class Architecture:
    """What the kernel calls the machine, and where its numbers stand in the table."""

    audit: int
    column: int
    has_x32: bool


ARCHITECTURES: Final = {
    "x86_64": Architecture(audit=0xC000_003E, column=0, has_x32=True),
    "aarch64": Architecture(audit=0xC000_00B7, column=1, has_x32=False),
}


def denied_names() -> list[str]:
    """Every call that is refused whatever its arguments are."""
    return [name for group in DENIED.values() for name in group.split()]


def build(machine: str | None = None, families: tuple[int, ...] = (AF_UNIX,)) -> bytes:
    """The filter's bytes for `bwrap --seccomp`; another ABI's calls end the process."""
    name = machine or os.uname().machine
    if name not in ARCHITECTURES:
        raise NoSandbox(f"no system-call filter is known for the architecture {name}")
    kind = ARCHITECTURES[name]
    program = [
        (LOAD, 0, 0, OFFSET_ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, kind.audit),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, OFFSET_NUMBER),
    ]
    if kind.has_x32:
        program += [(JUMP_AT_LEAST, 0, 1, X32_BIT), (RETURN, 0, 0, KILL_PROCESS)]
    program += [(JUMP_AT_LEAST, 0, 1, UNKNOWN_FROM), (RETURN, 0, 0, ERRNO | errno.ENOSYS)]
    for call in denied_names():
        number = _number(call, kind)
        if number is not None:
            program += _when(number, [(RETURN, 0, 0, ERRNO | errno.EPERM)])
    # The flags of clone3 lie behind a pointer; told that it is missing, the C library takes clone.
    program += _when(_certain("clone3", kind), [(RETURN, 0, 0, ERRNO | errno.ENOSYS)])
    program += _when(_certain("clone", kind), _clone())
    for call in ("socket", "socketpair"):  # a pair of any family is made before it is refused
        program += _when(_certain(call, kind), _socket(families))
    program += _when(_certain("ioctl", kind), _ioctl())
    program.append((RETURN, 0, 0, ALLOW))
    return b"".join(INSTRUCTION.pack(*instruction) for instruction in program)


Instruction = tuple[int, int, int, int]


def _number(call: str, kind: Architecture) -> int | None:
    if call not in NUMBERS:
        raise ValueError(f"the table has no system call {call!r}")
    return NUMBERS[call][kind.column]


def _certain(call: str, kind: Architecture) -> int:
    number = _number(call, kind)
    assert number is not None
    return number


def _when(number: int, then: list[Instruction]) -> list[Instruction]:
    """A block for one call; it must end in a return, so that the number stays loaded for the rest."""
    assert then[-1][0] == RETURN
    return [(JUMP_EQUAL, 0, len(then), number), *then]


def _argument(position: int) -> Instruction:
    """The low 32 bits: the kernel cuts these arguments, so that comparing 64 would leave a way past."""
    return (LOAD, 0, 0, OFFSET_ARGUMENTS + ARGUMENT_BYTES * position)


def _clone() -> list[Instruction]:
    return [
        _argument(0),
        (JUMP_ANY_BIT, 0, 1, NAMESPACE_FLAGS),
        (RETURN, 0, 0, ERRNO | errno.EPERM),
        (RETURN, 0, 0, ALLOW),
    ]


def _socket(families: tuple[int, ...]) -> list[Instruction]:
    allowed = [pair for f in families for pair in ((JUMP_EQUAL, 0, 1, f), (RETURN, 0, 0, ALLOW))]
    return [_argument(0), *allowed, (RETURN, 0, 0, ERRNO | errno.EAFNOSUPPORT)]


def _ioctl() -> list[Instruction]:
    refuse = (RETURN, 0, 0, ERRNO | errno.EPERM)
    refused = [pair for r in TERMINAL_INJECTION for pair in ((JUMP_EQUAL, 0, 1, r), refuse)]
    return [_argument(1), *refused, (RETURN, 0, 0, ALLOW)]
