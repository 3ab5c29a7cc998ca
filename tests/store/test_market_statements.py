"""Every statement of the market is one that PostgreSQL takes as it stands."""

import pytest

from market.store.items import STATEMENTS
from settlement.store.database import Database, driver


@pytest.mark.parametrize("name", sorted(STATEMENTS))
async def test_registered_statements_prepare(database: Database, name: str) -> None:
    async def prepare(transaction: object) -> object:
        connection = await driver(transaction)  # type: ignore[arg-type]
        return await connection.prepare(STATEMENTS[name])

    assert await database.run(prepare)
