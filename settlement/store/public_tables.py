"""Tables of what the market says about itself: charter, state files, validators, cosignatures."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Integer,
    LargeBinary,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from settlement.store.tables import metadata

charter = Table(
    "charter",
    metadata,
    Column("one", Boolean, primary_key=True, autoincrement=False),
    Column("terms", LargeBinary, nullable=False),  # all but the time, canonical
    # after a takeover: statements since then are taken until then, though they are not fresh
    Column("grace_from_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("grace_until_ms", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("one", name="one_row"),
)
"""The terms of the last charter in the log, so that only a change makes a new one."""

state_files = Table(
    "state_files",
    metadata,
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("statement", LargeBinary, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("lines", LargeBinary, nullable=False),  # each ends in a newline
    CheckConstraint("size >= 0", name="size_not_negative"),
    CheckConstraint("octet_length(statement) = 32", name="statement_32_bytes"),
    CheckConstraint("octet_length(root) = 32", name="root_32_bytes"),
)
"""The newest state statements with their lines, from which balances are proven."""

validator_set = Table(
    "validator_set",
    metadata,
    Column("one", Boolean, primary_key=True, autoincrement=False),
    Column("members", ARRAY(Text), nullable=False),
    Column("quorum", Integer, nullable=False),
    CheckConstraint("one", name="one_row"),
    CheckConstraint("quorum >= 0 AND quorum <= cardinality(members)", name="quorum_of_members"),
)
"""Who cosigns, as the log says; empty until a first set is named."""

proposals = Table(
    "proposals",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("members", ARRAY(Text), nullable=False),
    Column("quorum", Integer, nullable=False),
    Column("approvals", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("state", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    CheckConstraint("state IN ('open', 'taken', 'dropped')", name="state_known"),
)
"""Sets of validators that the market proposed, and who of the present set approved."""

cosignatures = Table(
    "cosignatures",
    metadata,
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("validator", Text, primary_key=True),  # its verifier key
    Column("line", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)
