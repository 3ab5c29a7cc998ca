"""The migrations make exactly the schema that the tables declare, step by step, there and back."""

import asyncio
import re
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncConnection

import market.store.tables  # noqa: F401 - registers the market's tables on the same metadata
from settlement.domain.errors import Unavailable
from settlement.store import migrate
from settlement.store.database import Database, driver
from settlement.store.tables import metadata

CATALOG: Final = """
WITH own AS (SELECT oid, relname, relkind, reloptions FROM pg_class
             WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'alembic%')
SELECT format('relation %s %s %s', relname, relkind, reloptions) FROM own
UNION ALL SELECT format('column %s.%s %s not null %s identity %s storage %s default %s', relname,
    attname, format_type(atttypid, atttypmod), attnotnull, attidentity, attstorage,
    pg_get_expr(adbin, adrelid))
  FROM own JOIN pg_attribute ON attrelid = own.oid AND attnum > 0 AND NOT attisdropped
  LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum WHERE relkind = 'r'
UNION ALL SELECT format('constraint %s.%s %s valid %s', relname, conname, pg_get_constraintdef(c.oid), convalidated)
  FROM own JOIN pg_constraint c ON conrelid = own.oid
UNION ALL SELECT format('index %s valid %s', pg_get_indexdef(indexrelid), indisvalid)
  FROM own JOIN pg_index ON indrelid = own.oid
UNION ALL SELECT format('trigger %s enabled %s', pg_get_triggerdef(t.oid), tgenabled)
  FROM own JOIN pg_trigger t ON tgrelid = own.oid AND NOT tgisinternal
UNION ALL SELECT 'function ' || pg_get_functiondef(oid)
  FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION ALL SELECT format('sequence %s %s from %s by %s up to %s cycle %s', relname, format_type(seqtypid, NULL),
    seqstart, seqincrement, seqmax, seqcycle)
  FROM own JOIN pg_sequence ON seqrelid = own.oid
UNION ALL SELECT 'row ' || clock::text FROM clock
"""
EMPTY_CATALOG: Final = CATALOG.rsplit("UNION ALL", 1)[0]
SCHEMA_CHANGES: Final = (
    "ALTER TABLE transfers DROP CONSTRAINT ck_transfers_two_accounts",
    """ALTER TABLE jobs DROP CONSTRAINT ck_jobs_state_known,
    ADD CONSTRAINT ck_jobs_state_known CHECK (state IN ('open', 'closed'))""",
    "ALTER TABLE jobs DROP CONSTRAINT ck_jobs_tasks_within_order",
    "ALTER TABLE tasks DROP CONSTRAINT fk_tasks_job_jobs",
    "DROP INDEX ix_jobs_live; CREATE INDEX ix_jobs_live ON jobs (state) WHERE state = 'open'",
    "DROP INDEX uq_outputs_result",
    "DROP TRIGGER transfers_append_only ON transfers",
    "ALTER TABLE transfers DISABLE TRIGGER transfers_append_only",
    """CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RETURN NULL; END $$""",
    "ALTER TABLE jobs ALTER COLUMN spent DROP DEFAULT",
    "ALTER TABLE jobs ALTER COLUMN spec DROP NOT NULL",
    "ALTER TABLE jobs ALTER COLUMN slots TYPE bigint",
    "ALTER TABLE jobs ADD COLUMN more int",
    "ALTER TABLE clock RESET (fillfactor)",
    "ALTER TABLE log_tiles ALTER COLUMN data SET STORAGE EXTENDED",
    "ALTER TABLE job_events ALTER COLUMN position DROP IDENTITY",
    "ALTER SEQUENCE result_positions INCREMENT BY 2",
    "DROP SEQUENCE result_positions",
    "UPDATE clock SET epoch = 1",
)


async def lines(url: str, catalog: str = CATALOG) -> list[str]:
    async def read(transaction: AsyncConnection) -> list[str]:
        return [row[0] for row in await (await driver(transaction)).fetch(catalog)]

    return sorted(await run(url, read))


async def run(url: str, work: Any) -> Any:
    database = Database(url, pool_size=1)
    try:
        return await database.run(work)
    finally:
        await database.close()


async def execute(url: str, statement: str) -> None:
    async def work(transaction: AsyncConnection) -> None:
        await (await driver(transaction)).execute(statement)

    await run(url, work)


