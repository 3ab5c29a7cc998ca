"""Every market table, on settlement's metadata; addresses and digests are their text forms.

States derive their CHECKs from the enums. No foreign key points at a row that the ledger's batch
would have to lock; the order within a batch is the engine's.
"""

from enum import StrEnum
from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Sequence,
    Table,
    Text,
    Uuid,
    column,
    text,
)  # fmt: skip

from market.domain.attempt import AttemptState, Purpose
from market.domain.interval import IntervalState
from market.domain.job import JobState
from market.domain.lease import LeaseState
from market.domain.order import OrderState
from settlement.store import public_tables
from settlement.store.tables import Amount, metadata

assert public_tables.charter.metadata is metadata  # they stand on one

RESULT_POSITIONS: Final = Sequence("result_positions", metadata=metadata)


class ChargeState(StrEnum):
    """Where a receipt's money stands: in the provider's hold, or its own."""

    CHARGED = "charged"
    RELEASED = "released"


def _known(name: str, states: type[StrEnum]) -> CheckConstraint:
    return CheckConstraint(
        column(name).in_([state.value for state in states]), name=f"{name}_known"
    )


def _address(name: str = "address", *, primary_key: bool = False) -> Column[str]:
    return Column(name, Text, primary_key=primary_key, nullable=False)


