"""Hostile programs, each with the outcomes that are allowed and the answer that must come out."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from textwrap import dedent

PRELUDE = r"""
import array, ctypes, errno, os, resource, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def sysc(number, *arguments):
    words = [ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_ulong(a) for a in arguments]
    return 'REACHED' if libc.syscall(ctypes.c_long(number), *words) >= 0 else errno.errorcode[ctypes.get_errno()]
def tr(attempt):
    try: return 'REACHED %r' % (attempt(),)
    except BaseException as error: return '%s(%s)' % (type(error).__name__, getattr(error, 'errno', ''))
def fill(mebibytes):
    held = bytearray(mebibytes << 20)
    for i in range(0, len(held), 4096): held[i] = 1
    return held
"""
TASK = """
def task(code):
    space = {'__name__': '__main__'}
    exec(compile(code, '<attack>', 'exec'), space)
    result = space.get('RESULT', b'')
    if isinstance(result, bytes) and len(result) < 5000: return result.decode()
    return result if isinstance(result, (bytes, str)) else repr(result)
"""


@dataclass(frozen=True)
class Aims:
    """Things on the host, made for one run, that an attack tries to reach."""

    secret: str
    port: int
    abstract: str
    clone: str


@dataclass(frozen=True)
class Attack:
    """A program that leaves its answer in RESULT."""

    code: Callable[[Aims], str] | str
    statuses: str = "ok"  # those allowed, separated by |
    must: str = ""  # a pattern that the answer must match
    refused: bool = False  # the answer must not say REACHED
    control: bool = False  # harmless: must reach its aim without the sandbox
    timeout_ms: int = 10_000
    memory_mib: int = 256
    grouped: bool = False  # held by the control group, so only class S holds it

    def program(self, aims: Aims) -> str:
        code = self.code if isinstance(self.code, str) else self.code(aims)
        return PRELUDE + dedent(code)

    def wrong(self, status: str, answer: str) -> str:
        """What is wrong with the outcome, or nothing."""
        if status not in self.statuses.split("|"):
            return f"status {status}, allowed {self.statuses}: {answer[:300]}"
        if self.refused and "REACHED" in answer:
            return f"reached its aim: {answer[:300]}"
        return "" if re.search(self.must, answer) else f"no {self.must!r} in {answer[:300]}"


FULL = r"OSError\((28|27)\)|^$"

ATTACKS: dict[str, Attack] = {
    # memory and time
    "memory of 2 GiB": Attack("fill(2048); RESULT = b'survived'", "oom|error"),
    "memory by 8 children": Attack(
        """
        for _ in range(8):
            if os.fork() == 0:
                held = fill(100); time.sleep(30)
        time.sleep(8); RESULT = b'survived'""",
        "oom", grouped=True,
    ),
    "spin": Attack("while True: pass", "timeout", timeout_ms=1_000),
    "spin by 4 forks": Attack(
        """
        for _ in range(4):
            if os.fork() == 0: break
        while True: pass""",
        "timeout", timeout_ms=1_000,
    ),
    "sleep past the limit": Attack("time.sleep(1000)", "timeout", timeout_ms=500),
    "stop itself": Attack("os.kill(os.getpid(), 19); time.sleep(100)", "timeout", timeout_ms=500),
    # numbers
    "fork bomb": Attack(
        """
        def attempt():
            while True: os.fork()
        RESULT = tr(attempt); time.sleep(1)""",
        "ok|timeout|error|died", timeout_ms=3_000,
    ),
    "thread bomb": Attack(
        """
        n = 0
        try:
            while True: threading.Thread(target=time.sleep, args=(50,), daemon=True).start(); n += 1
        except RuntimeError: RESULT = b'threads %d' % n""",
        must=r"^threads ([12]?\d|30|31)$",
    ),
    "open files without end": Attack(
        "RESULT = tr(lambda: [os.dup(1) for _ in range(100000)])", refused=True, must=r"\(24\)"
    ),
    "descriptors planted in the trusted process": Attack(
        """
        trusted = socket.socket(fileno=os.dup(3))
        for byte in b'A' + struct.pack('<Q', 5) + struct.pack('<IB', 0, 0):
            trusted.sendmsg([bytes([byte])], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0] * 5))])
        time.sleep(60)""",
        "ok",
    ),
    # storage and output
    "fill /tmp": Attack(
        """
        def attempt():
            with open('/tmp/x', 'wb', buffering=0) as file:
                while True: file.write(bytes(1 << 20))
        RESULT = tr(attempt)""",
        must=FULL,
    ),
    "fill /dev/shm": Attack(
        """
        def attempt():
            for i in range(4096): open('/dev/shm/%d' % i, 'wb').write(bytes(1 << 20))
        RESULT = tr(attempt)""",
        must=FULL,
    ),
    "sparse file of 1 TiB": Attack(
        "RESULT = tr(lambda: os.truncate(os.open('/tmp/s', os.O_CREAT | os.O_RDWR), 1 << 40))", refused=True
    ),
    "log flood": Attack("while True: print('x' * 60000)", "timeout", timeout_ms=1_500),
    "log flood with forged marks": Attack(
        """
        frame = sys._getframe()
        while 'message' not in frame.f_locals: frame = frame.f_back
        piece = (b'x' * 100 + frame.f_locals['message']['cut']) * 500
        while True: os.write(1, piece)""",
        "timeout", timeout_ms=1_500,
    ),
    "frame of 2**60 bytes": Attack(
        "socket.socket(fileno=os.dup(3)).sendall(b'A' + struct.pack('<Q', 1 << 60)); time.sleep(60)",
        "output_exceeded",
    ),
    "answer for another task": Attack(
        "socket.socket(fileno=os.dup(3)).sendall(b'A' + struct.pack('<QIB', 5, 7, 0)); time.sleep(60)", "died"
    ),
    "answer of an unknown kind": Attack(
        "socket.socket(fileno=os.dup(3)).sendall(b'Z' + struct.pack('<Q', 0)); time.sleep(60)", "died"
    ),
    "answer of 100 MiB": Attack("RESULT = bytes(100 << 20)", "unsafe_result", memory_mib=700),
    # network
    "loopback of the host": Attack(
        lambda aims: f"RESULT = tr(lambda: socket.create_connection(('127.0.0.1', {aims.port}), 2))",
        refused=True, control=True,
    ),
    "abstract socket of the host": Attack(
        lambda aims: f"RESULT = tr(lambda: socket.socket(socket.AF_UNIX).connect('\\0{aims.abstract}'))",
        refused=True, control=True,
    ),
    "other socket families": Attack(
        "RESULT = [tr(lambda: socket.socket(f, t)) for f, t in ((40, 1), (16, 3), (17, 3), (2, 2), (10, 1))]",
        refused=True, control=True,
    ),
    "pairs of other socket families": Attack(
        "RESULT = [tr(lambda: socket.socketpair(f, t)) for f, t in ((16, 3), (2, 1), (10, 2), (40, 1))]",
        refused=True, must=r"^\['OSError\(97\)'(, 'OSError\(97\)'){3}\]$",
    ),
    "calls newer than the filter's list": Attack(
        "RESULT = [sysc(n, 0, 0, 0, 0, 0) for n in (463, 467, 600)]", must=r"^\['ENOSYS'(, 'ENOSYS'){2}\]$"
    ),
    "the same with the upper half of the word set": Attack(
        "RESULT = [sysc(41, f | 1 << 32, 2, 0) for f in (2, 10, 16, 40)]", refused=True, control=True
    ),
    "call by another ABI": Attack("RESULT = sysc(0x40000000 | 41, 2, 1, 0)", "died"),
    # sight
    "files of the host": Attack(
        lambda aims: f"""
        paths = ["/etc/shadow", "/etc/passwd", "/etc/gshadow", {aims.secret!r}]
        paths += [root + {aims.secret!r} for root in ("/proc/1/root", "/proc/self/root", "/proc/1/cwd")]
        RESULT = [tr(lambda: open(p).read(20)) for p in paths]""",
        refused=True, control=True,
    ),
    "environment of the first process": Attack(
        "RESULT = tr(lambda: open('/proc/1/environ').read())", must=r"^(REACHED ''|PermissionError)"
    ),
    "own environment": Attack("RESULT = repr(dict(os.environ))", must=r"^(?!.*PLANTED)"),
    "other processes": Attack(
        "RESULT = ' '.join(p for p in os.listdir('/proc') if p.isdigit())", must=r"^1 2$"
    ),
    "paths of the daemon in mountinfo": Attack(
        lambda aims: f"RESULT = repr({aims.clone!r} in open('/proc/self/mountinfo').read())", must="^False$"
    ),
    "inherited descriptors": Attack(
        "RESULT = ' '.join(sorted(os.listdir('/proc/self/fd')))", must=r"^0 1 2 3 4 5$"
    ),
    # rights
    "namespaces and mounts": Attack(
        """
        RESULT = [sysc(272, 0x10000000), sysc(165, b'none', b'/tmp', b'tmpfs', 0, 0), sysc(155, b'/', b'/'),
                  sysc(308, 0, 0), sysc(56, 0x10000011, 0, 0, 0, 0)]""",
        refused=True,
    ),
    "ptrace, bpf, keyctl, io_uring, perf": Attack(
        "RESULT = [sysc(n, 0, 0, 0, 0, 0) for n in (101, 321, 250, 425, 298, 323, 310, 246, 438)]", refused=True
    ),
    "setuid and capabilities": Attack(
        """
        status = dict(line.split(':', 1) for line in open('/proc/self/status'))
        shown = [status[k].strip() for k in ('CapEff', 'CapBnd', 'NoNewPrivs', 'Seccomp')]
        RESULT = ' '.join([tr(lambda: os.setuid(0)), *shown])""",
        refused=True, must=r" 0+ 0+ 1 2$",
    ),
    "raise the limits": Attack(
        """
        kinds = (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_FSIZE)
        RESULT = [tr(lambda: resource.setrlimit(k, (1 << 40, 1 << 40))) for k in kinds]""",
        refused=True,
    ),
    "limits as set": Attack(
        "RESULT = repr([resource.getrlimit(k)[1] for k in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)])",
        must=r"^\[256, 0\]$",
    ),
    "write where nothing may be written": Attack(
        """
        paths = ("/usr/x", "/python/x", "/x", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/dev/x")
        RESULT = [tr(lambda: open(p, 'w')) for p in paths]""",
        refused=True,
    ),
    # life and death
    "kill everything in sight": Attack(
        "RESULT = [tr(lambda: os.kill(p, 9)) for p in (1, os.getppid())]", "ok|died"
    ),
    "child that survives": Attack(
        """
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0: time.sleep(300)
            os._exit(0)
        RESULT = b'left a child'""",
    ),
    "two voices": Attack("os.fork(); RESULT = b'either'", must="either"),
    "leave without an answer": Attack("os._exit(0)", "died"),
    "leave politely": Attack("sys.exit(3)", "error"),
    "segmentation fault": Attack("ctypes.string_at(0)", "died"),
}  # fmt: skip
