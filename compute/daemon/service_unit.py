"""The systemd unit of a provider: as much hardening as leaves the sandbox its own tools.

What is left out on purpose, because a sandbox is made with it: namespaces and mounts
(`RestrictNamespaces`, `@mount`), an unmasked /proc (`ProtectKernelTunables`, `ProtectKernelLogs`,
`ProtectProc`, `ProcSubset`: the kernel lets nobody mount a new /proc who sees the old one in part),
writable control groups (`ProtectControlGroups`), devices that a lease may rent (`PrivateDevices`),
and memory that is written, then run (`MemoryDenyWriteExecute`), which numpy and WebAssembly need.
"""

import os
import pwd
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from compute.daemon import files
from settlement.domain.errors import MisConfigured

Flavour = Literal["user", "system"]

NAME: Final = "gridpact-provider.service"
SYSTEM_FOLDER: Final = Path("/etc/systemd/system")
STOP_GRACE_SECONDS: Final = 30  # to kill, prove empty and say so, after the drain
START_SECONDS: Final = 180  # a first start stages an environment and a Ray
RESTART_SECONDS: Final = 5
FILE_MODE: Final = 0o644
ROOT: Final = "root"
USER: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}\Z", re.ASCII)

# A slot's user, its group and its mounts are set up with these; everything else is given up.
ROOT_CAPABILITIES: Final = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_NET_ADMIN", "CAP_SETGID",
    "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_RESOURCE",
)  # fmt: skip

# Both flavours; a user's own service manager can apply these without rights.
COMMON: Final = (
    ("NoNewPrivileges", "yes"),
    ("UMask", "0077"),
    ("LockPersonality", "yes"),
    ("RestrictRealtime", "yes"),
    ("SystemCallArchitectures", "native"),
    ("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6 AF_NETLINK"),
    ("SystemCallFilter", "~@clock @cpu-emulation @module @obsolete @raw-io @reboot @swap"),
    ("SystemCallErrorNumber", "EPERM"),
    ("KeyringMode", "private"),
    ("LimitCORE", "0"),
    ("LimitNOFILE", "65536"),
)  # fmt: skip
# These need the system's service manager.
SYSTEM_ONLY: Final = (
    ("ProtectSystem", "strict"),
    ("ProtectHome", "read-only"),
    ("PrivateTmp", "yes"),
    ("ProtectClock", "yes"),
    ("ProtectHostname", "yes"),
    ("ProtectKernelModules", "yes"),
    ("RestrictSUIDSGID", "yes"),
    ("RemoveIPC", "yes"),
    ("ProtectControlGroups", "no"),
    ("RestrictNamespaces", "no"),
)


@dataclass(frozen=True)
class Service:
    """What the unit starts, and as whom. `home` is the provider's, `state` the state folder."""

    flavour: Flavour
    command: tuple[str, ...]
    home: Path
    state: Path
    drain_seconds: float
    user: str = ROOT


def text(service: Service) -> str:
    """The unit file."""
    system = service.flavour == "system"
    stop_seconds = round(service.drain_seconds) + STOP_GRACE_SECONDS
    lines = [
        "# Written by `gridpact provider install-service`; changes belong into a drop-in",
        "# (`systemctl edit`), which the next writing leaves alone.",
        "[Unit]",
        "Description=Gridpact provider: sells this machine's compute",
        "Documentation=man:systemd.exec(5)",
        "Wants=network-online.target",
        "After=network-online.target",
        "StartLimitIntervalSec=300",
        "StartLimitBurst=10",
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        f"ExecStart={' '.join(_word(word) for word in service.command)}",
        _environment("GRIDPACT_HOME", str(service.state)),
        _environment("GRIDPACT_PROVIDER_HOME", str(service.home)),
        _environment("PYTHONUNBUFFERED", "1"),
        "Restart=on-failure",
        f"RestartSec={RESTART_SECONDS}",
        f"TimeoutStartSec={START_SECONDS}",
        "# SIGTERM drains; what is left then is killed with all that it started.",
        f"TimeoutStopSec={stop_seconds}",
        "KillMode=mixed",
        "# Sandboxes get control groups of their own below the service's.",
        "Delegate=cpu memory pids",
    ]
    settings = COMMON + (SYSTEM_ONLY if system else ())
    if system:
        lines += [f"User={service.user}", *_rights(service)]
    lines += [f"{name}={value}" for name, value in settings]
    target = "multi-user.target" if system else "default.target"
    lines += ["", "[Install]", f"WantedBy={target}", ""]
    return "\n".join(lines)


def _rights(service: Service) -> list[str]:
    """The state folder alone can be written; only root keeps capabilities, and few."""
    kept = " ".join(ROOT_CAPABILITIES) if service.user == ROOT else ""
    folders = dict.fromkeys((service.state, service.home))
    return [
        f"CapabilityBoundingSet={kept}",
        f"ReadWritePaths={' '.join(_word(str(folder)) for folder in folders)}",
    ]


def place(flavour: Flavour) -> Path:
    """Where systemd looks for it."""
    if flavour == "system":
        return SYSTEM_FOLDER / NAME
    configured = os.environ.get("XDG_CONFIG_HOME")
    config = Path(configured) if configured else Path.home() / ".config"
    return config / "systemd" / "user" / NAME


def check_user(name: str, program: Path) -> None:
    """The user must be there, and be able to reach the interpreter."""
    if not USER.match(name):
        raise MisConfigured(f"{name!r} is no user's name")
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise MisConfigured(
            f"there is no user {name!r}: make it with `useradd --system {name}`"
        ) from None
    if entry.pw_uid == 0:
        return
    for folder in program.resolve().parents:
        status = folder.stat()
        if status.st_uid != entry.pw_uid and not status.st_mode & 0o001:
            raise MisConfigured(
                f"{name} cannot pass {folder} to {program}: install Gridpact where all users can"
                " reach it, for example below /opt"
            )


def write(path: Path, content: str) -> None:
    """Replace the unit in one step."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MisConfigured(f"{path}: {error.strerror}") from None
    files.replace(path, content, mode=FILE_MODE)


def _word(text_: str) -> str:
    """One word of a command line or a list, as systemd reads it back."""
    if any(mark in text_ for mark in "\n\r\0"):
        raise MisConfigured("a path with a line break cannot stand in a unit")
    escaped = text_.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    plain = escaped == text_ and not re.search(r"[\s';]", text_) and text_
    return text_ if plain else f'"{escaped}"'


def _environment(name: str, value: str) -> str:
    """Unlike a command line, an assignment takes dollar signs as they are."""
    return f"Environment={_word(f'{name}={value}').replace('$$', '$')}"
