"""`gridpact devstack`: a whole market on this machine by one command, and nothing of it left afterwards.

Programs use `Devstack`, which runs that command as a child:

    with Devstack(home=folder) as stack:
        gp.configure(url=stack.url, key=stack.consumer_key_path, home=folder)
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Annotated, Final, Self

import msgspec
import typer

from market.cli import follow
from market.cli.children import end_leftovers
from market.cli.connect import options_of
from market.cli.output import print_fields, print_table, say, short
from market.cli.stack import HOLD_SECONDS, ProviderInfo, Stack, StackInfo, Wish
from settlement.domain.errors import Failed, GridpactError, MisConfigured

STOP_SECONDS_MAX: Final = 60.0
STALE_DATABASE_SECONDS_MAX: Final = 10.0
DATABASE_FOLDER: Final = "postgres"

commands = typer.Typer(
    add_completion=False, help="Run a whole market on this machine; Ctrl-C ends it."
)


@commands.command("devstack")
def devstack(  # noqa: PLR0913, PLR0917 - a command line
    context: typer.Context,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what was there before.")] = False,
    providers: Annotated[int, typer.Option(min=1, max=8)] = 2,
    cpus: Annotated[int | None, typer.Option(min=1, help="Of each provider.")] = None,
    memory_mib: Annotated[int | None, typer.Option(min=1, help="Of each provider.")] = None,
    port: Annotated[int | None, typer.Option(help="Else 8410, or a free one.")] = None,
    hold_seconds: Annotated[float, typer.Option(help="Settlement hold.")] = HOLD_SECONDS,
    executor: Annotated[str | None, typer.Option(help="ray (as usual) or local.")] = None,
    insecure_no_sandbox: Annotated[
        bool, typer.Option("--insecure-no-sandbox", help="Development of Gridpact itself only.")
    ] = False,
) -> None:
    """Start database, server, worker, providers and a funded consumer."""
    options = options_of(context)
    wish = Wish(
        options.folder(),
        fresh,
        providers,
        cpus,
        memory_mib,
        port,
        hold_seconds,
        executor,
        insecure_no_sandbox,
    )

    def ready(info: StackInfo) -> None:
        if options.json:
            sys.stdout.write(json.dumps(msgspec.to_builtins(info)) + "\n")
            sys.stdout.flush()
        else:
            _print_ready(info)

    def remark(text: str) -> None:
        with suppress(OSError):  # nobody reads any more; the stack must still end in order
            say(options, text)

    run(wish, remark, ready)


def _print_ready(info: StackInfo) -> None:
    fields = {
        "url": info.url,
        "market": info.market,
        "consumer": info.consumer,
        "consumer_key": info.consumer_key,
        "state_folder": info.home,
    }
    print_fields(f"Ready after {info.seconds:.1f} s", fields)
    rows = [(p.name, short(p.address), p.pid, p.protection, p.home) for p in info.providers]
    print_table("Providers", ("name", "address", ">process", "class", "home"), rows)
    sys.stdout.write("The profile is set: `gridpact offers ls` works now. Ctrl-C ends it all.\n")
    sys.stdout.flush()


class Interrupted(BaseException):
    """A signal came while things were starting."""


class Signals:
    """The first signal asks for the end, the second for haste. While starting it interrupts."""

    def __init__(self) -> None:
        self.stop = False
        self.hurry = False
        self.interrupts = True
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._received)

    def _received(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.hurry, self.stop = self.stop, True
        if self.interrupts:
            self.interrupts = False
            raise Interrupted


def run(wish: Wish, say: Callable[[str], None], ready: Callable[[StackInfo], None]) -> None:
    """Start all, call `ready`, wait for SIGINT or SIGTERM, end all. Needs the main thread."""
    began = time.monotonic()
    wish.names()
    os.umask(0o022)  # other users run the parts below; what is secret has its own mode
    with _only_one(wish.home):
        follow.adopt_orphans()
        before = follow.descendants()
        signals = Signals()
        stack = Stack(wish, say, lambda: signals.hurry)
        try:
            if wish.fresh:
                _forget(stack.folder)
            stack.prepare()
            stack.start()
            _with_database(stack, signals, ready, began)
        except Interrupted:
            pass
        finally:
            signals.interrupts = False
            stack.stop()
            killed = end_leftovers(before)
            say(f"stopped{f' ({killed} leftover processes killed)' if killed else ''}")


def _with_database(
    stack: Stack, signals: Signals, ready: Callable[[StackInfo], None], began: float
) -> None:
    try:
        from settlement.store.embedded import database_url
    except ModuleNotFoundError as error:
        raise MisConfigured(
            f"{error.name} is missing: pip install 'gridpact[server,embedded,provider]'"
        ) from None
    with database_url(stack.folder / DATABASE_FOLDER) as url:
        try:
            stack.serve(url)
            ready(stack.settle_in(began))
            signals.interrupts = False
            stack.watch(lambda: signals.stop)
        finally:
            signals.interrupts = False
            stack.say("stopping …")
            stack.stop()  # before the database does


def _forget(folder: Path) -> None:
    """Delete what a former stack left, once the database of a killed one has ended."""
    if os.environ.get("DATABASE_URL"):
        raise MisConfigured("--fresh cannot empty the database of DATABASE_URL: unset it")
    database = folder / DATABASE_FOLDER
    if database.exists():
        from settlement.store.embedded import EmbeddedPostgres

        EmbeddedPostgres(database).ended(STALE_DATABASE_SECONDS_MAX)
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        raise MisConfigured(f"{folder} cannot be deleted")


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """One stack per state folder; the lock of a killed one is free by itself."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        file = (home / "devstack.lock").open("a+")
    except OSError as error:
        raise MisConfigured(f"the state folder {home} cannot be written: {error}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise MisConfigured(
                f"a devstack (process {file.read().strip() or '?'}) runs in {home} already;"
                " stop it, or give another --home"
            ) from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


