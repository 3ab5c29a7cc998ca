"""Commands in real sandboxes: where the input goes, what comes back, and nothing that stays."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from compute.executors.executor import ChunkOutcome
from compute.executors.local import LocalExecutor
from compute.sandbox import runner_command
from market.sdk import archive, results
from market.sdk.results import CommandResult
from market.wire import plain, programs
from tests.sandbox.leases import MIXED, chunk, inputs, lease, lease_of, values

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="session")]

LEAVES_SOMETHING = r"""
import os, pathlib, subprocess, sys, time
places = [pathlib.Path("left"), pathlib.Path.home() / "left", pathlib.Path("/dev/shm/left")]
running = [p.name for p in pathlib.Path("/proc").iterdir() if p.name.isdigit()]
print([place.exists() for place in places], len(running), flush=True)
for place in places:
    place.write_text("here")
locked = pathlib.Path("locked/inner")
locked.mkdir(parents=True)
locked.joinpath("file").write_text("x")
locked.chmod(0)
locked.parent.chmod(0)
# of a session of its own, with our standard output held open
subprocess.Popen(["sleep", "3600"], start_new_session=True)
sys.exit(3)
"""


def code(arguments: Sequence[str], *, archived: bytes = b"", collect: Sequence[str] = ()) -> bytes:
    made = programs.CommandCode(
        arguments=list(arguments), archive=archived or archive.pack(None), collect=list(collect)
    )
    return programs.encode(made)


def found(outcome: ChunkOutcome) -> list[CommandResult]:
    return [results.read("command", value) for value in values(outcome)]


def archived(**files: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o755
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


async def test_a_script_reads_its_input_and_writes_results(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "factor").write_text("3")
    (tmp_path / "train.py").write_text(
        "import pathlib, sys, numpy\n"
        "factor = int(pathlib.Path('data/factor').read_text())\n"
        "value = int(sys.stdin.read())\n"
        "pathlib.Path('out').mkdir()\n"
        "pathlib.Path('out/model.txt').write_text(str(numpy.int64(value) * factor))\n"
        "pathlib.Path('out/link').symlink_to('/etc/passwd')\n"
        "print('trained', value)\n"
        "print('to the log', value, file=sys.stderr)\n"
    )
    packed = code(["python", "train.py"], archived=archive.pack(tmp_path), collect=["out/*"])
    async with lease_of(executor, "command", packed) as opened:
        outcome = await executor.run(opened, inputs(b"1", b"2"))
    assert found(outcome) == [
        CommandResult(0, b"trained 1\n", {"out/model.txt": b"3"}),
        CommandResult(0, b"trained 2\n", {"out/model.txt": b"6"}),
    ]
    assert [task.log for task in outcome.tasks] == [b"to the log 1\n", b"to the log 2\n"]
    assert outcome.protection == executor.protection


async def test_the_input_goes_where_the_words_say(executor: LocalExecutor) -> None:
    words = [
        "sh",
        "-c",
        'printf "%s|" "$@"; cat "$2"; cat',
        "sh",
        "a{input}b{index}",
        "{input_file}",
    ]
    async with lease_of(executor, "command", code(words)) as opened:
        outcome = await executor.run(opened, inputs("é {index} $(x)".encode(), first=4))
        bad = await executor.run(opened, inputs(b"\xff", b"zero\0byte"))
    (result,) = found(outcome)
    assert result.text == "aé {index} $(x)b4|/tmp/job/input|é {index} $(x)"
    assert [task.status for task in bad.tasks] == ["error", "error"]
    assert isinstance(plain.decode(bad.tasks[0].output), UnicodeDecodeError)


async def test_exit_codes_and_signals_are_results(executor: LocalExecutor) -> None:
    async with lease_of(executor, "command", code(["sh", "-c", "{input}"])) as opened:
        outcome = await executor.run(opened, inputs(b"exit 7", b"kill -9 $$", b"cat; exit 0"))
        killed = await executor.run(opened, inputs(b"kill -9 -1", b"echo next"))
    assert [result.exit_code for result in found(outcome)] == [7, 137, 0]
    assert [task.status for task in killed.tasks] == ["died", "ok"]  # the runner went along
    async with lease_of(executor, "command", code(["no-such-program"])) as opened:
        outcome = await executor.run(opened, inputs(b""))
    assert isinstance(plain.decode(outcome.tasks[0].output), FileNotFoundError)


async def test_nothing_stays_for_the_next_task(executor: LocalExecutor) -> None:
    packed = code(["python3", "-c", LEAVES_SOMETHING])
    async with lease_of(executor, "command", packed) as opened:
        outcome = await executor.run(opened, inputs(b"", b"", b"", timeout_ms=10_000))
    first, *later = found(outcome)
    assert first.exit_code == 3
    assert first.text.startswith("[False, False, False] ")
    assert later == [first, first]


async def test_a_command_ends_at_its_time_with_all_that_it_started(executor: LocalExecutor) -> None:
    packed = code(["sh", "-c", "setsid sleep 3600 & {input}"])
    async with lease_of(executor, "command", packed) as opened:
        outcome = await executor.run(opened, inputs(b"sleep 3600", b"echo next", timeout_ms=1_000))
    assert [task.status for task in outcome.tasks] == ["timeout", "ok"]
    assert plain.decode(outcome.tasks[1].output) == {
        "exit_code": 0,
        "files": {},
        "stdout": b"next\n",
    }


async def test_more_output_than_is_taken_is_said(executor: LocalExecutor) -> None:
    packed = code(["sh", "-c", "{input}"], collect=["*"])
    flood, files = b"cat /dev/zero", b"i=0; while [ $i -lt 1001 ]; do : > f$i; i=$((i+1)); done"
    async with lease_of(executor, "command", packed) as opened:
        outcome = await executor.run(opened, inputs(flood, b"echo after", files))
    assert [task.status for task in outcome.tasks] == ["output_exceeded", "ok", "output_exceeded"]
    assert str(runner_command.STDOUT_BYTES_MAX) in str(plain.decode(outcome.tasks[0].output))


@pytest.mark.parametrize("name", ["/etc/job", "../out", "a/../../b", "./a", "a//b"])
async def test_an_archive_that_leaves_its_folder_is_refused(
    executor: LocalExecutor, name: str
) -> None:
    packed = code(["true"], archived=archived(**{name: "x"}))
    async with lease_of(executor, "command", packed) as opened:
        outcome = await executor.run(opened, inputs(b""))
    assert outcome.tasks[0].status == "error"
    assert "not below its folder" in str(plain.decode(outcome.tasks[0].output))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
async def test_only_files_and_folders_are_unpacked(kind: bytes) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("odd")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(ValueError, match="no plain file or folder"):
        dict(runner_command.members(buffer.getvalue()))


async def test_kinds_do_not_mix(executor: LocalExecutor) -> None:
    async with lease_of(executor, "command", b"no msgpack map") as opened:
        outcome = await executor.run(opened, inputs(b""))
    assert outcome.tasks[0].status == "error"
    async with lease(executor, MIXED) as opened:
        assert values(await executor.run(opened, chunk(("echo", 1)))) == [1]