async def test_migrations_make_what_the_tables_declare(empty_url: str, database_url: str) -> None:
    await migrate.on(empty_url, metadata.create_all)
    declared, migrated = await lines(empty_url), await lines(database_url)
    assert migrated == declared
    kinds = {line.split(" ", 1)[0] for line in declared}
    assert kinds == {
        "relation", "column", "constraint", "index", "trigger", "function", "sequence", "row",
    }  # fmt: skip


@pytest.mark.parametrize("change", SCHEMA_CHANGES)
async def test_the_comparison_sees(database_url: str, change: str) -> None:
    before = await lines(database_url)
    await execute(database_url, change)
    assert await lines(database_url) != before


async def test_alembic_sees_no_difference(database_url: str) -> None:
    await migrate.on(
        database_url,
        lambda connection: command.check(migrate.configuration(connection=connection)),
    )


def test_the_steps_are_one_line_of_numbers() -> None:
    steps = ScriptDirectory.from_config(migrate.configuration())
    assert len(steps.get_heads()) == 1
    numbers = [step.revision for step in steps.walk_revisions()][::-1]
    assert numbers == [f"{number:04}" for number in range(1, len(numbers) + 1)]
    assert migrate.head() == numbers[-1]
    files = sorted(path.name for path in (migrate.FOLDER / "versions").glob("*.py"))
    assert [name[:4] for name in files] == numbers
    assert all(re.fullmatch(r"\d{4}_[a-z_]+\.py", name) for name in files)


async def test_every_step_goes_back(empty_url: str) -> None:
    nothing = await lines(empty_url, EMPTY_CATALOG)
    before = nothing
    revisions = [
        step.revision
        for step in ScriptDirectory.from_config(migrate.configuration()).walk_revisions()
    ][::-1]
    for earlier, revision in zip(["base", *revisions], revisions, strict=False):
        await migrate.upgrade(empty_url, revision)
        assert await migrate.current(empty_url) == revision
        after = await lines(empty_url)
        assert after != before
        await migrate.downgrade(empty_url, earlier)
        assert await lines(empty_url, EMPTY_CATALOG) == [
            line for line in before if line[:4] != "row "
        ]
        await migrate.upgrade(empty_url, revision)
        assert await lines(empty_url) == after
        before = after
    await migrate.downgrade(empty_url, "base")
    assert await lines(empty_url, EMPTY_CATALOG) == nothing


async def test_upgrades_at_once_take_each_step_once(empty_url: str) -> None:
    program = (
        "import asyncio, sys; from settlement.store import migrate;"
        " asyncio.run(migrate.upgrade(sys.argv[1]))"
    )
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, empty_url, cwd=migrate.FOLDER.parent
        )
        for _ in range(3)
    ]
    assert [await process.wait() for process in processes] == [0] * 3
    assert await migrate.current(empty_url) == migrate.head()


async def test_a_failing_step_leaves_nothing(empty_url: str) -> None:
    await execute(empty_url, "CREATE TABLE jobs (a int)")  # in the second step's way
    with pytest.raises(Exception, match="already exists"):
        await migrate.upgrade(empty_url)
    assert await migrate.current(empty_url) is None
    assert len(await lines(empty_url, EMPTY_CATALOG)) == 2  # the table and its column


async def test_a_table_in_use_is_not_waited_for_long(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = (migrate.FOLDER / "env.py").read_text()
    (tmp_path / "env.py").write_text(environment.replace('LOCK_WAIT = "5s"', 'LOCK_WAIT = "50ms"'))
    (tmp_path / "versions").symlink_to(migrate.FOLDER / "versions")
    monkeypatch.setattr(migrate, "FOLDER", tmp_path)

    async def hold(transaction: AsyncConnection) -> None:
        await (await driver(transaction)).execute("LOCK TABLE charges")
        with pytest.raises(Unavailable, match="in use"):
            await migrate.downgrade(database_url, "0001")

    await database.run(hold)
    assert await migrate.current(database_url) == migrate.head()


async def test_a_schema_that_is_not_ours_is_named(empty_url: str) -> None:
    with pytest.raises(Unavailable, match="empty"):
        await migrate.check(empty_url)
    await migrate.upgrade(empty_url, "0001")
    with pytest.raises(Unavailable, match="0001"):
        await migrate.check(empty_url)
    await migrate.upgrade(empty_url)
    await migrate.check(empty_url)
