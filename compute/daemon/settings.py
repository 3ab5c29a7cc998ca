"""The daemon's settings: flags first, then GRIDPACT_PROVIDER_…, then the file in its home."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from compute.daemon import settings_file, share
from market.sdk.folders import state_folder
from settlement.domain.errors import MisConfigured

PREFIX: Final = "GRIDPACT_PROVIDER_"
CPU_RATE: Final = 200  # micro-credits per second of one cpu
GIB_RATE: Final = 20  # micro-credits per second of one GiB
RATE_MAX: Final = 10**12
DRAIN_SECONDS: Final = 30.0
CACHE_MIB: Final = 2048


class Settings(BaseSettings):
    """How a provider's daemon runs."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    url: str = Field(description="The market's address, for example http://127.0.0.1:8410.")
    name: str = Field(
        "provider", min_length=1, max_length=60, description="Shown beside the offer."
    )
    home: Path = Field(
        default_factory=lambda: state_folder() / "provider",
        description="Folder of this daemon alone: journal, cache of blobs, key.",
    )
    key: Path | None = Field(
        None, description="The key's file; without it HOME/provider.key, made at the first start."
    )
    cpus: float | str | None = Field(
        None, description="Cpus offered, a number or a part as `50%`; without it all of them."
    )
    memory_mib: int | str | None = Field(
        None,
        description="Memory offered: MiB, `8GiB`, or a part as `50%`; without it half of it.",
    )
    cpu_rate: int = Field(
        CPU_RATE, ge=0, le=RATE_MAX, description="Micro-credits per second of one cpu."
    )
    gib_rate: int = Field(
        GIB_RATE, ge=0, le=RATE_MAX, description="Micro-credits per second of one GiB."
    )
    gpu_rate: int = Field(0, ge=0, le=RATE_MAX, description="Micro-credits per second of one GPU.")
    executor: Literal["ray", "local"] = Field(
        "ray", description="`ray` runs slots on the provider's own Ray, `local` beside the daemon."
    )
    insecure_no_sandbox: bool = Field(
        default=False, description="Development only: run strangers' code without any protection."
    )
    drain_seconds: float = Field(
        DRAIN_SECONDS, ge=0, description="How long running chunks may go on after SIGTERM."
    )
    yield_when_load: float = Field(
        0,
        ge=0,
        description="Give the machine back while others than the daemon keep that many cpus busy; 0 is never.",
    )
    metrics_port: int = Field(
        0, ge=0, le=65_535, description="Prometheus figures on 127.0.0.1 at this port; 0 is off."
    )
    cache_mib: int = Field(CACHE_MIB, gt=0, description="Most that the cache of blobs may hold.")

    @field_validator("cpus", "memory_mib")
    @classmethod
    def _is_a_share(cls, value: float | str | None, field: ValidationInfo) -> float | str | None:
        """Its form; how much that is of this machine is found out later."""
        read = share.cpus_milli if field.field_name == "cpus" else share.memory_mib
        try:
            if value is not None and read(value, share.MILLI) <= 0:
                raise ValueError("must be above 0")
        except MisConfigured as error:
            raise ValueError(error.detail) from None
        return value


def home_of(home: Path | None) -> Path:
    """The daemon's folder: named here, else in the environment, else below the state folder."""
    named = os.environ.get(f"{PREFIX}HOME")
    return home or (Path(named) if named else state_folder() / "provider")


def load(fallback: Mapping[str, object] | None = None, /, **flags: object) -> Settings:
    """Flags that were given (not None), the environment, the home's file, then `fallback`."""
    given = {name: value for name, value in flags.items() if value is not None}
    home = given.get("home")
    kept = settings_file.read(home_of(home if isinstance(home, Path) else None))
    if "home" in kept:
        raise MisConfigured(f"{settings_file.SETTINGS_FILE} lies in its home and cannot name it")
    behind: dict[str, Any] = {**(fallback or {}), **kept}
    named = {name for name in behind if f"{PREFIX}{name.upper()}" in os.environ}
    behind = {name: value for name, value in behind.items() if name not in named}
    try:
        return Settings(**{**behind, **given})
    except ValidationError as error:
        raise MisConfigured(_sentence(error)) from None


def _sentence(error: ValidationError) -> str:
    """One line for a person: which setting, what is wrong."""
    parts = [
        f"{PREFIX}{'_'.join(str(part) for part in problem['loc']).upper()}: {problem['msg']}"
        for problem in error.errors()
    ]
    return "; ".join(parts)
