"""Public log: charter, state files, validators, cosignatures; the time that vouchers have paid."""

from typing import Final

from alembic import op

revision: Final = "0003"
down_revision: Final = "0002"
branch_labels: Final = None
depends_on: Final = None

CREATE: Final = (
    """CREATE TABLE charter (
    one BOOLEAN NOT NULL,
    terms BYTEA NOT NULL,
    grace_from_ms BIGINT DEFAULT 0 NOT NULL,
    grace_until_ms BIGINT DEFAULT 0 NOT NULL,
    CONSTRAINT pk_charter PRIMARY KEY (one),
    CONSTRAINT ck_charter_one_row CHECK (one)
)""",
    """CREATE TABLE cosignatures (
    size BIGINT NOT NULL,
    validator TEXT NOT NULL,
    line TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    CONSTRAINT pk_cosignatures PRIMARY KEY (size, validator)
)""",
    """CREATE TABLE proposals (
    digest TEXT NOT NULL,
    members TEXT[] NOT NULL,
    quorum INTEGER NOT NULL,
    approvals TEXT[] DEFAULT '{}' NOT NULL,
    state TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    CONSTRAINT pk_proposals PRIMARY KEY (digest),
    CONSTRAINT ck_proposals_state_known CHECK (state IN ('open', 'taken', 'dropped'))
)""",
    """CREATE TABLE state_files (
    size BIGINT NOT NULL,
    statement BYTEA NOT NULL,
    root BYTEA NOT NULL,
    at_ms BIGINT NOT NULL,
    lines BYTEA NOT NULL,
    CONSTRAINT pk_state_files PRIMARY KEY (size),
    CONSTRAINT ck_state_files_size_not_negative CHECK (size >= 0),
    CONSTRAINT ck_state_files_statement_32_bytes CHECK (octet_length(statement) = 32),
    CONSTRAINT ck_state_files_root_32_bytes CHECK (octet_length(root) = 32)
)""",
    """CREATE TABLE validator_set (
    one BOOLEAN NOT NULL,
    members TEXT[] NOT NULL,
    quorum INTEGER NOT NULL,
    CONSTRAINT pk_validator_set PRIMARY KEY (one),
    CONSTRAINT ck_validator_set_one_row CHECK (one),
    CONSTRAINT ck_validator_set_quorum_of_members CHECK (quorum >= 0 AND quorum <= cardinality(members))
)""",
    "ALTER TABLE leases ADD COLUMN vouched_ms BIGINT DEFAULT 0 NOT NULL",
    "ALTER TABLE charges ALTER COLUMN attempt DROP NOT NULL",
)

DROP: Final = (
    "DELETE FROM charges WHERE attempt IS NULL",
    "ALTER TABLE charges ALTER COLUMN attempt SET NOT NULL",
    "ALTER TABLE leases DROP COLUMN vouched_ms",
    "DROP TABLE validator_set",
    "DROP TABLE state_files",
    "DROP TABLE proposals",
    "DROP TABLE cosignatures",
    "DROP TABLE charter",
)


def upgrade() -> None:
    for statement in CREATE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DROP:
        op.execute(statement)
