"""Inside the sandbox: runs a WASM module once per input, the same way everywhere, and counts fuel.

It comes by content and stands alone, as the runner does. A module is a WASI preview 1 command: its
input is standard input, its result standard output, its log standard error. It has no files, no
network and no threads; its clock starts at one moment and moves only as it is read or slept by; its
random bytes follow from the job's seed and the task's number. What it imports beside is refused.
"""

import hashlib
import os
import struct
from collections.abc import Callable
from typing import Any, Final

import msgpack
import wasmtime

WASI: Final = "wasi_snapshot_preview1"
STDOUT_BYTES_MAX: Final = 16 << 20
MODULE_NAME: Final = b"module"  # what a program finds as its own name
STACK_BYTES: Final = 512 << 10
MEBIBYTE: Final = 1 << 20
TABLE_ELEMENTS_MAX: Final = 1_000_000
TABLES_MAX: Final = 16
VECTORS_MAX: Final = 1_024  # of one read or write
EVENTS_MAX: Final = 1_024
RANDOM_BYTES_MAX: Final = 1 << 20  # of one call
TRAP_CHARS_MAX: Final = 1_000

CLOCK_START_NS: Final = 946_684_800 * 10**9  # 2000-01-01, for every task
CLOCK_STEP_NS: Final = 1_000_000  # a reading moves it, so that who waits for it comes to an end

# Numbers of WASI preview 1.
OK, BADF, FAULT, INVAL, NOSYS, SPIPE = 0, 8, 21, 28, 52, 70
STDIN, STDOUT, STDERR = 0, 1, 2
CHARACTER_DEVICE, RIGHT_READ, RIGHT_WRITE = 2, 1 << 1, 1 << 6
EVENT_CLOCK, CLOCK_ABSOLUTE = 0, 1
SUBSCRIPTION_BYTES, EVENT_BYTES = 48, 32
WORD: Final = struct.Struct("<I")
LONG: Final = struct.Struct("<Q")
SUBSCRIPTION: Final = struct.Struct(
    "<QB7xI4xQQH"
)  # userdata, tag, clock, timeout, precision, flags
EVENT: Final = struct.Struct("<QHB5xQH6x")  # userdata, error, type, bytes ready, flags

# Known names that there is nothing behind: a program that asks is told so, and may go on.
ABSENT: Final = frozenset({
    "fd_advise", "fd_allocate", "fd_datasync", "fd_fdstat_set_rights", "fd_filestat_set_size",
    "fd_filestat_set_times", "fd_pread", "fd_pwrite", "fd_readdir", "fd_renumber", "fd_sync",
    "fd_tell", "path_create_directory", "path_filestat_get", "path_filestat_set_times", "path_link",
    "path_open", "path_readlink", "path_remove_directory", "path_rename", "path_symlink",
    "path_unlink_file", "proc_raise", "sock_accept", "sock_recv", "sock_send", "sock_shutdown",
})  # fmt: skip


OFFERED: Final = frozenset({
    "args_get", "args_sizes_get", "clock_res_get", "clock_time_get", "environ_get",
    "environ_sizes_get", "fd_close", "fd_fdstat_get", "fd_fdstat_set_flags", "fd_filestat_get",
    "fd_prestat_dir_name", "fd_prestat_get", "fd_read", "fd_seek", "fd_write", "poll_oneoff",
    "proc_exit", "random_get", "sched_yield",
})  # fmt: skip


class Exceeded(Exception):
    """The module wrote more than is taken."""


class Exit(Exception):
    """The module's own word that it is done."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Fault(Exception):
    """An address outside of the module's memory, or a count beyond every use."""

    def __init__(self, error: int) -> None:
        super().__init__(error)
        self.error = error


class Program:
    """One lease's module, compiled once."""

    def __init__(self, code: bytes, *, confined: bool) -> None:
        del confined  # it starts no processes
        message = msgpack.unpackb(code)
        self.fuel_max: int = message["fuel_max"]
        self.memory_bytes: int = message["memory_mib"] * MEBIBYTE
        self.arguments = [MODULE_NAME, *(word.encode() for word in message["arguments"])]
        self.engine = engine()
        self.module = wasmtime.Module(self.engine, message["module"])
        check(self.module)

    def run(self, seed: int, index: int, body: bytes) -> dict[str, Any]:
        """Exit code, fuel, standard output, and the trap if one ended it."""
        store = wasmtime.Store(self.engine)
        store.set_fuel(self.fuel_max)
        store.set_limits(
            memory_size=self.memory_bytes,
            table_elements=TABLE_ELEMENTS_MAX,
            instances=1,
            tables=TABLES_MAX,
            memories=1,
        )
        system = System(self.arguments, body, seed=seed, index=index)
        code, trap = 0, ""
        try:
            exports = system.linker(self.engine, self.module).instantiate(store, self.module)
            start = exports.exports(store)["_start"]
            assert isinstance(start, wasmtime.Func)
            start(store)
        except Exit as end:
            code = end.code
        except wasmtime.Trap as error:
            trap = _told(error)
        except wasmtime.WasmtimeError as error:
            trap = _told(error)
        fuel = self.fuel_max - store.get_fuel()
        return {"exit_code": code, "fuel": fuel, "stdout": bytes(system.stdout), "trap": trap}


