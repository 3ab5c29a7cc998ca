"""What holds on this machine and what does not: checks with a reason code, a meaning and a cure.

A check really tries the thing where that is possible: the class comes from a sandbox that ran.
"""

import email.utils
import os
import resource
import shutil
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

import aiohttp
import msgspec

from compute.daemon import inventory
from compute.executors.local import LocalExecutor
from market.sdk import wallet
from settlement.domain.errors import GridpactError

State = Literal["ok", "note", "warn", "fail"]

MILLI: Final = 1_000
GIB: Final = 1024**3
DISK_FAIL_BYTES: Final = 1 * GIB
DISK_WARN_BYTES: Final = 5 * GIB
FILES_LEAST: Final = 4_096
CLOCK_WARN_SECONDS: Final = 5.0
CLOCK_FAIL_SECONDS: Final = 25.0  # the market refuses signatures that lie 30 s ahead
ANSWER_SECONDS: Final = 10.0
LIVE_PATH: Final = "/livez"
STRONG: Final = "S"
USER_NAMESPACES: Final = (
    # file, the value that shuts them, how to open them
    ("/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=15000"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1",
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for bwrap",
    ),
)  # fmt: skip


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at. The code is stable; programs may rely on it."""

    code: str
    state: State
    found: str
    means: str
    cure: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The machine as a provider; `protection` is the class that its offers carry, empty for none."""

    cpus: float
    memory_mib: int
    state_folder: str
    ray: str
    protection: str
    environment: str
    reasons: list[str]
    cure: str
    checks: list[Check]

    @property
    def sound(self) -> bool:
        """Whether this machine may offer anything."""
        return bool(self.protection) and not any(check.state == "fail" for check in self.checks)


async def examine(state_folder: Path, *, key: Path | None = None, url: str | None = None) -> Report:
    """Lay the ground that the daemon would stand on, look at it, end it; then all around it."""
    whole = inventory.machine()
    protection, environment, reasons, error = await _ground(state_folder)
    checks = [
        *_sandbox(protection, reasons, error),
        user_namespaces(),
        disk(state_folder),
        open_files(),
        ray_there(),
        gvisor(),
        gpus(),
    ]
    if key is not None:
        checks.append(key_file(key))
    if url is not None:
        checks += await market(url)
    return Report(
        cpus=whole.cpus_milli / MILLI,
        memory_mib=whole.memory_mib,
        state_folder=str(state_folder),
        ray="installed" if find_spec("ray") else "missing: install gridpact[provider]",
        protection=protection,
        environment=environment,
        reasons=reasons if error is None else [error.detail],
        cure="" if error is None else error.cure,
        checks=checks,
    )


async def _ground(state_folder: Path) -> tuple[str, str, list[str], GridpactError | None]:
    executor = LocalExecutor(state_folder)
    try:
        await executor.start()
        return (
            executor.protection, executor.environment.digest, list(executor.ground.reasons), None,
        )  # fmt: skip
    except GridpactError as error:
        return "", "", [], error
    finally:
        await executor.shutdown()


def _sandbox(protection: str, reasons: list[str], error: GridpactError | None) -> list[Check]:
    """The class, and what keeps it from being better."""
    if error is not None:
        nothing = Check(
            code="sandbox-none", state="fail", found=error.detail, cure=error.cure,
            means="No sandbox runs here, so that nothing is offered: strangers' code would be free.",
        )  # fmt: skip
        return [nothing]
    if protection == STRONG:
        strong = Check(
            code="sandbox-strong", state="ok", found="a sandbox ran a task: class S",
            means="Namespaces, system call filter and control groups hold strangers' code.",
        )  # fmt: skip
        return [strong, *(_less(reason) for reason in reasons)]
    reduced = Check(
        code="sandbox-reduced", state="warn", found=f"a sandbox ran a task: class {protection}",
        means="Memory of several processes and cpu time are not limited or metered by the kernel;"
        " jobs that demand class S pass this machine by.",
        cure="Give the daemon control groups: `gridpact provider install-service` does.",
    )  # fmt: skip
    return [reduced, *(_less(reason) for reason in reasons)]


def _less(reason: str) -> Check:
    """A reason of the ground's own, with a code by what it is about."""
    if "control group" in reason:
        return Check(
            code="cgroups", state="warn", found=reason,
            means="Control groups of this kind cannot be made by this user.",
            cure="Run the daemon as the service of install-service, whose unit delegates them.",
        )  # fmt: skip
    if "bubblewrap" in reason:
        return Check(
            code="bubblewrap", state="note", found=reason, means="Another bubblewrap was taken.",
            cure="Nothing, or install the distribution's package bubblewrap.",
        )  # fmt: skip
    return Check(
        code="sandbox-note", state="note", found=reason, means="The sandbox is not at its best.",
        cure="See docs/threat-model.md.",
    )  # fmt: skip


