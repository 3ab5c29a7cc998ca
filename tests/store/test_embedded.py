"""Our own PostgreSQL: shared by its users, ended after the last, not ended by anybody's death."""

import asyncio
import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import psutil
import pytest

from settlement.domain.errors import MisConfigured, NoDatabase
from settlement.store import embedded, postgres_programs
from settlement.store.embedded import EmbeddedPostgres, database_url
from settlement.store.postgres_supervisor import Place, locked

ENDS_WITHIN_SECONDS: Final = 10.0
USER: Final = """
import signal, sys
from pathlib import Path
from settlement.store.embedded import EmbeddedPostgres
user = EmbeddedPostgres(Path(sys.argv[1]), fsync=False)
print(user.start(), flush=True)
signal.pause()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="gp-"))
    made.chmod(0o711)
    yield made / "pg"
    assert EmbeddedPostgres(made / "pg").ended(ENDS_WITHIN_SECONDS)
    until(lambda: not processes_of(made))
    shutil.rmtree(made)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Every process that names the folder in its command."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if any(str(folder) in part for part in command) and process.pid != os.getpid():
            found.append(process)
    return found


def one(folder: Path, mark: str) -> psutil.Process:
    (process,) = (p for p in processes_of(folder) if any(mark in part for part in p.cmdline()))
    return process


def until(true: Callable[[], Any]) -> None:
    while not true():
        time.sleep(0.02)


async def ask(url: str, statement: str) -> Any:
    connection: Any = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def user_process(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", USER, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(embedded.__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("postgresql://")
    return process


def kill(process: subprocess.Popen[str]) -> None:
    with process:
        process.kill()


async def test_it_is_what_we_need_and_keeps_its_data(folder: Path) -> None:
    async with EmbeddedPostgres(folder, fsync=False).running() as url:
        assert await ask(url, "SHOW server_encoding") == "UTF8"
        assert await ask(url, "SHOW data_checksums") == "on"
        assert await ask(url, "SHOW listen_addresses") == ""
        assert await ask(url, "SELECT 'é' < 'f'") is False  # by code point
        assert await ask(url, "SELECT upper('é')") == "É"
        assert int(await ask(url, "SHOW server_version_num")) >= 150000
        await ask(url, "CREATE TABLE kept (a int)")
        owner = (folder / "data").stat()
        assert owner.st_mode & 0o777 == 0o700
        assert owner.st_uid != 0
        assert (folder / "run").stat().st_mode & 0o777 == 0o700
    assert EmbeddedPostgres(folder).ended(ENDS_WITHIN_SECONDS)
    async with EmbeddedPostgres(folder).running() as url:
        assert await ask(url, "SELECT count(*) FROM kept") == 0
        assert await ask(url, "SHOW fsync") == "on"
        assert await ask(url, "SHOW synchronous_commit") == "on"
        assert await ask(url, "SHOW full_page_writes") == "on"


async def test_users_share_one_and_the_last_ends_it(folder: Path) -> None:
    first, second = EmbeddedPostgres(folder, fsync=False), EmbeddedPostgres(folder, fsync=False)
    url = first.start()
    started = await ask(url, "SELECT pg_postmaster_start_time()::text")
    assert second.start() == url
    first.stop()
    first.stop()  # nothing more happens
    assert not second.ended(1.0)
    assert await ask(url, "SELECT pg_postmaster_start_time()::text") == started
    second.stop()


async def test_a_killed_starter_does_not_end_it_for_others(folder: Path) -> None:
    starter = user_process(folder)
    with EmbeddedPostgres(folder).running() as url:
        kill(starter)
        await asyncio.sleep(1.0)  # the supervisor has looked several times
        assert await ask(url, "SELECT 1") == 1


def test_killed_users_leave_nothing_running(folder: Path) -> None:
    users = [user_process(folder) for _ in range(2)]
    assert processes_of(folder / "data")
    for user in users:
        kill(user)
    assert EmbeddedPostgres(folder).ended(ENDS_WITHIN_SECONDS)
    until(lambda: not processes_of(folder))


async def test_a_crashed_postgres_comes_back_with_its_data(folder: Path) -> None:
    with EmbeddedPostgres(folder).running() as url:
        await ask(url, "CREATE TABLE kept AS SELECT 7 AS a")
        postgres = one(folder, "listen_addresses")
        postgres.kill()
        postgres.wait(ENDS_WITHIN_SECONDS)
        again = EmbeddedPostgres(folder)
        assert again.start() == url  # waits until it answers
        assert await ask(url, "SELECT a FROM kept") == 7
        again.stop()


async def test_a_killed_supervisor_takes_postgres_along_and_is_replaced(folder: Path) -> None:
    with EmbeddedPostgres(folder).running() as url:
        await ask(url, "CREATE TABLE kept AS SELECT 7 AS a")
        one(folder, "postgres_supervisor").kill()
        until(lambda: not processes_of(folder))
        with EmbeddedPostgres(folder).running():
            assert await ask(url, "SELECT a FROM kept") == 7


async def test_an_interrupted_first_start_is_begun_anew(folder: Path) -> None:
    (folder / "data.partial").mkdir(parents=True)
    folder.chmod(0o711)
    (folder / "data.partial" / "PG_VERSION").write_text("1")
    with EmbeddedPostgres(folder, fsync=False).running() as url:
        assert await ask(url, "SELECT 1") == 1


def test_users_that_come_at_once_start_one(folder: Path) -> None:
    users = [
        subprocess.Popen(
            [sys.executable, "-c", USER, str(folder)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for user in users:
        assert user.stdout is not None
        assert user.stdout.readline().startswith("postgresql://")
    one(folder, "postgres_supervisor")
    one(folder, "listen_addresses")
    for user in users:
        kill(user)


async def test_whoever_comes_while_it_ends_gets_a_new_one(folder: Path) -> None:
    for _ in range(5):
        with EmbeddedPostgres(folder, fsync=False).running() as url:
            assert await ask(url, "SELECT 1") == 1
        await asyncio.sleep(0.21)  # about when the supervisor looks


def test_signals_to_the_starters_group_do_not_end_it(folder: Path) -> None:
    with EmbeddedPostgres(folder, fsync=False).running():
        supervisor = one(folder, "postgres_supervisor")
        assert os.getsid(supervisor.pid) != os.getsid(0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            supervisor.send_signal(number)
        time.sleep(0.5)
        assert supervisor.is_running()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_root_runs_it_as_another_user(folder: Path) -> None:
    with EmbeddedPostgres(folder, fsync=False).running():
        assert one(folder, "listen_addresses").uids().real == pwd.getpwnam("nobody").pw_uid


async def test_programs_below_a_closed_folder_are_copied(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = postgres_programs.find()
    if programs.wheel is None:
        pytest.skip("PostgreSQL comes from the system here")
    closed = folder / "closed"
    install = programs.folder.parent.relative_to(programs.wheel.parent)
    libraries = f"{programs.wheel.name}.libs"
    for name in (install, libraries):
        shutil.copytree(programs.wheel.parent / name, closed / name)
    (closed / programs.wheel.name / "__init__.py").touch()
    folder.chmod(0o711)
    closed.chmod(0o700)
    monkeypatch.setenv("PYTHONPATH", str(closed))  # there the supervisor finds the wheel first
    for _ in range(2):
        with EmbeddedPostgres(folder, fsync=False).running() as url:
            assert await ask(url, "SELECT 1") == 1
            runs = Path(one(folder, "listen_addresses").exe())
        assert EmbeddedPostgres(folder).ended(ENDS_WITHIN_SECONDS)
        if os.geteuid() == 0:  # else it runs where it lies
            copies = folder / "programs"
            assert runs.is_relative_to(copies)
            assert [path.name for path in copies.iterdir()] == [programs.version]


def test_no_programs_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(postgres_programs.PROGRAMS_VARIABLE, "/nonexistent")
    with pytest.raises(NoDatabase, match="was not found"):
        postgres_programs.find()
    with pytest.raises(NoDatabase, match="was not found"):
        EmbeddedPostgres(folder).start()


def test_data_of_another_version_is_left_alone(folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    folder.chmod(0o711)
    (folder / "data" / "PG_VERSION").write_text("9")
    with pytest.raises(NoDatabase, match="PostgreSQL 9, which made the data"):
        EmbeddedPostgres(folder).start()
    assert (folder / "data" / "PG_VERSION").read_text() == "9"


def test_a_place_that_cannot_work_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MisConfigured, match="too long"):
        EmbeddedPostgres(tmp_path / ("x" * 90)).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_place_that_the_other_user_cannot_reach_is_refused() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="gp-") as closed,  # mode 0700
        pytest.raises(MisConfigured, match="cannot reach"),
    ):
        EmbeddedPostgres(Path(closed) / "pg").start()


def test_the_environments_address_goes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(embedded.URL_VARIABLE, "postgresql://elsewhere/db")
    with database_url(folder) as url:
        assert url == "postgresql://elsewhere/db"
    assert not folder.exists()
    monkeypatch.delenv(embedded.URL_VARIABLE)
    with database_url(folder) as url:
        assert str(folder) in url
        with locked(Place(folder).users, fcntl.LOCK_EX) as unused:
            assert not unused