class Devstack:
    """A stack for programs: a context manager around the command, with what it said of itself.

    Use it from a thread that lives as long as the stack; the stack ends when this process does.
    """

    def __init__(
        self,
        *,
        home: str | Path | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self._arguments = ["devstack", "--json", *arguments]
        if home is not None:
            self._arguments += ["--home", str(home)]
        self._process: subprocess.Popen[bytes] | None = None
        self._info: StackInfo | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def info(self) -> StackInfo:
        if self._info is None:
            raise Failed("the devstack is not running")
        return self._info

    @property
    def url(self) -> str:
        return self.info.url

    @property
    def home(self) -> Path:
        return Path(self.info.home)

    @property
    def consumer_key_path(self) -> Path:
        return Path(self.info.consumer_key)

    @property
    def providers(self) -> list[ProviderInfo]:
        return self.info.providers

    def start(self) -> None:
        """Start it; returns when everything is ready."""
        environment = {**os.environ, follow.VARIABLE: follow.token(signal.SIGTERM)}
        process = subprocess.Popen(
            [sys.executable, "-m", "market.cli.main", *self._arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            process_group=0,
        )
        self._process = process
        assert process.stdout is not None
        line = process.stdout.readline()  # the command itself gives up when it takes too long
        if not line:
            assert process.stderr is not None
            said = process.stderr.read().decode(errors="replace")
            self.stop()
            raise _failure(said)
        self._info = msgspec.json.decode(line, type=StackInfo)

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to a provider's daemon, `server` or `worker`; the process that got it."""
        pids = {provider.name: provider.pid for provider in self.providers}
        pids |= {"server": self.info.server_pid, "worker": self.info.worker_pid}
        os.kill(pids[name], number)
        return pids[name]

    def stop(self) -> None:
        """End it in order; nothing of it is left running."""
        process, self._process, self._info = self._process, None, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _failure(said: str) -> GridpactError:
    """The error that the command told on stderr."""
    for line in reversed(said.splitlines()):
        try:
            document = json.loads(line)
            return GridpactError.from_code(document["error"], document["detail"])
        except (ValueError, KeyError, TypeError):
            continue
    return Failed(f"the devstack did not start: {said[-2_000:]}")
