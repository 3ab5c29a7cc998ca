"""WASM modules in real sandboxes: one result and one count of fuel, wherever and whenever they run."""

import struct
from typing import Final

import pytest

from compute.executors.executor import ChunkOutcome
from compute.executors.local import LocalExecutor
from compute.sandbox import runner_wasm
from market.sdk import results
from market.sdk.results import WasmResult
from market.wire import plain, programs
from tests.sandbox import modules
from tests.sandbox.leases import inputs, lease_of, values

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="session")]

RUNS: Final = 5
FUEL: Final = 10**9
MEMORY_MIB: Final = 64
HOUR_NS: Final = 3_600 * 10**9
CANONICAL_NAN: Final = 0x7FF8_0000_0000_0000


def code(module: bytes, *, arguments: tuple[str, ...] = (), fuel: int = FUEL) -> bytes:
    made = programs.WasmCode(
        module=module, arguments=list(arguments), fuel_max=fuel, memory_mib=MEMORY_MIB
    )
    return programs.encode(made)


def found(outcome: ChunkOutcome) -> list[WasmResult]:
    return [results.read("wasm", value) for value in values(outcome)]


async def one(executor: LocalExecutor, packed: bytes, body: bytes = b"") -> WasmResult:
    async with lease_of(executor, "wasm", packed) as opened:
        (result,) = found(await executor.run(opened, inputs(body)))
    return result


async def test_input_output_log_and_exit_code(executor: LocalExecutor) -> None:
    text = b"thequickbrownfox" * 5
    async with lease_of(executor, "wasm", code(modules.module(modules.CAPITALS))) as opened:
        outcome = await executor.run(opened, inputs(text, b"x"))
    long, short = found(outcome)
    assert (long.exit_code, long.stdout, long.trap) == (5, text.upper(), "")
    assert (short.exit_code, short.stdout) == (5, b"X")
    assert long.fuel > short.fuel > 0
    assert [task.log for task in outcome.tasks] == [text, b"x"]


async def test_fuel_and_bytes_are_the_same_in_every_sandbox(executor: LocalExecutor) -> None:
    packed = code(modules.module(modules.ODD))
    seen = set()
    for _ in range(RUNS):
        async with lease_of(executor, "wasm", packed) as opened:
            outcome = await executor.run(opened, inputs(b"same", b"same"))
        seen.add(tuple(task.output for task in outcome.tasks))
    assert len(seen) == 1
    first, second = (results.read("wasm", plain.decode(output)) for output in seen.pop())
    assert first.fuel == second.fuel > 1_000_000
    numbers = struct.unpack("<Q40sQQd", first.stdout)
    assert numbers[0] & ~(1 << 63) == CANONICAL_NAN
    assert numbers[3] - numbers[2] == runner_wasm.CLOCK_STEP_NS
    assert numbers[1] != struct.unpack("<Q40sQQd", second.stdout)[1]  # chance is each task's own


async def test_fuel_ends_what_does_not_end(executor: LocalExecutor) -> None:
    packed = code(modules.module(modules.ENDLESS), fuel=10**6)
    results_seen = [await one(executor, packed) for _ in range(2)]
    assert results_seen[0] == results_seen[1]
    assert "fuel" in results_seen[0].trap
    assert results_seen[0].fuel == 10**6


async def test_memory_and_stack_have_fixed_ends(executor: LocalExecutor) -> None:
    grown = await one(executor, code(modules.module(modules.GROW)))
    assert struct.unpack("<ii", grown.stdout) == (2, -1)  # 2 pages before; then refused
    deep = await one(executor, code(modules.module("", modules.DEEP)))
    assert "stack" in deep.trap
    assert deep == await one(executor, code(modules.module("", modules.DEEP)))


async def test_there_are_no_files_and_no_way_out_of_memory(executor: LocalExecutor) -> None:
    refused = await one(executor, code(modules.module(modules.REFUSED)))
    expected = (runner_wasm.NOSYS, runner_wasm.BADF, runner_wasm.FAULT)
    assert struct.unpack("<iii", refused.stdout) == expected


async def test_sleeping_takes_no_time(executor: LocalExecutor) -> None:
    slept = await one(executor, code(modules.module(modules.SLEEP)))
    before, after = struct.unpack("<QQ", slept.stdout)
    assert before == runner_wasm.CLOCK_START_NS
    assert after == before + runner_wasm.CLOCK_STEP_NS + HOUR_NS


async def test_arguments_arrive(executor: LocalExecutor) -> None:
    packed = code(modules.module(modules.ARGUMENTS), arguments=("--fast", "é"))
    assert (await one(executor, packed)).stdout == "module\0--fast\0é\0".encode()


async def test_more_output_than_is_taken_is_said(executor: LocalExecutor) -> None:
    packed = code(modules.module(modules.FLOOD))
    async with lease_of(executor, "wasm", packed) as opened:
        outcome = await executor.run(opened, inputs(b""))
    assert outcome.tasks[0].status == "output_exceeded"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('(module (import "env" "f" (func)) (func (export "_start")))', "env.f"),
        (f'(module (import "{runner_wasm.WASI}" "_init__" (func)))', "_init__"),
        ('(module (memory (export "memory") 1))', "_start"),
        ('(module (func (export "_start")))', "memory"),
        (
            '(module (import "wasi_snapshot_preview1" "m" (memory 1)) (func (export "_start")))',
            "preview1.m",
        ),
    ],
)
async def test_a_module_that_could_not_run_is_refused(
    executor: LocalExecutor, text: str, told: str
) -> None:
    packed = code(modules.module("", text))
    async with lease_of(executor, "wasm", packed) as opened:
        outcome = await executor.run(opened, inputs(b""))
    assert outcome.tasks[0].status == "error"
    assert told in str(plain.decode(outcome.tasks[0].output))