def engine() -> wasmtime.Engine:
    """Whatever could differ between two runs is off or fixed."""
    config = wasmtime.Config()
    config.consume_fuel = True
    config.cranelift_nan_canonicalization = True
    config.wasm_relaxed_simd_deterministic = True
    config.wasm_threads = False
    config.wasm_memory64 = False
    config.wasm_multi_memory = False
    config.parallel_compilation = False  # threads count as processes here
    config.max_wasm_stack = STACK_BYTES
    return wasmtime.Engine(config)


def check(module: wasmtime.Module) -> None:
    """Refuse what could never run, naming it."""
    for wanted in module.imports:
        name = wanted.name or ""
        known = name in ABSENT or name in OFFERED
        if wanted.module != WASI or not known or not isinstance(wanted.type, wasmtime.FuncType):
            raise ValueError(f"the module imports {wanted.module}.{name}, which is not offered")
    found = {export.name: export.type for export in module.exports}
    start = found.get("_start")
    if not isinstance(start, wasmtime.FuncType) or start.params or start.results:
        raise ValueError("the module exports no function _start: build it as a WASI command")
    if not isinstance(found.get("memory"), wasmtime.MemoryType):
        raise ValueError("no export named memory is a memory")  # noqa: TRY004 - of what was sent


class System:
    """What one run of a module finds behind its imports."""

    def __init__(self, arguments: list[bytes], stdin: bytes, *, seed: int, index: int) -> None:
        self.arguments = arguments
        self.stdin, self.read = stdin, 0
        self.stdout = bytearray()
        self.now_ns = CLOCK_START_NS
        self.root = hashlib.sha256(f"wasm:{seed}:{index}".encode()).digest()
        self.drawn = 0

    def linker(self, engine: wasmtime.Engine, module: wasmtime.Module) -> wasmtime.Linker:
        """Each import of the module by its own type; `check` has seen them."""
        linker = wasmtime.Linker(engine)
        for name, kind in {str(one.name): one.type for one in module.imports}.items():
            assert isinstance(kind, wasmtime.FuncType)
            linker.define_func(WASI, name, kind, self._call(name), access_caller=True)
        return linker

    def _call(self, name: str) -> Callable[..., int | None]:
        function: Callable[..., int | None] | None = None
        if name in OFFERED:
            function = getattr(self, f"_{name}")

        def call(caller: wasmtime.Caller, *numbers: int) -> int | None:
            if function is None:
                return NOSYS
            memory = caller["memory"]
            assert isinstance(memory, wasmtime.Memory)
            try:
                return function(Memory(memory, caller), *(_unsigned(number) for number in numbers))
            except Fault as fault:
                return fault.error

        return call

    # ── arguments and environment ───────────────────────────────────────────────────────────

    def _args_sizes_get(self, memory: "Memory", count: int, size: int) -> int:
        memory.put_word(count, len(self.arguments))
        memory.put_word(size, sum(len(word) + 1 for word in self.arguments))
        return OK

    def _args_get(self, memory: "Memory", places: int, texts: int) -> int:
        for word in self.arguments:
            memory.put_word(places, texts)
            memory.put(texts, word + b"\0")
            places, texts = places + WORD.size, texts + len(word) + 1
        return OK

    def _environ_sizes_get(self, memory: "Memory", count: int, size: int) -> int:
        memory.put_word(count, 0)
        memory.put_word(size, 0)
        return OK

    def _environ_get(self, memory: "Memory", places: int, texts: int) -> int:
        del memory, places, texts
        return OK

    # ── clock and chance ────────────────────────────────────────────────────────────────────

    def _clock_res_get(self, memory: "Memory", clock: int, place: int) -> int:
        del clock
        memory.put(place, LONG.pack(CLOCK_STEP_NS))
        return OK

    def _clock_time_get(self, memory: "Memory", clock: int, precision: int, place: int) -> int:
        del clock, precision
        memory.put(place, LONG.pack(self.now_ns))
        self.now_ns += CLOCK_STEP_NS
        return OK

    def _random_get(self, memory: "Memory", place: int, count: int) -> int:
        if count > RANDOM_BYTES_MAX:
            return INVAL
        data = b""
        while len(data) < count:
            data += hashlib.sha256(self.root + LONG.pack(self.drawn)).digest()
            self.drawn += 1
        memory.put(place, data[:count])
        return OK

    def _poll_oneoff(
        self, memory: "Memory", wanted: int, events: int, count: int, happened: int
    ) -> int:
        """Sleeping moves the clock at once; everything else is ready."""
        if not 0 < count <= EVENTS_MAX:
            return INVAL
        sleeps, ready = [], []
        for number in range(count):
            entry = memory.get(wanted + number * SUBSCRIPTION_BYTES, SUBSCRIPTION_BYTES)
            data, tag, _, timeout_ns, _, flags = SUBSCRIPTION.unpack_from(entry)
            if tag == EVENT_CLOCK:
                until_ns = timeout_ns if flags & CLOCK_ABSOLUTE else self.now_ns + timeout_ns
                sleeps.append((until_ns, number, data))
            else:
                ready.append(EVENT.pack(data, OK, tag, 0, 0))
        if not ready:
            until_ns, _, data = min(sleeps)
            self.now_ns = max(self.now_ns, until_ns)
            ready.append(EVENT.pack(data, OK, EVENT_CLOCK, 0, 0))
        memory.put(events, b"".join(ready))
        memory.put_word(happened, len(ready))
        return OK

    def _sched_yield(self, memory: "Memory") -> int:
        del memory
        return OK

    def _proc_exit(self, memory: "Memory", code: int) -> None:
        del memory
        raise Exit(code)

    # ── the three descriptors ───────────────────────────────────────────────────────────────

    def _fd_read(self, memory: "Memory", fd: int, vectors: int, count: int, done: int) -> int:
        if fd != STDIN:
            return BADF
        total = 0
        for place, length in memory.vectors(vectors, count):
            piece = self.stdin[self.read : self.read + length]
            memory.put(place, piece)
            self.read += len(piece)
            total += len(piece)
        memory.put_word(done, total)
        return OK

    def _fd_write(self, memory: "Memory", fd: int, vectors: int, count: int, done: int) -> int:
        if fd not in {STDOUT, STDERR}:
            return BADF
        total = 0
        for place, length in memory.vectors(vectors, count):
            piece = memory.get(place, length)
            total += length
            if fd == STDERR:
                _log(piece)
                continue
            self.stdout += piece
            if len(self.stdout) > STDOUT_BYTES_MAX:
                raise Exceeded(f"the module wrote more than {STDOUT_BYTES_MAX} bytes")
        memory.put_word(done, total)
        return OK

    def _fd_close(self, memory: "Memory", fd: int) -> int:
        del memory
        return OK if fd <= STDERR else BADF

    def _fd_seek(self, memory: "Memory", fd: int, offset: int, whence: int, place: int) -> int:
        del memory, offset, whence, place
        return SPIPE if fd <= STDERR else BADF

    def _fd_fdstat_get(self, memory: "Memory", fd: int, place: int) -> int:
        if fd > STDERR:
            return BADF
        right = RIGHT_READ if fd == STDIN else RIGHT_WRITE
        memory.put(place, struct.pack("<BxHxxxxQQ", CHARACTER_DEVICE, 0, right, 0))
        return OK

    def _fd_fdstat_set_flags(self, memory: "Memory", fd: int, flags: int) -> int:
        del memory, flags
        return OK if fd <= STDERR else BADF

    def _fd_filestat_get(self, memory: "Memory", fd: int, place: int) -> int:
        if fd > STDERR:
            return BADF
        memory.put(place, struct.pack("<QQB7xQQQQQ", 0, fd, CHARACTER_DEVICE, 1, 0, 0, 0, 0))
        return OK

    def _fd_prestat_get(self, memory: "Memory", fd: int, place: int) -> int:
        del memory, fd, place
        return BADF  # no folder was opened ahead

    def _fd_prestat_dir_name(self, memory: "Memory", fd: int, place: int, length: int) -> int:
        del memory, fd, place, length
        return BADF


