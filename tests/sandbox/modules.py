"""WASM modules for tests, in text form."""

from typing import Final

from wasmtime import wat2wasm

# Reads its whole input to address 4096 on; `body` goes on from there with $length.
FRAME: Final = """
(module
  (import "wasi_snapshot_preview1" "fd_read"
    (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "random_get"
    (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get"
    (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get"
    (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func $out (param $fd i32) (param $at i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $length))
    (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $in (result i32) (local $length i32)
    (loop $more
      (i32.store (i32.const 0) (i32.add (i32.const 4096) (local.get $length)))
      (i32.store (i32.const 4) (i32.const 16))
      (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (local.set $length (i32.add (local.get $length) (i32.load (i32.const 8))))
      (br_if $more (i32.load (i32.const 8))))
    (local.get $length))
  (func (export "_start") (local $length i32) (local $i i32) (local $f f64)
    (local.set $length (call $in))
    BODY))
"""


def module(body: str, frame: str = FRAME) -> bytes:
    """A command around the instructions."""
    return bytes(wat2wasm(frame.replace("BODY", body)))


# Input in capitals on standard output, the input itself on standard error, then exit 5.
CAPITALS: Final = """
    (call $out (i32.const 2) (i32.const 4096) (local.get $length))
    (block $done (loop $next
      (br_if $done (i32.ge_u (local.get $i) (local.get $length)))
      (i32.store8 (i32.add (i32.const 4096) (local.get $i))
        (i32.sub (i32.load8_u (i32.add (i32.const 4096) (local.get $i))) (i32.const 32)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br $next)))
    (call $out (i32.const 1) (i32.const 4096) (local.get $length))
    (call $exit (i32.const 5))
"""
# Numbers that differ in careless places: a NaN's bits, chance, the clock twice, and a long loop.
ODD: Final = """
    (f64.store (i32.const 64) (f64.div (f64.sqrt (f64.const -1)) (f64.const 0)))
    (drop (call $random (i32.const 72) (i32.const 40)))
    (drop (call $clock (i32.const 0) (i64.const 0) (i32.const 112)))
    (drop (call $clock (i32.const 1) (i64.const 0) (i32.const 120)))
    (loop $l
      (local.set $f (f64.add (f64.mul (local.get $f) (f64.const 0.999)) (f64.const 0.1)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $l (i32.lt_u (local.get $i) (i32.const 1000000))))
    (f64.store (i32.const 128) (local.get $f))
    (call $out (i32.const 1) (i32.const 64) (i32.const 72))
"""
ENDLESS: Final = "(loop $l (br $l))"
DEEP: Final = FRAME.replace("BODY))", ") (func $deep (call $deep)) (start $deep))")
# The results of growing by 48 MiB and by 256 MiB, in pages.
GROW: Final = """
    (i32.store (i32.const 64) (memory.grow (i32.const 768)))
    (i32.store (i32.const 68) (memory.grow (i32.const 4096)))
    (call $out (i32.const 1) (i32.const 64) (i32.const 8))
"""
# The error numbers of opening a file, of writing to another descriptor, of reading to no address.
REFUSED: Final = """
    (i32.store (i32.const 64) (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 1)
      (i32.const 0) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 128)))
    (i32.store (i32.const 68)
      (call $fd_write (i32.const 3) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 72)
      (call $fd_read (i32.const 0) (i32.const -8) (i32.const 1) (i32.const 8)))
    (call $out (i32.const 1) (i32.const 64) (i32.const 12))
"""
# Sleeps an hour by the clock of the module, and tells the clock before and after.
SLEEP: Final = """
    (drop (call $clock (i32.const 0) (i64.const 0) (i32.const 64)))
    (i64.store (i32.const 152) (i64.const 3600000000000))
    (drop (call $poll (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 512)))
    (drop (call $clock (i32.const 0) (i64.const 0) (i32.const 72)))
    (call $out (i32.const 1) (i32.const 64) (i32.const 16))
"""
ARGUMENTS: Final = """
    (drop (call $sizes (i32.const 64) (i32.const 68)))
    (drop (call $args (i32.const 1024) (i32.const 2048)))
    (call $out (i32.const 1) (i32.const 2048) (i32.load (i32.const 68)))
"""
FLOOD: Final = "(loop $l (call $out (i32.const 1) (i32.const 0) (i32.const 65536)) (br $l))"
