"""Shares of a machine, the settings file, and who comes first: flag, environment, file, fallback."""

import stat
from pathlib import Path

import pytest

from compute.daemon import inventory, settings, settings_file, share
from settlement.domain.errors import MisConfigured
from settlement.domain.resources import Resources

WHOLE = Resources(8_000, 16_384, 0)


@pytest.mark.parametrize(
    ("said", "milli"),
    [("3.5", 3_500), (2, 2_000), ("50%", 4_000), ("12.5%", 1_000), ("100%", 8_000)],
)
def test_cpus(said: str | float, milli: int) -> None:
    assert share.cpus_milli(said, WHOLE.cpus_milli) == milli


@pytest.mark.parametrize(
    ("said", "mib"),
    [(1_024, 1_024), ("512MiB", 512), ("8GiB", 8_192), ("25%", 4_096), ("0.5GiB", 512)],
)
def test_memory(said: str | int, mib: int) -> None:
    assert share.memory_mib(said, WHOLE.memory_mib) == mib


@pytest.mark.parametrize("said", ["", "half", "0%", "101%", "-1", "1e3", "50 %", "nan", "٣"])
def test_what_is_no_share_is_named(said: str) -> None:
    with pytest.raises(MisConfigured):
        share.cpus_milli(said, WHOLE.cpus_milli)
    with pytest.raises(MisConfigured):
        share.memory_mib(said, WHOLE.memory_mib)


def test_the_machine_is_the_limit() -> None:
    assert inventory.capacity(WHOLE, cpus="25%", memory_mib="50%") == Resources(2_000, 8_192, 0)
    with pytest.raises(MisConfigured):
        inventory.capacity(WHOLE, cpus="25%", memory_mib="17GiB")


def test_the_file_survives_any_text(tmp_path: Path) -> None:
    values: dict[str, settings_file.Value] = {
        "name": 'a "b" \\ \n \x00 \x7f é 😀 # = [x]', "cpus": "50%", "cpu_rate": 7, "yield_when_load": 1.5,
        "insecure_no_sandbox": False,
    }  # fmt: skip
    path = settings_file.write(tmp_path / "home", values)
    assert settings_file.read(tmp_path / "home") == values
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_flag_environment_file_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDPACT_PROVIDER_HOME", str(tmp_path))
    written: dict[str, settings_file.Value] = {
        "url": "http://file", "name": "file", "cpu_rate": 1, "gib_rate": 1, "cpus": "50%",
    }  # fmt: skip
    settings_file.write(tmp_path, written)
    monkeypatch.setenv("GRIDPACT_PROVIDER_CPU_RATE", "2")
    monkeypatch.setenv("GRIDPACT_PROVIDER_GIB_RATE", "2")
    found = settings.load({"url": "http://fallback", "executor": "local"}, gib_rate=3, name=None)
    assert (found.url, found.name, found.executor) == ("http://file", "file", "local")
    assert (found.cpu_rate, found.gib_rate, found.cpus) == (2, 3, "50%")
    assert found.home == tmp_path


@pytest.mark.parametrize(
    "text",
    ["url = ", "home = '/tmp'\nurl = 'x'", "url = 'x'\nno_such = 1", "url = 'x'\ncpus = 'all'"],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / settings_file.SETTINGS_FILE
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(MisConfigured):
        settings.load(home=tmp_path)


def test_a_file_that_others_may_change_is_not_believed(tmp_path: Path) -> None:
    path = settings_file.write(tmp_path, {"url": "http://file"})
    path.chmod(0o622)
    with pytest.raises(MisConfigured, match="chmod 600"):
        settings.load(home=tmp_path)
