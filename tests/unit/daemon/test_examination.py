"""Doctor, bench and price: each check for itself, and figures that hold together."""

import email.utils
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from compute.daemon import bench, doctor, pricing
from compute.daemon.settings import CPU_RATE, GIB_RATE
from compute.executors.executor import SlotLost
from market.wire.trade import OfferView
from settlement.domain import canonical
from settlement.domain.errors import NoSandbox
from settlement.domain.resources import Rates, Resources
from tests.unit.daemon.fake_market import FakeMarket

NOW = 1_800_000_000.0


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.parametrize(
    ("seconds", "state"),
    [(0, "ok"), (4, "ok"), (-10, "warn"), (10, "warn"), (40, "fail"), (-40, "fail")],
)
def test_a_clock_that_is_off(seconds: int, state: str) -> None:
    told = email.utils.formatdate(NOW - seconds, usegmt=True)
    check = doctor.clock(told, NOW)
    assert (check.code, check.state) == ("clock", state)
    assert bool(check.cure) == (state != "ok")


def test_a_market_without_a_date() -> None:
    assert doctor.clock("", NOW).state == "note"


@pytest.mark.parametrize(("free_gib", "state"), [(100, "ok"), (3, "warn"), (0.5, "fail")])
def test_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_gib: float, state: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, int(free_gib * doctor.GIB)))
    assert doctor.disk(tmp_path / "not" / "there" / "yet").state == state


def test_a_key_that_others_may_read(tmp_path: Path) -> None:
    key = tmp_path / "key"
    assert doctor.key_file(key).state == "note"
    key.write_text("11" * 32)
    key.chmod(0o644)
    check = doctor.key_file(key)
    assert (check.state, check.cure) == ("fail", f"chmod 600 {key}")
    key.chmod(0o600)
    assert doctor.key_file(key).state == "ok"


@pytest.mark.parametrize(
    ("protection", "reasons", "codes"),
    [
        ("S", [], ["sandbox-strong"]),
        ("S", ["bubblewrap from the system: too old"], ["sandbox-strong", "bubblewrap"]),
        ("L", ["control groups v1: no mount"], ["sandbox-reduced", "cgroups"]),
    ],
)
def test_the_class_has_a_code(protection: str, reasons: list[str], codes: list[str]) -> None:
    assert [check.code for check in doctor._sandbox(protection, reasons, None)] == codes


def test_no_sandbox_is_a_failure_with_its_cure() -> None:
    (check,) = doctor._sandbox("", [], NoSandbox("bubblewrap was not found"))
    assert (check.code, check.state, check.cure) == ("sandbox-none", "fail", NoSandbox.cure)


async def test_the_market_is_asked() -> None:
    async with FakeMarket() as market:
        assert [(c.code, c.state) for c in await doctor.market(market.url)] == [
            ("market", "ok"), ("clock", "ok"),
        ]  # fmt: skip
        url = market.url
    assert [(c.code, c.state) for c in await doctor.market(url)] == [("market", "fail")]
    assert [c.state for c in await doctor.market("no address")] == ["fail"]


def test_user_namespaces_that_are_shut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = tmp_path / "max_user_namespaces"
    setting.write_text("0\n")
    monkeypatch.setattr(doctor, "USER_NAMESPACES", ((str(setting), "0", "open them"),))
    monkeypatch.setattr("os.geteuid", lambda: 1_000)
    check = doctor.user_namespaces()
    assert (check.state, check.cure) == ("warn", "open them")
    setting.write_text("1000\n")
    assert doctor.user_namespaces().state == "ok"


# ── bench ───────────────────────────────────────────────────────────────────────────────────


def test_figures_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "CPU_SECONDS", 0.02)
    assert bench.hashing(1) > 0
    assert bench.hashing(2) > 0
    assert bench.copying() > bench.writing(tmp_path / "new") * 0.01
    assert list((tmp_path / "new").iterdir()) == []


async def test_what_cannot_be_measured_is_a_note() -> None:
    async def fails() -> float:
        raise SlotLost("no Ray here")

    notes: list[str] = []
    assert await bench._noted(notes, "ray", fails()) is None
    assert notes == ["ray: no Ray here"]


# ── price ───────────────────────────────────────────────────────────────────────────────────


def offer(number: int, cpu: int, gib: int, *, connected: bool = True) -> OfferView:
    room = Resources(1_000, 1_024, 0)
    return OfferView(
        provider=f"{number:064x}", name="other", digest=canonical.digest(b""), capacity=room, free=room,
        rates=Rates(cpu, gib, 0), hourly="0", protection="S", environments=[], reputation=0.5, checks=0,
        connected=connected, expires_ms=1,
    )  # fmt: skip


def test_without_others_the_usual_price_by_speed() -> None:
    usual = pricing.suggest([], cpu_mib_s=None)
    assert (usual.rates, usual.offers) == (Rates(CPU_RATE, GIB_RATE, 0), 0)
    assert pricing.suggest([], cpu_mib_s=1.5 * pricing.USUAL_MIB_S).rates.cpu == CPU_RATE * 3 // 2
    assert pricing.suggest([], cpu_mib_s=1e9).rates.cpu == CPU_RATE * 2
    assert pricing.suggest([], cpu_mib_s=0.0).rates.cpu == CPU_RATE // 2


def test_others_that_are_there_make_the_price_one_s_own_does_not() -> None:
    own = f"{9:064x}"
    offers = [
        offer(1, 100, 10), offer(2, 300, 30), offer(3, 10**9, 50), offer(9, 1, 1),
        offer(4, 1, 1, connected=False),
    ]  # fmt: skip
    found = pricing.suggest(offers, cpu_mib_s=None, own=own)
    assert (found.rates, found.offers) == (Rates(300, 30, 0), 3)


def test_an_hour_less_the_fee() -> None:
    rates, room = Rates(200, 20, 0), Resources(2_000, 1_024, 0)
    assert pricing.hourly_microcredits(room, rates, fee_basis_points=500) == 420 * 3_600 * 95 // 100
