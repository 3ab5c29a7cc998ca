"""The daemon's figures for Prometheus, on loopback only, where the owner has named a port."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from compute.daemon.console import Snapshot
from settlement.domain.errors import MisConfigured

LOOPBACK: Final = "127.0.0.1"
PATH: Final = "/metrics"
TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
MIB: Final = 1024 * 1024
MILLI: Final = 1_000
STOP_SECONDS: Final = 1.0


class Figures:
    """Reads the daemon anew at each scrape; nothing is counted twice."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        """What Prometheus asks a registry for."""
        now = self._snapshot()
        gauges = (
            ("connected", "1 while the market is connected.", int(now.connected)),
            ("accepting", "1 while new leases are taken.", int(now.state == "serving")),
            ("leases", "Leases on this machine.", len(now.leases)),
            ("chunks_running", "Chunks in sandboxes.", now.running),
            ("answers_unacknowledged", "Answers that the market owes a word.", now.unacknowledged),
            ("capacity_cpus", "Cpus offered.", now.capacity.cpus_milli / MILLI),
            ("capacity_memory_bytes", "Memory offered.", now.capacity.memory_mib * MIB),
            ("capacity_gpus", "GPUs offered.", now.capacity.gpus),
            ("leased_cpus", "Cpus leased.", now.taken.cpus_milli / MILLI),
            ("leased_memory_bytes", "Memory leased.", now.taken.memory_mib * MIB),
            ("leased_gpus", "GPUs leased.", now.taken.gpus),
            ("rate_cpu_microcredits", "Price of a second of one cpu.", now.rates.cpu),
            ("rate_gib_microcredits", "Price of a second of one GiB.", now.rates.gib),
            ("rate_gpu_microcredits", "Price of a second of one GPU.", now.rates.gpu),
        )
        for name, meaning, value in gauges:
            yield GaugeMetricFamily(f"gridpact_provider_{name}", meaning, value=value)
        counters = (
            ("chunks", "Chunks run and signed.", now.chunks),
            ("tasks", "Tasks in signed chunks.", now.tasks),
            ("chunks_lost", "Chunks that brought no receipt.", now.lost),
            ("receipts_rejected", "Receipts that the market refused.", now.rejected),
            ("claimed_microcredits", "Claims that the market took.", int(now.earned)),
        )
        for name, meaning, value in counters:
            yield CounterMetricFamily(f"gridpact_provider_{name}", meaning, value=value)
        yield GaugeMetricFamily(
            "gridpact_provider_start_time_seconds",
            "When this daemon began to serve.",
            value=now.since_ms / MILLI,
        )


@asynccontextmanager
async def serving(port: int, snapshot: Callable[[], Snapshot]) -> AsyncIterator[None]:
    """Listen as long as the block runs; port 0 is off."""
    if not port:
        yield
        return
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Figures(snapshot))

    async def scrape(request: web.Request) -> web.Response:  # noqa: ARG001 - aiohttp's signature
        body = generate_latest(registry)
        return web.Response(body=body, headers={"Content-Type": TEXT})

    app = web.Application()
    app.router.add_get(PATH, scrape)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_SECONDS)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, LOOPBACK, port).start()
        except OSError as error:
            raise MisConfigured(f"metrics on {LOOPBACK}:{port}: {error.strerror}") from None
        yield
    finally:
        await runner.cleanup()
