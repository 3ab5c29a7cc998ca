"""The program inside the sandbox: loads one job's code, runs its tasks, answers each as plain data.

Hostile ground: nothing outside believes it. Unpickling happens here only, where the consumer's code
runs anyway. It arrives by content, so it imports nothing of ours but the writer of plain data.

A frame is its kind (1 byte), its length (8 bytes, little endian) and its body.
In: K msgpack {name, source, confined}: our module for another kind of code than a function; F the code;
C msgpack {seed, cut, tasks: [[index, body], …]}. Out: R ready, L loaded, X not loaded (with the
exception), A one task's answer: index (4 bytes), status (1 byte), output.
After each task `cut` is written where the task printed, so that the other side can tell logs apart.
"""

import hashlib
import importlib
import importlib.abc
import importlib.machinery
import os
import pickle
import random
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any, Final

import msgpack

from market.wire.plain_write import UnsafeResult, encode, encode_exception

HEADER: Final = struct.Struct("<cQ")
ANSWER: Final = struct.Struct("<IB")
OK, ERROR, UNSAFE, EXCEEDED = 0, 1, 2, 3
BUFFER_BYTES_MAX: Final = 1 << 20
NUMPY_SEED_BITS: Final = 32


class Channel:
    """Frames on the one descriptor that leads out."""

    def __init__(self, descriptor: int) -> None:
        self.socket = socket.socket(fileno=descriptor)
        self.owner = os.getpid()
        self.log = os.dup(1)  # the task may close or replace its own

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self.socket.recv(min(count - len(data), BUFFER_BYTES_MAX))
            if not piece:
                os._exit(0)
            data += piece
        return bytes(data)

    def receive(self) -> tuple[bytes, bytes]:
        kind, length = HEADER.unpack(self._read(HEADER.size))
        return kind, self._read(length)

    def send(self, kind: bytes, *parts: bytes) -> None:
        if os.getpid() != self.owner:
            os._exit(0)  # a fork of the user's function came back here; it has no voice
        self.socket.sendall(b"".join((HEADER.pack(kind, sum(map(len, parts))), *parts)))

    def cut(self, mark: bytes) -> None:
        """What was printed must be out before the answer is: the log is cut there."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        if os.getpid() == self.owner:
            with suppress(OSError):
                os.write(self.log, mark)


class SeedNumpy(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Seeds numpy's generator right after its first import, which may come in the middle of a task."""

    def __init__(self) -> None:
        self.seed = 0
        self.real: importlib.abc.Loader | None = None

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "numpy.random":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None:
            self.real, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.real.create_module(spec) if self.real else None

    def exec_module(self, module: ModuleType) -> None:
        if self.real:
            self.real.exec_module(module)
        module.seed(self.seed)

    def apply(self, seed: int, index: int) -> None:
        """The same task draws the same numbers, wherever and after whatever it runs."""
        drawn = hashlib.sha256(f"{seed}:{index}".encode()).digest()
        random.seed(drawn)
        self.seed = int.from_bytes(drawn[: NUMPY_SEED_BITS // 8], "little")
        loaded = sys.modules.get("numpy.random")
        if loaded is not None and hasattr(loaded, "seed"):
            loaded.seed(self.seed)


def trimmed(error: BaseException) -> BaseException:
    """The exception without this file's own frame at the top of its traceback."""
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next or error.__traceback__
    return error


class Runner:
    """One lease's code and its calls."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.function: Callable[..., Any] | None = None
        self.kind: ModuleType | None = None
        self.confined = False
        self.program: Any = None
        self.seeds = SeedNumpy()
        sys.meta_path.insert(0, self.seeds)

    def equip(self, body: bytes) -> None:
        """The module of a kind comes before code of it; most sandboxes never need one."""
        message = msgpack.unpackb(body)
        self.kind = ModuleType(message["name"])
        self.confined = message["confined"]
        exec(compile(message["source"], f"<{message['name']}>", "exec"), vars(self.kind))

    def load(self, body: bytes) -> None:
        self.seeds.apply(0, 0)
        try:
            if self.kind is None:
                self.function = pickle.loads(body)
            else:
                self.program = self.kind.Program(body, confined=self.confined)
        except BaseException as error:
            self.channel.send(b"X", encode_exception(trimmed(error)))
        else:
            self.channel.send(b"L")

    def chunk(self, body: bytes) -> None:
        message = msgpack.unpackb(body)
        for index, call in message["tasks"]:
            self.seeds.apply(message["seed"], index)
            if self.kind is None:
                status, output = self.task(call)
            else:
                status, output = self.input(self.kind, message["seed"], index, call)
            self.channel.cut(message["cut"])
            self.channel.send(b"A", ANSWER.pack(index, status), output)

    def task(self, call: bytes) -> tuple[int, bytes]:
        try:
            assert self.function is not None
            args, kwargs = pickle.loads(call)
            value = self.function(*args, **kwargs)
        except BaseException as error:
            return ERROR, encode_exception(trimmed(error))
        try:
            return OK, encode(value)
        except UnsafeResult as refusal:
            return UNSAFE, encode(str(refusal))
        except BaseException as error:
            return ERROR, encode_exception(error)

    def input(self, kind: ModuleType, seed: int, index: int, body: bytes) -> tuple[int, bytes]:
        """One input of a program that is no function; how it ended is its result."""
        try:
            return OK, encode(self.program.run(seed, index, body))
        except kind.Exceeded as error:
            return EXCEEDED, encode(str(error))
        except UnsafeResult as refusal:
            return UNSAFE, encode(str(refusal))
        except BaseException as error:
            return ERROR, encode_exception(trimmed(error))


def main(descriptor: int) -> None:
    """Say ready, then do what the frames say until the other side is gone."""
    sys.modules.setdefault("cloudpickle", importlib.import_module("cloudpickle"))
    runner = Runner(Channel(descriptor))
    runner.channel.send(b"R")
    actions = {b"K": runner.equip, b"F": runner.load, b"C": runner.chunk}
    while True:
        kind, body = runner.channel.receive()
        actions[kind](body)
