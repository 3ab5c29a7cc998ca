"""The server's settings: environment → one frozen class."""

import stat
from pathlib import Path
from typing import Final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from settlement.domain.checkpoint import verifier_key
from settlement.domain.errors import BadKey, MisConfigured
from settlement.domain.identity import PrivateKey

LEDGER_KEY: Final = "ledger.key"  # signs leases, verdicts, releases, closes
LOG_KEY: Final = "log.key"  # signs checkpoints
OPERATOR_KEY: Final = "operator.key"  # issues tokens; kept on a server only for a faucet


class Settings(BaseSettings):
    """Every variable is documented in docs/reference/settings.md."""

    model_config = SettingsConfigDict(env_prefix="GRIDPACT_", frozen=True, extra="ignore")

    database_url: str = Field(
        default="", validation_alias="DATABASE_URL", description="PostgreSQL, as postgresql://…"
    )
    market: str = Field(
        default="gridpact.local/devstack",
        description="The log's origin: what every statement is signed for.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8410, ge=0, le=65535, description="Port to listen on.")
    authorities: str = Field(
        default="",
        description="host:port pairs that requests may be signed for, by commas; default host:port.",
    )
    keys_folder: Path = Field(
        default=Path("keys"), description="Folder of ledger.key, log.key, operator.key."
    )
    blobs_folder: Path = Field(
        default=Path("blobs"), description="Folder of large inputs and outputs."
    )
    hold_seconds: float = Field(
        default=3600.0, ge=0, description="Settlement hold: how long earnings may be taken back."
    )
    state_seconds: float = Field(
        default=30.0, gt=0, le=60, description="How often the state of all accounts is logged."
    )
    operator: str = Field(default="", description="Address that may issue tokens.")
    witnesses: str = Field(
        default="",
        description="Validators' addresses, by commas: asked at start what they saw of the log.",
    )
    devstack: bool = Field(default=False, description="Development stack: the faucet is open.")
    requests_a_second: float = Field(default=500.0, gt=0, description="Rate limit of one address.")
    log_json: bool = Field(default=False, description="Log lines as JSON.")

    def authority_set(self) -> frozenset[str]:
        given = [part.strip().lower() for part in self.authorities.split(",") if part.strip()]
        return frozenset(given or [f"{self.host}:{self.port}"])

    def witness_list(self) -> list[str]:
        return [part.strip() for part in self.witnesses.split(",") if part.strip()]

    def key(self, name: str) -> PrivateKey:
        """A key of the keys folder; refused when others may read it."""
        path = self.keys_folder / name
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            text = path.read_text()
        except OSError as error:
            raise MisConfigured(
                f"GRIDPACT_KEYS_FOLDER: {path.name} cannot be read: {error.strerror}"
            ) from None
        if mode & 0o077:
            raise BadKey(f"{path.name} may be read by others: chmod 600")
        return PrivateKey.from_hex(text)

    def log_key(self) -> str:
        """The verifier key of the market's log."""
        return verifier_key(self.market, self.key(LOG_KEY))

    def operator_key(self) -> PrivateKey | None:
        """Only a development stack holds the operator's key."""
        if not self.devstack:
            return None
        return self.key(OPERATOR_KEY)
