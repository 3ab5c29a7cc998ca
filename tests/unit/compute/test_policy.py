"""The policy as a command line, as limits, as groups, as a reservation and as usage."""

import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.domain.metering import Sample, usage
from compute.domain.placement import reservation
from compute.sandbox import bubblewrap, janitor, policy, rlimits
from compute.sandbox.cgroup import BackendV2, Reading
from compute.sandbox.cgroup_probe import detect
from compute.sandbox.policy import Ground, Limits

GROUND = Ground(
    bwrap=Path("/opt/bwrap"),
    python_home=Path("/opt/staged"),
    python_name="python3.11",
    protection="S",
    hardware={"OPENBLAS_CORETYPE": "Haswell"},
)
FDS = bubblewrap.Descriptors(channel=10, block=11, info=12, seccomp=13)


def line(limits: Limits) -> list[str]:
    return bubblewrap.command(GROUND, limits, FDS, "PROGRAM")


def test_the_line_confines_by_default() -> None:
    found = line(Limits())
    for wanted in (
        "--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session", "--clearenv",
    ):  # fmt: skip
        assert wanted in found
    assert "--share-net" not in found
    assert found[0] == "/opt/bwrap"
    assert found[-6:] == ["-I", "-S", "-B", "-u", "-c", "PROGRAM"]


def test_nothing_of_the_host_can_be_written() -> None:
    found = line(Limits())
    assert not {"--bind", "--bind-try", "--dev-bind"} & set(found)
    order = [found.index(part) for part in ("--dev", "--remount-ro")]
    assert order == sorted(order)
    assert found[found.index("--remount-ro") + 1] == "/dev"
    last = len(found) - 1 - found[::-1].index("--remount-ro")
    assert found[last + 1] == "/"
    assert last > found.index("--chdir")


def test_every_writable_folder_has_a_cap() -> None:
    found = line(Limits(scratch_mib=7))
    places = [i for i, part in enumerate(found) if part == "--tmpfs"]
    assert len(places) == 2
    for place in places:
        assert found[place - 2 : place] == ["--size", str(7 << 20)]


def test_the_environment_is_whole_and_fixed() -> None:
    found = line(Limits())
    names = {found[i + 1]: found[i + 2] for i, part in enumerate(found) if part == "--setenv"}
    assert names["PYTHONHASHSEED"] == "0"
    assert names["TZ"] == "UTC"
    assert {names[f"{lib}_NUM_THREADS"] for lib in ("OMP", "OPENBLAS", "MKL")} == {"1"}
    assert names["OPENBLAS_CORETYPE"] == "Haswell"


def test_limits_have_bounds() -> None:
    assert policy.within_bounds(Limits())
    assert policy.within_bounds(policy.LEAST)
    assert policy.within_bounds(policy.MOST)
    assert not policy.within_bounds(Limits(memory_mib=1))
    assert not policy.within_bounds(Limits(cpus_milli=10_000_000))


def test_without_a_group_the_process_limits_itself() -> None:
    limits = Limits(memory_mib=100, processes_max=9)
    grouped = dict(rlimits.pairs(limits, grouped=True, kernel=(6, 1)))
    alone = dict(rlimits.pairs(limits, grouped=False, kernel=(6, 1)))
    older = dict(rlimits.pairs(limits, grouped=False, kernel=(5, 4)))
    assert resource.RLIMIT_DATA not in grouped
    assert alone[resource.RLIMIT_DATA] == 100 << 20
    assert alone[resource.RLIMIT_NPROC] == 9
    assert resource.RLIMIT_NPROC not in older
    assert grouped[resource.RLIMIT_CORE] == 0


def test_groups_of_version_2_are_written_by_the_kernels_names(tmp_path: Path) -> None:
    backend = BackendV2(tmp_path)
    group = backend.make("1-2-3")
    group.limit(Limits(memory_mib=64, cpus_milli=500, processes_max=5))
    at = tmp_path / "1-2-3"
    assert (at / "memory.max").read_text() == str(64 << 20)
    assert (at / "pids.max").read_text() == "5"
    assert (at / "cpu.max").read_text() == "25000 50000"
    (at / "cpu.stat").write_text("usage_usec 12\nuser_usec 9\n")
    (at / "memory.peak").write_text("4096")
    (at / "memory.events").write_text("low 0\noom 1\noom_kill 2\n")
    assert group.read() == Reading(cpu_ns=12_000, memory_peak_bytes=4096, oom_kills=2)
    assert backend.names() == ["1-2-3"]


def test_without_any_mount_there_is_no_backend_but_a_reason(tmp_path: Path) -> None:
    mounts, own = tmp_path / "mounts", tmp_path / "cgroup"
    mounts.write_text("proc /proc proc rw 0 0\n")
    own.write_text("0::/\n")
    backend, reasons = detect(mounts, own)
    assert backend is None
    assert "no mount of memory" in reasons[-1]


def test_a_leftover_is_told_from_a_live_group() -> None:
    assert not janitor.is_left_over(janitor.group_name("7"))
    pid, _, rest = janitor.group_name("7").split("-")
    assert janitor.is_left_over(f"{pid}-1-{rest}")  # the pid was used again by another process
    assert not janitor.is_left_over("somebody-elses")
    assert not janitor.is_left_over("system.slice")


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 64))
def test_a_reservation_is_the_slot(cpus_milli: int, memory_mib: int, gpus: int) -> None:
    found = reservation(cpus_milli=cpus_milli, memory_mib=memory_mib, gpus=gpus)
    assert round(found.num_cpus * 1000) == cpus_milli
    assert found.memory_bytes == memory_mib << 20
    assert found.num_gpus == gpus


def test_a_negative_reservation_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        reservation(cpus_milli=-1, memory_mib=1, gpus=0)


def test_usage_is_rounded_up_once_over_all_samples() -> None:
    sample = Sample(cpu_ns=400_000, memory_peak_bytes=1 << 20, wall_ms=400)
    assert usage([sample, sample]).cpu_ms == 1
    assert usage([sample, sample]).memory_mib_s == 1
    assert usage([sample] * 3).cpu_ms == 2
    assert usage([]).cpu_ms == 0


def test_a_counter_that_runs_backwards_is_an_error() -> None:
    with pytest.raises(ValueError, match="backwards"):
        usage([Sample(cpu_ns=-1, memory_peak_bytes=0, wall_ms=0)])
