"""What every executor of a machine stands on: the staged environment, the spawner, its protection."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cloudpickle

from compute.executors.executor import Chunk, SlotLost, SlotSpec, Task
from compute.executors.slot import Slot
from compute.sandbox import bubblewrap
from compute.sandbox.messages import Setting
from compute.sandbox.policy import HARDWARE_VARIABLES, Limits
from compute.sandbox.spawner_client import SpawnerClient, SpawnerProcess
from compute.sandbox.staging import (
    StagedEnvironment,
    check_reachable,
    make_passable,
    stage_environment,
)
from market.domain.jobspec import protects
from market.wire import plain
from settlement.domain.errors import GridpactError, NoSandbox

SOCKET_NAME: Final = "spawner.sock"
SOCKET_PATH_BYTES_MAX: Final = 100
FOLDER_MODE: Final = 0o711  # its sockets ask for credentials; others may only pass through
TRIAL_LEASE: Final = "trial"
TRIAL_TIMEOUT_MS: Final = 20_000
TRIAL_ANSWER: Final = 42


@dataclass
class Ground:
    """A running spawner and a connection to it; `stop` ends all that it started."""

    environment: StagedEnvironment
    bwrap: Path | None
    process: SpawnerProcess
    client: SpawnerClient
    folder: Path
    reasons: tuple[str, ...]

    @property
    def protection(self) -> str:
        return self.process.ready.protection

    @property
    def alive(self) -> bool:
        return self.process.alive and not self.client.lost

    async def stop(self) -> None:
        """End the spawner and every sandbox."""
        self.client.close()
        await self.process.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


async def lay(
    state_folder: Path, *, guest_uid: int | None = None, insecure: bool = False, groups: bool = True,
    least: str = "none",
) -> Ground:  # fmt: skip
    """Stage, start the spawner, and see a sandbox of the class `least` work; refuse if none does."""
    make_passable(state_folder)
    if os.geteuid() == 0:
        check_reachable(state_folder)
    environment = stage_environment(state_folder)
    bwrap, reasons = bubblewrap.find(state_folder)
    if insecure:
        reasons.append("no sandbox was asked for")
    elif bwrap is None:
        raise NoSandbox("; ".join(reasons))
    folder = socket_folder(state_folder)
    setting = Setting(
        socket=str(folder / SOCKET_NAME),
        bwrap=None if insecure else str(bwrap),
        python_home=str(environment.home),
        python_name=environment.python_path.name,
        hardware={name: os.environ[name] for name in HARDWARE_VARIABLES if name in os.environ},
        guest_uid=guest_uid,
        groups=groups,
    )
    process = await SpawnerProcess.start(setting)
    try:
        client = await SpawnerClient.connect(process.socket_path)
    except BaseException:
        await process.stop()
        raise
    told = (*reasons, *process.ready.reasons)
    ground = Ground(environment, bwrap, process, client, folder, told)
    try:
        if not protects(ground.protection, least):
            raise SlotLost(f"class {least} was held before, now only {ground.protection}")
        await _trial(ground)
    except BaseException as error:  # a start that is cancelled leaves nothing either
        await ground.stop()
        if not isinstance(error, GridpactError):
            raise
        raise NoSandbox(f"a sandbox did not work on this machine: {error.detail}") from None
    return ground


async def _trial(ground: Ground) -> None:
    """One sandbox, one task, through the same door as strangers' code."""
    limits = Limits()
    spec = SlotSpec(
        lease=TRIAL_LEASE,
        environment=ground.environment.digest,
        cpus_milli=limits.cpus_milli,
        memory_mib=limits.memory_mib,
    )
    function = cloudpickle.dumps(lambda number: number * 2)
    slot = Slot(ground.client, spec, function, ground.protection)
    task = Task(0, cloudpickle.dumps(((TRIAL_ANSWER // 2,), {})))
    try:
        await slot.open()
        outcome = await slot.run(
            Chunk("trial", (task,), TRIAL_TIMEOUT_MS, TRIAL_TIMEOUT_MS, seed=0)
        )
    finally:
        await slot.close()
    found = outcome.tasks[0]
    if found.status != "ok" or plain.decode(found.output) != TRIAL_ANSWER:
        said = (found.output[-500:] + found.log[-500:]).decode(errors="replace")
        raise SlotLost(f"{found.status}: {said}")


def socket_folder(state_folder: Path) -> Path:
    """A new folder for sockets, below the state folder if their paths stay short enough there."""
    run = state_folder / "run"
    longest = len(os.fsencode(run)) + len(os.fsencode("/XXXXXXXX/")) + len(SOCKET_NAME)
    parent = None
    if longest < SOCKET_PATH_BYTES_MAX:
        make_passable(run)
        parent = run
    folder = Path(tempfile.mkdtemp(dir=parent, prefix="" if parent else "gridpact-"))
    folder.chmod(FOLDER_MODE)
    return folder


class Grounded:
    """What executors say of the ground they stand on, once `start` has laid it."""

    _ground: Ground | None = None

    @property
    def ground(self) -> Ground:
        if self._ground is None:
            raise SlotLost("the executor is not started")
        return self._ground

    @property
    def protection(self) -> str:
        return self.ground.protection

    @property
    def environment(self) -> StagedEnvironment:
        return self.ground.environment
