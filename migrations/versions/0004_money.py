"""Withdrawals with where they go; what vouchers have brought a lease."""

from typing import Final

from alembic import op

revision: Final = "0004"
down_revision: Final = "0003"
branch_labels: Final = None
depends_on: Final = None

CREATE: Final = (
    """CREATE TABLE withdrawals (
    transfer UUID NOT NULL,
    party TEXT NOT NULL,
    amount NUMERIC(39, 0) NOT NULL,
    destination TEXT NOT NULL,
    statement TEXT NOT NULL,
    asked_ms BIGINT NOT NULL,
    decision TEXT,
    memo TEXT DEFAULT '' NOT NULL,
    decided_ms BIGINT DEFAULT 0 NOT NULL,
    CONSTRAINT pk_withdrawals PRIMARY KEY (transfer),
    CONSTRAINT ck_withdrawals_party_64_digits CHECK (length(party) = 64)
)""",
    "CREATE INDEX ix_withdrawals_asked ON withdrawals (asked_ms, transfer)",
    "CREATE INDEX ix_withdrawals_party ON withdrawals (party, asked_ms, transfer)",
    """CREATE INDEX ix_withdrawals_undecided ON withdrawals (asked_ms, transfer)
    WHERE decision IS NULL""",
    "ALTER TABLE leases ADD COLUMN vouched NUMERIC(39, 0) DEFAULT 0 NOT NULL",
)

DROP: Final = (
    "ALTER TABLE leases DROP COLUMN vouched",
    "DROP TABLE withdrawals",
)


def upgrade() -> None:
    for statement in CREATE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DROP:
        op.execute(statement)