providers = Table(
    "providers",
    metadata,
    _address(primary_key=True),
    Column("name", Text, nullable=False),
    Column("connected", Boolean, nullable=False, server_default=text("false")),
    Column("session", Uuid, nullable=True),  # of the live control channel
    Column("draining", Boolean, nullable=False, server_default=text("false")),
    Column("seen_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("agreed", BigInteger, nullable=False, server_default=text("0")),
    Column("differed", BigInteger, nullable=False, server_default=text("0")),
    Column("receipts", BigInteger, nullable=False, server_default=text("0")),
    Column("wall_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("earned", Amount, nullable=False, server_default=text("0")),
    Column("offer", Text, nullable=True),  # digest of the live offer's statement
    Column("offer_at_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("offer_expires_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("terms", LargeBinary, nullable=True),  # the offer's canonical payload
    CheckConstraint("length(address) = 64", name="address_64_digits"),
)

environments = Table(
    "environments",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("manifest", LargeBinary, nullable=False),
)

offer_environments = Table(
    "offer_environments",
    metadata,
    _address("provider", primary_key=True),
    Column("digest", Text, primary_key=True),
)
"""Which environments a provider's live offer holds."""

jobs = Table(
    "jobs",
    metadata,
    Column("id", Uuid, primary_key=True),
    _address("consumer"),
    Column("order_digest", Text, nullable=False),
    Column("spec", LargeBinary, nullable=False),
    Column("spec_digest", Text, nullable=False),
    Column("environment", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=text("''")),
    Column("order_state", Text, nullable=False),
    Column("tasks_max", BigInteger, nullable=False),
    Column("tasks", BigInteger, nullable=False),
    Column("accepted", BigInteger, nullable=False, server_default=text("0")),
    Column("sealed", Boolean, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("rate_cap", Amount, nullable=False),
    Column("budget", Amount, nullable=False),
    Column("spent", Amount, nullable=False, server_default=text("0")),
    Column("reserved", Amount, nullable=False, server_default=text("0")),
    Column("refunded", Amount, nullable=False, server_default=text("0")),
    Column("task_us", BigInteger, nullable=True),  # measured time of a task
    Column("close_try", Integer, nullable=False, server_default=text("0")),
    Column("created_ms", BigInteger, nullable=False),
    Column("touched_ms", BigInteger, nullable=False),  # last task added or accepted
    Column("deadline_ms", BigInteger, nullable=False),
    Column("closed_ms", BigInteger, nullable=False, server_default=text("0")),
    _known("state", JobState),
    _known("order_state", OrderState),
    CheckConstraint("tasks >= 0 AND tasks <= tasks_max", name="tasks_within_order"),
    CheckConstraint("accepted >= 0 AND accepted <= tasks", name="accepted_within_tasks"),
    CheckConstraint("reserved >= 0 AND spent + reserved <= budget", name="budget_covers"),
    Index("ix_jobs_consumer", "consumer", "created_ms", "id"),
    Index("ix_jobs_live", "state", postgresql_where=text("state <> 'closed'")),
)

tasks = Table(
    "tasks",
    metadata,
    Column("job", Uuid, ForeignKey("jobs.id"), primary_key=True),
    Column("index", BigInteger, primary_key=True, autoincrement=False),
    Column("digest", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=True),  # null: a blob
    Index("ix_tasks_blob", "digest", postgresql_where=text("body IS NULL")),
)

leases = Table(
    "leases",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("job", Uuid, ForeignKey("jobs.id"), nullable=False),
    _address("provider"),
    Column("statement", Text, nullable=False),
    Column("offer", Text, nullable=False),
    Column("cpus_milli", Integer, nullable=False),
    Column("memory_mib", Integer, nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("rate", Amount, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=text("''")),
    Column("detail", Text, nullable=False, server_default=text("''")),
    Column("chunks", Integer, nullable=False, server_default=text("0")),
    Column("granted_ms", BigInteger, nullable=False),
    Column("worked_ms", BigInteger, nullable=False),  # last grant, start or receipt
    Column("deadline_ms", BigInteger, nullable=False),
    Column("closed_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("vouched_ms", BigInteger, nullable=False, server_default=text("0")),  # paid by vouchers
    Column("vouched", Amount, nullable=False, server_default=text("0")),  # what these cost
    _known("state", LeaseState),
    CheckConstraint("cpus_milli >= 0 AND memory_mib >= 0 AND gpus >= 0", name="slot_not_negative"),
    Index("ix_leases_live", "provider", postgresql_where=text("state <> 'closed'")),
    Index("ix_leases_job", "job"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("job", Uuid, ForeignKey("jobs.id"), nullable=False),
    Column("lease", Uuid, ForeignKey("leases.id"), nullable=False),
    _address("provider"),
    Column("purpose", Text, nullable=False),
    Column("checks", Uuid, ForeignKey("attempts.id"), nullable=True),  # the attempt that is checked
    Column("first", BigInteger, nullable=False),
    Column("tasks", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=text("''")),
    Column("window_ms", BigInteger, nullable=False),
    Column("cap", Amount, nullable=False),  # reserved in the job's budget while handed or checking
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("handed_ms", BigInteger, nullable=False),
    Column("received_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("receipt", Text, nullable=True, unique=True),
    Column("leaves", LargeBinary, nullable=True),  # canonical, while a check compares them
    Column("wall_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("cpu_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("protection", Text, nullable=False, server_default=text("''")),
    Column("charge", Amount, nullable=False, server_default=text("0")),
    Column("fee", Amount, nullable=False, server_default=text("0")),
    Column("surcharge", Amount, nullable=False, server_default=text("0")),
    _known("state", AttemptState),
    _known("purpose", Purpose),
    CheckConstraint("(purpose = 'check') = (checks IS NOT NULL)", name="check_names_work"),
    CheckConstraint("tasks > 0 AND first >= 0", name="interval_in_order"),
    Index("ix_attempts_job", "job", "id"),
    Index("ix_attempts_lease", "lease"),
    Index("ix_attempts_open", "job", postgresql_where=text("state IN ('handed', 'checking')")),
    Index(
        "uq_attempts_check", "checks", unique=True,
        postgresql_where=text("checks IS NOT NULL AND state NOT IN ('lost', 'rejected')"),
    ),
)  # fmt: skip

intervals = Table(
    "intervals",
    metadata,
    Column("job", Uuid, ForeignKey("jobs.id"), primary_key=True),
    Column("first", BigInteger, primary_key=True, autoincrement=False),
    Column("tasks", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempt", Uuid, nullable=True),
    _known("state", IntervalState),
    CheckConstraint("tasks > 0", name="tasks_positive"),
    CheckConstraint("(state = 'pending') = (attempt IS NULL)", name="holder"),
    Index("ix_intervals_pending", "job", "first", postgresql_where=text("state = 'pending'")),
    Index(
        "uq_intervals_attempt", "attempt", unique=True, postgresql_where=text("attempt IS NOT NULL")
    ),
)

outputs = Table(
    "outputs",
    metadata,
    Column("attempt", Uuid, ForeignKey("attempts.id"), primary_key=True),
    Column("index", BigInteger, primary_key=True, autoincrement=False),
    Column("job", Uuid, nullable=False),
    Column("position", BigInteger, nullable=True),  # null until accepted; drawn under the baton
    Column("status", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=True),
    Column("log", Text, nullable=False),
    Index("ix_outputs_blob", "digest", postgresql_where=text("body IS NULL")),
    Index(
        "uq_outputs_position",
        "job",
        "position",
        unique=True,
        postgresql_where=text("position IS NOT NULL"),
    ),
    Index(
        "uq_outputs_result",
        "job",
        "index",
        unique=True,
        postgresql_where=text("position IS NOT NULL"),
    ),
)
"""Delivered results are the rows with a position: at most one for a task, by a unique index."""

charges = Table(
    "charges",
    metadata,
    Column("receipt", Text, primary_key=True),
    Column("attempt", Uuid, nullable=True, unique=True),  # none: a voucher
    _address("provider"),
    Column("amount", Amount, nullable=False),  # what stands in the provider's hold
    Column("state", Text, nullable=False),
    Column("release_after_ms", BigInteger, nullable=False),
    _known("state", ChargeState),
    Index("ix_charges_due", "release_after_ms", postgresql_where=text("state = 'charged'")),
)

withdrawals = Table(
    "withdrawals",
    metadata,
    Column("transfer", Uuid, primary_key=True),  # the pending one, which says what became of it
    _address("party"),
    Column("amount", Amount, nullable=False),
    Column("destination", Text, nullable=False),
    Column("statement", Text, nullable=False),
    Column("asked_ms", BigInteger, nullable=False),
    Column("decision", Text, nullable=True),  # the operator's statement
    Column("memo", Text, nullable=False, server_default=text("''")),
    Column("decided_ms", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("length(party) = 64", name="party_64_digits"),
    Index("ix_withdrawals_asked", "asked_ms", "transfer"),
    Index("ix_withdrawals_party", "party", "asked_ms", "transfer"),
    Index(
        "ix_withdrawals_undecided",
        "asked_ms",
        "transfer",
        postgresql_where=text("decision IS NULL"),
    ),
)

blobs = Table(
    "blobs",
    metadata,
    Column("digest", Text, primary_key=True),
    _address("owner", primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)

requests = Table(
    "requests",
    metadata,
    _address("caller", primary_key=True),
    Column("key", Text, primary_key=True),
    Column("digest", Text, nullable=False),  # of method, path, query and body
    Column("status", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Index("ix_requests_created_ms", "created_ms"),
)

job_events = Table(
    "job_events",
    metadata,
    Column("position", BigInteger, Identity(always=True), primary_key=True),
    Column("job", Uuid, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Index("ix_job_events_job", "job", "position"),
)
