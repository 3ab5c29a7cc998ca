"""`gridpact validator` and `gridpact log`: the real processes, what they print, and how they end."""

import asyncio
import json
import os
import signal
import stat
import sys
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
import pytest

from market.wire.public import SetValidators
from market.wire.trade import Moved
from settlement.domain import checkpoint, cosignature
from settlement.domain.identity import PrivateKey
from settlement.validator import files, main
from settlement.validator.files import read
from tests.system import hostile
from tests.system.running import Running, free_port

COMMAND: Final = (sys.executable, "-m", "market.cli.main")
NAME: Final = "validator.example/cli"


async def run(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def key_in(folder: Path) -> tuple[Path, str]:
    """A new validator's key file and verifier key."""
    file = folder / "validator.key"
    status, out, err = await run("validator", "init", str(file), "--name", NAME, "--json")
    assert status == 0, err
    return file, str(json.loads(out)["verifier_key"])


def arguments_for(url: str, key: Path, state: Path) -> list[str]:
    return [
        "validator", "run", "--market", url, "--log-key", hostile.LOG_KEY, "--key", str(key),
        "--state", str(state), "--interval", "0.05",
    ]  # fmt: skip


async def test_init_makes_a_private_key_once(tmp_path: Path) -> None:
    file, verifier_key = await key_in(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert cosignature.parse_verifier_key(verifier_key).name == NAME
    assert file.read_text().strip() not in verifier_key
    status, _, err = await run("validator", "init", str(file), "--name", NAME)
    assert status == 2
    assert "never overwritten" in err
    assert (await run("validator", "init", str(tmp_path / "b"), "--name", "two words"))[0] == 2


async def test_once_against_an_honest_and_a_lying_log(tmp_path: Path) -> None:
    key, verifier_key = await key_in(tmp_path)
    entries = hostile.entries_of(30)
    async with hostile.serving(entries) as market:
        arguments = [*arguments_for(market.url, key, tmp_path / "state"), "--once"]
        status, out, err = await run(*arguments, "--json")
        assert status == 0, err
        (log,) = json.loads(out)["logs"]
        assert (log["state"], log["cosigned_size"], log["published"]) == ("following", 30, "30: taken")  # fmt: skip
        assert cosignature.count(market.cosignatures[0], [verifier_key]) == 1
        market.show([*entries, hostile.issue(99, key=hostile.CONSUMER).envelope])
        status, out, err = await run(*arguments)
        assert status == 6
        assert "refused from now on: entry 30: tokens are issued by the operator alone" in err
        assert "refused" in out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--log-key", "nonsense"], "verifier key"),
        (["--listen", "nowhere"], "HOST:PORT"),
        (["--market", "http://127.0.0.1:1"], "needs its --log-key"),
        (["--key", "missing.key", "--name", NAME], "no key file"),
        (["--key", "missing.key"], "give --name"),
        (["--peer", "ftp://x"], "is not an address"),
    ],
)
async def test_what_is_wrong_is_said(tmp_path: Path, change: list[str], said: str) -> None:
    key, _ = await key_in(tmp_path)
    arguments = arguments_for("http://127.0.0.1:1", key, tmp_path / "state")
    if change[0] == "--log-key":
        at = arguments.index("--log-key")
        arguments[at : at + 2] = change
    else:
        arguments += change
    status, _, err = await run(*arguments, "--once")
    assert status == 2
    assert said in err
    assert "what to do" in err
    assert "Traceback" not in err


async def test_status_of_a_running_validator_and_a_gentle_end(tmp_path: Path) -> None:
    key, _ = await key_in(tmp_path)
    listen = f"127.0.0.1:{free_port()}"
    async with hostile.serving(hostile.entries_of(30)) as market:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, *arguments_for(market.url, key, tmp_path / "state"), "--listen", listen, "-q"
        )
        try:
            logs: list[dict[str, Any]] = []
            while not logs or logs[0]["cosigned_size"] < 30:
                assert process.returncode is None
                status, out, _ = await run("validator", "status", f"http://{listen}", "--json")
                logs = json.loads(out)["logs"] if status == 0 else []
            status, out, _ = await run("validator", "status", f"http://{listen}")
            assert status == 0
            assert hostile.ORIGIN in out
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert (await run("validator", "status", f"http://{listen}"))[0] == 5


async def test_kill_9_never_unsays_what_was_cosigned(tmp_path: Path) -> None:
    """Killed at ten moments while the log grows: sizes that the market was brought only grow."""
    key, verifier_key = await key_in(tmp_path)
    entries = hostile.entries_of(700)
    state = tmp_path / "state"
    stored = main.folder_of(state, hostile.LOG_KEY) / "cosigned"
    async with hostile.serving(entries[:20]) as market:
        for size in range(60, 660, 60):
            process = await asyncio.create_subprocess_exec(
                *COMMAND, *arguments_for(market.url, key, state), "-q"
            )
            heard = len(market.cosignatures)
            while len(market.cosignatures) == heard:
                assert process.returncode is None
                market.show(entries[:size])
                await asyncio.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
            note = read(stored)
            assert note is not None
            brought = checkpoint.head(market.cosignatures[-1]).size
            assert checkpoint.head(note.decode()).size >= brought  # it was stored before
        sizes = [checkpoint.head(line).size for line in market.cosignatures]
        assert sizes == sorted(sizes)
        assert all(cosignature.count(line, [verifier_key]) == 1 for line in market.cosignatures)
        market.show(entries)
        status, _, err = await run(*arguments_for(market.url, key, state), "--once")
        assert status == 0, err


async def test_a_mirror_ends_with_6_at_a_fork(tmp_path: Path) -> None:
    entries = hostile.entries_of(30)
    async with hostile.serving(entries) as market:
        arguments = ["log", "mirror", "--from-url", market.url, "--to", str(tmp_path), "--once"]
        status, _, err = await run(*arguments)
        assert status == 2
        assert "give --log-key" in err
        status, out, err = await run(*arguments, "--log-key", hostile.LOG_KEY, "--json")
        assert (status, json.loads(out)["entries"]) == (0, 30), err
        market.show([*entries[:9], hostile.payment(500).envelope, *entries[10:]])
        status, _, err = await run(*arguments)  # the key is known by now
        assert status == 6
        assert "split-view" in err
        assert "entry 9 was" in err
    assert files.read(tmp_path / "checkpoint") == hostile.static_files(entries)["checkpoint"]


async def test_a_validator_approves_its_successors(whole: Running, tmp_path: Path) -> None:
    key, member = await key_in(tmp_path)
    other = cosignature.verifier_key("other.example", PrivateKey(b"\x77" * 32))
    async with whole.client(PrivateKey(b"\x03" * 32)) as operator:
        await operator._write("POST", "/v1/validators", SetValidators([member], 1))
        answer = await operator._write("POST", "/v1/validators", SetValidators([other], 1))
    proposed = msgspec.json.decode(answer, type=Moved).statement
    arguments = ["validator", "approve-set", whole.url, proposed, "--key", str(key), "--yes"]
    status, out, err = await run(*arguments, "--json")
    assert status == 0, err
    assert json.loads(out)["digest"] == proposed
    async with aiohttp.ClientSession() as session, session.get(f"{whole.url}/v1/validators") as got:
        assert (await got.json())["members"] == [other]
    assert (await run(*arguments))[0] == 3  # once is enough, and it is no validator any more
    status, _, err = await run(*arguments[:3], "sha256:zz", *arguments[4:])
    assert (status, "is not a digest" in err) == (2, True)
