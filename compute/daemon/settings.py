"""The daemon's settings: environment variables GRIDPACT_PROVIDER_…, overridden by flags."""

from pathlib import Path
from typing import Final, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

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
    cpus: float | None = Field(None, gt=0, description="Cpus offered; without it all of them.")
    memory_mib: int | None = Field(
        None, gt=0, description="Memory offered; without it half of the machine's."
    )
    cpu_rate: int = Field(
        CPU_RATE, ge=0, le=RATE_MAX, description="Micro-credits per second of one cpu."
    )
    gib_rate: int = Field(
        GIB_RATE, ge=0, le=RATE_MAX, description="Micro-credits per second of one GiB."
    )
    executor: Literal["ray", "local"] = Field(
        "ray", description="`ray` runs slots on the provider's own Ray, `local` beside the daemon."
    )
    insecure_no_sandbox: bool = Field(
        default=False, description="Development only: run strangers' code without any protection."
    )
    drain_seconds: float = Field(
        DRAIN_SECONDS, ge=0, description="How long running chunks may go on after SIGTERM."
    )
    cache_mib: int = Field(CACHE_MIB, gt=0, description="Most that the cache of blobs may hold.")


def load(**flags: object) -> Settings:
    """From the environment; flags that were given (not None) come first."""
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]  # checked by pydantic itself
    except ValidationError as error:
        raise MisConfigured(_sentence(error)) from None


def _sentence(error: ValidationError) -> str:
    """One line for a person: which setting, what is wrong."""
    parts = [
        f"{PREFIX}{'_'.join(str(part) for part in problem['loc']).upper()}: {problem['msg']}"
        for problem in error.errors()
    ]
    return "; ".join(parts)
