"""The systemd unit: parsed, held against what a sandbox needs, and read by systemd itself."""

import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from compute.daemon import notify
from compute.daemon.service_unit import NAME, Flavour, Service, check_user, place, text, write
from settlement.domain.errors import MisConfigured

FLAVOURS: list[Flavour] = ["system", "user"]
EXPOSURE_MOST = (
    6.5  # of 10, as systemd-analyze counts; root with what makes sandboxes has more than most
)
# Each of these takes something away that a sandbox is made with.
HARMFUL = {
    "ProtectKernelTunables": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectProc": "invisible",
    "ProcSubset": "pid",
    "ProtectControlGroups": "yes",
    "PrivateDevices": "yes",
    "RestrictNamespaces": "yes",
    "MemoryDenyWriteExecute": "yes",
    "PrivateUsers": "yes",
    "PrivateNetwork": "yes",
    "DynamicUser": "yes",
}


def service(flavour: Flavour, home: Path = Path("/var/lib/gridpact/provider")) -> Service:
    command = (sys.executable, "-m", "market.cli.main", "provider", "join")
    return Service(flavour, command, home, home.parent, 60.0)


def parsed(content: str) -> dict[str, dict[str, list[str]]]:
    """Sections, names, values: names may stand more than once."""
    sections: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for line in content.splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            section.setdefault(name, []).append(value)
    return sections


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_unit_says_what_it_must(flavour: Flavour) -> None:
    found = parsed(text(service(flavour)))
    unit = {name: values[-1] for name, values in found["Service"].items()}
    assert unit["Type"] == "notify"
    assert unit["ExecStart"].endswith("-m market.cli.main provider join")
    assert unit["TimeoutStopSec"] == "90"  # the drain, and time to prove all empty
    assert unit["KillMode"] == "mixed"
    assert unit["NoNewPrivileges"] == "yes"
    assert set(unit["Delegate"].split()) == {"cpu", "memory", "pids"}
    assert "GRIDPACT_PROVIDER_HOME=/var/lib/gridpact/provider" in found["Service"]["Environment"]
    wanted = "multi-user.target" if flavour == "system" else "default.target"
    assert found["Install"]["WantedBy"] == [wanted]
    assert ("ProtectSystem" in unit) == (flavour == "system")


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_nothing_takes_the_sandbox_its_tools(flavour: Flavour) -> None:
    unit = parsed(text(service(flavour)))["Service"]
    for name, value in HARMFUL.items():
        assert value not in unit.get(name, []), name
    for group in unit["SystemCallFilter"]:
        assert not set(group.lstrip("~").split()) & {"@mount", "@process", "@privileged", "@setuid"}
    families = set(unit["RestrictAddressFamilies"][0].split())
    assert families >= {"AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"}


def test_only_root_keeps_capabilities() -> None:
    root = service("system")
    other = Service("system", root.command, root.home, root.state, 60.0, user="gridpact")
    assert parsed(text(other))["Service"]["CapabilityBoundingSet"] == [""]
    assert "CAP_SYS_ADMIN" in parsed(text(root))["Service"]["CapabilityBoundingSet"][0]
    assert "CAP_SYS_MODULE" not in text(root)


@pytest.mark.parametrize(
    ("folder", "stands"),
    [
        ("/srv/my home", '"/srv/my home"'),
        ("/srv/100%", '"/srv/100%%"'),
        ('/srv/a"b', '"/srv/a\\"b"'),
    ],
)
def test_odd_paths_are_quoted(folder: str, stands: str) -> None:
    unit = parsed(text(service("system", Path(folder))))["Service"]
    assert stands in unit["ReadWritePaths"][0]


def test_a_line_break_in_a_path_adds_no_line() -> None:
    with pytest.raises(MisConfigured):
        text(service("system", Path("/srv/x\nExecStartPre=/bin/evil")))


def test_who_it_runs_as_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(MisConfigured, match="useradd"):
        check_user("no-such-user", Path(sys.executable))
    with pytest.raises(MisConfigured):
        check_user("root\nUser=x", Path(sys.executable))
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "python").touch()
    with pytest.raises(MisConfigured, match="cannot pass"):
        check_user("nobody", closed / "python")


def test_written_where_systemd_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = place("user")
    assert path == tmp_path / "systemd" / "user" / NAME
    write(path, "one")
    write(path, "two")
    assert path.read_text() == "two"
    assert [entry.name for entry in path.parent.iterdir()] == [NAME]
    assert place("system") == Path("/etc/systemd/system") / NAME


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_systemd_reads_it_without_a_complaint(tmp_path: Path, flavour: Flavour) -> None:
    path = tmp_path / NAME
    path.write_text(text(service(flavour)))
    ran = subprocess.run(
        ["systemd-analyze", "verify", f"--{flavour}", "--man=no", str(path)],
        capture_output=True, text=True, check=False,
        env={"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    told = [line for line in (ran.stdout + ran.stderr).splitlines() if NAME in line]
    assert told == []
    broken = tmp_path / f"broken-{NAME}"
    broken.write_text(path.read_text().replace("KillMode=mixed", "KillMode=mixd\nNoSuch=1"))
    ran = subprocess.run(
        ["systemd-analyze", "verify", f"--{flavour}", "--man=no", str(broken)],
        capture_output=True, text=True, check=False,
        env={"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert "NoSuch" in ran.stdout + ran.stderr  # it does look


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_finds_it_hardened(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_text(text(service("system")))
    ran = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--json=short", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unrecognized option" in ran.stderr:
        pytest.skip("this systemd-analyze cannot judge a file")
    rows = json.loads(ran.stdout)
    assert rows
    overall = re.search(
        r"([0-9.]+)",
        subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--no-pager", str(path)],
            capture_output=True, text=True, check=False,
        ).stdout.rpartition(":")[2],
    )  # fmt: skip
    assert overall is not None
    assert float(overall[1]) <= EXPOSURE_MOST


def test_systemd_is_told_where_it_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(notify.VARIABLE, raising=False)
    notify.notify(notify.READY)  # nobody listens
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "n"))
        monkeypatch.setenv(notify.VARIABLE, str(tmp_path / "n"))
        notify.notify(notify.READY)
        notify.notify(notify.STOPPING)
        assert (channel.recv(100), channel.recv(100)) == (b"READY=1", b"STOPPING=1")
