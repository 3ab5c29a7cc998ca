"""The filter, run through an interpreter of BPF: what it refuses, on both architectures."""

import errno
import os
import socket
import struct

import pytest

from compute.sandbox import seccomp
from compute.sandbox.syscalls import NUMBERS
from settlement.domain.errors import NoSandbox

MACHINES = list(seccomp.ARCHITECTURES)
ALLOW = ("allow", 0)
INSTRUCTION_COUNT_MAX = 4096  # BPF_MAXINSNS


def run(
    program: bytes, *, audit: int, number: int, arguments: tuple[int, ...] = ()
) -> tuple[str, int]:
    """What the kernel would do with the call."""
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    data = struct.pack("<IIQ6Q", number, audit, 0, *padded)
    steps = list(seccomp.INSTRUCTION.iter_unpack(program))
    accumulator = position = 0
    while True:
        code, when_true, when_false, value = steps[position]
        position += 1
        if code == seccomp.LOAD:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == seccomp.RETURN:
            if value == seccomp.ALLOW:
                return ALLOW
            return ("kill", 0) if value == seccomp.KILL_PROCESS else ("errno", value & 0xFFFF)
        else:
            held = {
                seccomp.JUMP_EQUAL: accumulator == value,
                seccomp.JUMP_AT_LEAST: accumulator >= value,
                seccomp.JUMP_ANY_BIT: bool(accumulator & value),
            }[code]
            position += when_true if held else when_false


def call(machine: str, name: str, *arguments: int) -> tuple[str, int]:
    kind = seccomp.ARCHITECTURES[machine]
    number = NUMBERS[name][kind.column]
    assert number is not None
    return run(seccomp.build(machine), audit=kind.audit, number=number, arguments=arguments)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_denied_call_is_refused(machine: str) -> None:
    kind = seccomp.ARCHITECTURES[machine]
    refused = [name for name in seccomp.denied_names() if NUMBERS[name][kind.column] is not None]
    assert len(refused) >= 67
    for name in refused:
        assert call(machine, name) == ("errno", errno.EPERM), name


@pytest.mark.parametrize("machine", MACHINES)
def test_a_denied_number_is_refused_whatever_else_is_not(machine: str) -> None:
    """Every number but those of the table is allowed: the filter refuses nothing by accident."""
    kind = seccomp.ARCHITECTURES[machine]
    special = {NUMBERS[name][kind.column] for name in NUMBERS}
    program = seccomp.build(machine)
    for number in range(seccomp.UNKNOWN_FROM):
        if number not in special:
            assert run(program, audit=kind.audit, number=number) == ALLOW, number


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_newer_than_the_list_do_not_exist(machine: str) -> None:
    program = seccomp.build(machine)
    for number in range(seccomp.UNKNOWN_FROM, 600):
        found = run(program, audit=seccomp.ARCHITECTURES[machine].audit, number=number)
        assert found == ("errno", errno.ENOSYS), number


@pytest.mark.parametrize("machine", MACHINES)
def test_arguments_are_compared_as_the_kernel_cuts_them(machine: str) -> None:
    refused = ("errno", errno.EAFNOSUPPORT)
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET, 40):
        assert call(machine, "socket", family) == refused
        assert call(machine, "socket", family | 1 << 32) == refused
        assert call(machine, "socketpair", family) == refused
    assert call(machine, "socket", socket.AF_UNIX) == ALLOW
    assert call(machine, "socketpair", socket.AF_UNIX) == ALLOW
    for request in (0x5412, 0x541C):
        assert call(machine, "ioctl", 0, request) == ("errno", errno.EPERM)
        assert call(machine, "ioctl", 0, request | 1 << 32) == ("errno", errno.EPERM)
    assert call(machine, "ioctl", 0, 0x5401) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_no_namespace_can_be_made(machine: str) -> None:
    for bit in (17, 25, 26, 27, 28, 29, 30):  # CLONE_NEW*
        assert call(machine, "clone", 1 << bit | 17) == ("errno", errno.EPERM)
    assert call(machine, "clone", 0x003D_0F00) == ALLOW  # what a thread is made with
    assert call(machine, "clone", 17) == ALLOW  # a plain fork
    assert call(machine, "clone3") == ("errno", errno.ENOSYS)


def test_another_abi_ends_the_process() -> None:
    for machine, kind in seccomp.ARCHITECTURES.items():
        program = seccomp.build(machine)
        others = {k.audit for k in seccomp.ARCHITECTURES.values()} - {kind.audit}
        for audit in (*others, 0x4000_0003):  # also i386
            assert run(program, audit=audit, number=1) == ("kill", 0)
    kind = seccomp.ARCHITECTURES["x86_64"]
    program = seccomp.build("x86_64")
    assert run(program, audit=kind.audit, number=0x4000_0000 | 41) == ("kill", 0)


def test_a_name_that_the_table_lacks_stops_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(seccomp.DENIED, "misspelt", "mounty")
    with pytest.raises(ValueError, match="mounty"):
        seccomp.build("x86_64")


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(NoSandbox):
        seccomp.build("sparc")


def test_the_program_is_one_that_the_kernel_takes() -> None:
    program = seccomp.build(os.uname().machine)
    assert len(program) % seccomp.INSTRUCTION.size == 0
    assert len(program) // seccomp.INSTRUCTION.size <= INSTRUCTION_COUNT_MAX
