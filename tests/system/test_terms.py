"""All processes of a market live by the same terms, which are its charter."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from market.http.running import running
from market.http.settings import LOG_KEY, Settings
from market.service import public
from settlement.domain.errors import MisConfigured
from settlement.domain.governance import Charter
from settlement.domain.identity import PrivateKey
from tests.system.running import Running
from tests.system.trading import logged

pytestmark = pytest.mark.system


def with_hold(settings: Settings, seconds: float) -> Settings:
    return settings.model_copy(update={"hold_seconds": seconds})


async def charters(api: Running) -> list[Charter]:
    return [said for said in await logged(api) if isinstance(said, Charter)]


async def test_processes_under_the_same_terms_share_one_charter(api: Running) -> None:
    async with running(api.settings), running(api.settings):
        assert len(await charters(api)) == 1


async def test_other_terms_wait_for_the_former_ones_to_end(
    api: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public, "CHANGE_TRIES", 2)
    with pytest.raises(MisConfigured, match="other processes still run under the former terms"):
        async with _opened(with_hold(api.settings, 7.0)):
            pass
    assert len(await charters(api)) == 1


async def test_another_key_does_not_go_on_with_a_log(api: Running) -> None:
    path = api.settings.keys_folder / LOG_KEY
    before = path.read_text()
    path.write_text(PrivateKey(b"\x66" * 32).to_hex())
    with pytest.raises(MisConfigured, match="begun with other keys"):
        async with _opened(api.settings):
            pass
    path.write_text(before)


async def test_new_terms_are_a_new_charter(database_url: str, settings: Settings) -> None:
    assert database_url in settings.database_url
    async with running(settings):
        pass
    async with running(with_hold(settings, 7.0)) as market:
        there = Running("", market, settings)
        assert [said.hold_ms for said in await charters(there)] == [200, 7_000]


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[None]:
    """As `running`, whose groups of tasks wrap what goes wrong in them."""
    try:
        async with running(settings):
            yield
    except* MisConfigured as errors:
        (error,) = _flat(errors)
        raise error from None


def _flat(errors: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in errors.exceptions:
        found += _flat(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