def user_namespaces() -> Check:
    """Ordinary users need them for any sandbox; root does not."""
    shut = [
        (name, cure) for name, value, cure in USER_NAMESPACES if _line(Path(name)) == value
    ]  # fmt: skip
    if not shut:
        return Check(
            code="userns", state="ok", found="allowed",
            means="An ordinary user can make sandboxes.",
        )  # fmt: skip
    root = os.geteuid() == 0
    return Check(
        code="userns", state="note" if root else "warn",
        found="; ".join(name for name, _ in shut),
        means="Ordinary users cannot make user namespaces, and so no sandbox"
        + (": the daemon must stay root." if root else "."),
        cure="; ".join(cure for _, cure in shut),
    )  # fmt: skip


def disk(state_folder: Path) -> Check:
    """Room for environments, blobs, the journal."""
    folder = next(part for part in (state_folder, *state_folder.parents) if part.exists())
    free = shutil.disk_usage(folder).free
    state: State = "ok"
    if free < DISK_WARN_BYTES:
        state = "fail" if free < DISK_FAIL_BYTES else "warn"
    return Check(
        code="disk", state=state, found=f"{free / GIB:.1f} GiB free in {state_folder}",
        means="Environments, inputs and the journal lie there; a full disk loses leases.",
        cure="" if state == "ok" else "Free some room, or name another folder by GRIDPACT_HOME.",
    )  # fmt: skip


def open_files() -> Check:
    """Each lease takes a handful."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft == resource.RLIM_INFINITY or soft >= FILES_LEAST
    return Check(
        code="open-files", state="ok" if enough else "warn", found=f"{soft} allowed",
        means="Many leases at a time need many descriptors.",
        cure="" if enough else f"ulimit -n {FILES_LEAST}, or LimitNOFILE= of the service.",
    )  # fmt: skip


def ray_there() -> Check:
    """What holds slots, unless the daemon is told to do without."""
    there = find_spec("ray") is not None
    return Check(
        code="ray", state="ok" if there else "warn",
        found="installed" if there else "not installed",
        means="Ray holds the slots of this machine and of others beside it.",
        cure="" if there else "Install gridpact[provider], or run with --executor local.",
    )  # fmt: skip


def gvisor() -> Check:
    """The stronger class is offered where its runtime is."""
    program = shutil.which("runsc")
    return Check(
        code="gvisor", state="ok" if program else "note", found=program or "runsc is not installed",
        means="Class G, a kernel of its own for each sandbox, needs it.",
        cure="" if program else "Install gVisor (runsc) if jobs of class G are to come here.",
    )  # fmt: skip


def gpus() -> Check:
    """Device nodes; whether they work is the driver's matter."""
    found = sorted(node.name for node in Path("/dev").glob("nvidia[0-9]*"))
    return Check(
        code="gpu", state="ok" if found else "note", found=", ".join(found) or "none",
        means="Devices that a lease may be given, whole and alone.",
    )  # fmt: skip


def key_file(path: Path) -> Check:
    """The key that signs offers and receipts."""
    means = "It signs offers and receipts, and is paid; nobody else may read it."
    try:
        wallet.load_key(path)
    except GridpactError as error:
        missing = not path.exists()
        return Check(
            code="key", state="note" if missing else "fail", found=error.detail, means=means,
            cure="`gridpact provider init` makes one." if missing else f"chmod 600 {path}",
        )  # fmt: skip
    return Check(code="key", state="ok", found=str(path), means=means)


async def market(url: str) -> list[Check]:
    """Whether it answers, and whether its clock agrees with ours."""
    means = "Offers, leases and pay go through the market; the daemon only calls out."
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url.rstrip("/") + LIVE_PATH) as answer,
        ):
            told, status = answer.headers.get("Date", ""), answer.status
            here = time.time()
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        return [
            Check(
                code="market", state="fail", found=f"{url}: {str(error) or type(error).__name__}",
                means=means, cure="Check the address, the network, and that the market runs.",
            )
        ]  # fmt: skip
    found = Check(code="market", state="ok", found=f"{url} answers ({status})", means=means)
    return [found, clock(told, here)]


def clock(told: str, here_seconds: float) -> Check:
    """This machine's clock against the date in an answer, which is cut to whole seconds."""
    means = "Signatures carry the time; the market refuses those that lie too far away."
    try:
        apart = here_seconds - email.utils.parsedate_to_datetime(told).timestamp()
    except ValueError:
        return Check(
            code="clock", state="note", found="the market tells no time", means=means,
            cure="Keep this machine's clock right by NTP.",
        )  # fmt: skip
    state: State = "ok"
    if abs(apart) > CLOCK_WARN_SECONDS:
        state = "fail" if abs(apart) > CLOCK_FAIL_SECONDS else "warn"
    return Check(
        code="clock", state=state, found=f"{apart:+.0f} s from the market's", means=means,
        cure="" if state == "ok" else "Set the clock: timedatectl set-ntp true.",
    )  # fmt: skip


def _line(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
