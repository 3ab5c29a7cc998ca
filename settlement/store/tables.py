"""Every settlement table with the database's own checks: the second look at each rule of money.

Triggers and functions are strings here, so that `create_all` and the migration run the same text.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    column,
    text,
)  # fmt: skip
from sqlalchemy.event import listen
from sqlalchemy.schema import DDL

from settlement.domain.ledger import TRANSIENT, PendingState, Purpose

NAMING: Final = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
AMOUNT_MAX_SQL: Final = "340282366920938463463374607431768211455"  # 2^128 - 1
APPEND_ONLY: Final = ("transfers", "failed", "batches", "statements", "checkpoints")

metadata: Final = MetaData(naming_convention=NAMING)
Amount: Final = Numeric(39, 0)


def _bytes32(name: str) -> CheckConstraint:
    return CheckConstraint(f"octet_length({name}) = 32", name=f"{name}_32_bytes")


def _amount(name: str) -> CheckConstraint:
    return CheckConstraint(f"{name} >= 0 AND {name} <= {AMOUNT_MAX_SQL}", name=f"{name}_in_range")


clock = Table(
    "clock",
    metadata,
    Column("one", Boolean, primary_key=True, autoincrement=False),
    Column("ts", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("log_size", BigInteger, nullable=False),
    Column("batch", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    CheckConstraint("one", name="one_row"),
    CheckConstraint("ts >= 0 AND seq >= 0 AND log_size >= 0 AND batch >= 0", name="not_negative"),
    postgresql_with={"fillfactor": 20},
)
"""The baton: whoever holds this row's lock makes the next batch."""

accounts = Table(
    "accounts",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=True),
    Column("owner", LargeBinary, nullable=False),
    Column("purpose", SmallInteger, nullable=False),
    Column("job", Uuid, nullable=True),
    Column("ledger", Integer, nullable=False),
    Column("flags", Integer, nullable=False),
    Column("dr_pending", Amount, nullable=False, server_default=text("0")),
    Column("dr_posted", Amount, nullable=False, server_default=text("0")),
    Column("cr_pending", Amount, nullable=False, server_default=text("0")),
    Column("cr_posted", Amount, nullable=False, server_default=text("0")),
    UniqueConstraint("owner", "purpose", "job", "ledger", postgresql_nulls_not_distinct=True),
    _bytes32("owner"),
    CheckConstraint(
        column("purpose").in_([purpose.value for purpose in Purpose]), name="purpose_known"
    ),
    CheckConstraint("ledger > 0", name="ledger_positive"),
    CheckConstraint("flags IN (0, 2, 4)", name="flags_known"),
    _amount("dr_pending"),
    _amount("dr_posted"),
    _amount("cr_pending"),
    _amount("cr_posted"),
    CheckConstraint(
        f"dr_pending + dr_posted <= {AMOUNT_MAX_SQL} AND cr_pending + cr_posted <= {AMOUNT_MAX_SQL}",
        name="sums_in_range",
    ),
    CheckConstraint(
        "(flags & 2) = 0 OR dr_pending + dr_posted <= cr_posted", name="debits_within_credits"
    ),
    CheckConstraint(
        "(flags & 4) = 0 OR cr_pending + cr_posted <= dr_posted", name="credits_within_debits"
    ),
    postgresql_with={"fillfactor": 50},
)

transfers = Table(
    "transfers",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("seq", BigInteger, nullable=False, unique=True),
    Column("dr", BigInteger, nullable=False),
    Column("cr", BigInteger, nullable=False),
    Column("amount", Amount, nullable=False),
    Column("pending_id", Uuid, nullable=True),
    Column("timeout_s", Integer, nullable=False),
    Column("ledger", Integer, nullable=False),
    Column("code", Integer, nullable=False),
    Column("flags", Integer, nullable=False),
    Column("ts", BigInteger, nullable=False),
    Column("cause", LargeBinary, nullable=False),
    CheckConstraint("dr <> cr", name="two_accounts"),
    _amount("amount"),
    CheckConstraint("timeout_s >= 0", name="timeout_not_negative"),
    CheckConstraint("ledger > 0 AND code > 0", name="ledger_and_code_positive"),
    CheckConstraint("flags >= 0 AND flags < 64", name="flags_known"),
    _bytes32("cause"),
    Index("ix_transfers_dr", "dr", "seq"),
    Index("ix_transfers_cr", "cr", "seq"),
)

pending = Table(
    "pending",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("status", SmallInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=True),
    CheckConstraint(
        column("status").in_([state.value for state in PendingState]), name="status_known"
    ),
    Index(
        "ix_pending_due",
        "expires_at",
        postgresql_where=text("status = 1 AND expires_at IS NOT NULL"),
    ),
    postgresql_with={"fillfactor": 70},
)

failed = Table(
    "failed",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("code", SmallInteger, nullable=False),
    CheckConstraint(
        column("code").in_(sorted(code.value for code in TRANSIENT)), name="code_known"
    ),
)
"""Burnt ids: transfers that failed transiently, and so may never succeed."""