class Memory:
    """The module's memory; an address outside is an error of the call, not of ours."""

    def __init__(self, memory: wasmtime.Memory, store: wasmtime.Caller) -> None:
        self.memory, self.store = memory, store
        self.size = memory.data_len(store)

    def get(self, place: int, length: int) -> bytes:
        if place + length > self.size:
            raise Fault(FAULT)
        return bytes(self.memory.read(self.store, place, place + length)) if length else b""

    def put(self, place: int, data: bytes) -> None:
        if place + len(data) > self.size:
            raise Fault(FAULT)
        if data:
            self.memory.write(self.store, bytearray(data), place)

    def put_word(self, place: int, value: int) -> None:
        self.put(place, WORD.pack(value))

    def vectors(self, place: int, count: int) -> list[tuple[int, int]]:
        if count > VECTORS_MAX:
            raise Fault(INVAL)
        data = self.get(place, count * 2 * WORD.size)
        return [(place, length) for place, length in struct.iter_unpack("<II", data)]


def _unsigned(number: int) -> int:
    """Python gets what WASM counts without a sign as a signed number."""
    if number >= 0:
        return number
    return number + (1 << 32 if number >= -(1 << 31) else 1 << 64)


def _told(error: Exception) -> str:
    """Why it stopped, without the frames of the trap."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:TRAP_CHARS_MAX] if lines else type(error).__name__


def _log(piece: bytes) -> None:
    while piece:
        piece = piece[os.write(STDERR, piece) :]