batches = Table(
    "batches",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("seq_first", BigInteger, nullable=False),
    Column("seq_last", BigInteger, nullable=False),
    Column("ts_last", BigInteger, nullable=False),
    Column("events", Integer, nullable=False),
    CheckConstraint("seq_last >= seq_first - 1 AND events >= 0", name="range_in_order"),
)

statements = Table(
    "statements",
    metadata,
    Column("idx", BigInteger, primary_key=True, autoincrement=False),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("signer", LargeBinary, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    CheckConstraint("idx >= 0", name="idx_not_negative"),
    _bytes32("digest"),
    _bytes32("signer"),
    CheckConstraint("octet_length(envelope) BETWEEN 1 AND 65535", name="envelope_fits_a_tile"),
)
"""The log's entries; `idx` is the position, without gaps."""

log_tiles = Table(
    "log_tiles",
    metadata,
    Column("level", SmallInteger, primary_key=True, autoincrement=False),
    Column("idx", BigInteger, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
    CheckConstraint("level >= 0 AND idx >= 0", name="place_not_negative"),
    CheckConstraint(
        "octet_length(data) BETWEEN 32 AND 8192 AND octet_length(data) % 32 = 0",
        name="whole_hashes",
    ),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("root", LargeBinary, nullable=False),
    Column("note", Text, nullable=False),
    CheckConstraint("size >= 0", name="size_not_negative"),
    _bytes32("root"),
)

FUNCTIONS: Final = (
    """CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation'; END $$""",
    # Double entry, in O(batch): whatever one statement does to accounts must add up to nothing,
    # per ledger, posted and pending each. Accounts start at zero, so the sum over all is always zero.
    """CREATE FUNCTION accounts_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM (
      SELECT ledger, cr_posted - dr_posted AS posted, cr_pending - dr_pending AS pending FROM after_rows
      UNION ALL
      SELECT ledger, dr_posted - cr_posted, dr_pending - cr_pending FROM before_rows) AS change
    GROUP BY ledger HAVING sum(posted) <> 0 OR sum(pending) <> 0) THEN
    RAISE EXCEPTION 'debits and credits differ' USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NULL;
END $$""",
    """CREATE FUNCTION accounts_open_empty() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.dr_pending + NEW.dr_posted + NEW.cr_pending + NEW.cr_posted <> 0 THEN
    RAISE EXCEPTION 'an account opens empty' USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NEW;
END $$""",
    # A tile only ever grows: its old bytes are a prefix of its new ones.
    """CREATE FUNCTION tiles_only_grow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.level <> OLD.level OR NEW.idx <> OLD.idx
     OR substring(NEW.data FROM 1 FOR octet_length(OLD.data)) <> OLD.data THEN
    RAISE EXCEPTION 'a tile only grows' USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NEW;
END $$""",
    # The baton's numbers never go back.
    """CREATE FUNCTION clock_only_grows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.ts < OLD.ts OR NEW.seq < OLD.seq OR NEW.log_size < OLD.log_size
     OR NEW.batch < OLD.batch OR NEW.epoch < OLD.epoch THEN
    RAISE EXCEPTION 'the clock only grows' USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NEW;
END $$""",
)
FUNCTION_NAMES: Final = (
    "refuse_change", "accounts_balance", "accounts_open_empty", "tiles_only_grow", "clock_only_grows",
)  # fmt: skip


def _refuse(table: str, events: str, name: str) -> str:
    return (
        f"CREATE TRIGGER {table}_{name} BEFORE {events} ON {table}"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )


TRIGGERS: Final = (
    *(_refuse(name, "UPDATE OR DELETE OR TRUNCATE", "append_only") for name in APPEND_ONLY),
    *(
        _refuse(name, "DELETE OR TRUNCATE", "kept")
        for name in ("accounts", "pending", "log_tiles", "clock")
    ),
    (
        "CREATE TRIGGER accounts_balance AFTER UPDATE ON accounts REFERENCING OLD TABLE AS before_rows"
        " NEW TABLE AS after_rows FOR EACH STATEMENT EXECUTE FUNCTION accounts_balance()"
    ),
    (
        "CREATE TRIGGER accounts_open_empty BEFORE INSERT ON accounts"
        " FOR EACH ROW EXECUTE FUNCTION accounts_open_empty()"
    ),
    (
        "CREATE TRIGGER tiles_only_grow BEFORE UPDATE ON log_tiles"
        " FOR EACH ROW EXECUTE FUNCTION tiles_only_grow()"
    ),
    (
        "CREATE TRIGGER clock_only_grows BEFORE UPDATE ON clock"
        " FOR EACH ROW EXECUTE FUNCTION clock_only_grows()"
    ),
)
SEED: Final = (
    "INSERT INTO clock (one, ts, seq, log_size, batch, epoch) VALUES (true, 0, 0, 0, 0, 0)"
)
STORAGE: Final = (
    "ALTER TABLE log_tiles ALTER COLUMN data SET STORAGE EXTERNAL"  # hashes don't shrink
)

for _statement in (*FUNCTIONS, *TRIGGERS, SEED, STORAGE):
    # DDL formats its text with %, so a literal % is doubled
    listen(metadata, "after_create", DDL(_statement.replace("%", "%%")))  # type: ignore[no-untyped-call]
