"""Market: providers, jobs, leases, attempts, results, charges, requests, events."""

from typing import Final

from alembic import op

revision: Final = "0002"
down_revision: Final = "0001"
branch_labels: Final = None
depends_on: Final = None

CREATE: Final = (
    "CREATE SEQUENCE result_positions",
    """CREATE TABLE blobs (
    digest TEXT NOT NULL,
    owner TEXT NOT NULL,
    size BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    CONSTRAINT pk_blobs PRIMARY KEY (digest, owner)
)""",
    """CREATE TABLE charges (
    receipt TEXT NOT NULL,
    attempt UUID NOT NULL,
    provider TEXT NOT NULL,
    amount NUMERIC(39, 0) NOT NULL,
    state TEXT NOT NULL,
    release_after_ms BIGINT NOT NULL,
    CONSTRAINT pk_charges PRIMARY KEY (receipt),
    CONSTRAINT ck_charges_state_known CHECK (state IN ('charged', 'released')),
    CONSTRAINT uq_charges_attempt UNIQUE (attempt)
)""",
    "CREATE INDEX ix_charges_due ON charges (release_after_ms) WHERE state = 'charged'",
    """CREATE TABLE environments (
    digest TEXT NOT NULL,
    manifest BYTEA NOT NULL,
    CONSTRAINT pk_environments PRIMARY KEY (digest)
)""",
    """CREATE TABLE job_events (
    position BIGINT GENERATED ALWAYS AS IDENTITY,
    job UUID NOT NULL,
    at_ms BIGINT NOT NULL,
    kind TEXT NOT NULL,
    detail TEXT NOT NULL,
    CONSTRAINT pk_job_events PRIMARY KEY (position)
)""",
    "CREATE INDEX ix_job_events_job ON job_events (job, position)",
    """CREATE TABLE jobs (
    id UUID NOT NULL,
    consumer TEXT NOT NULL,
    order_digest TEXT NOT NULL,
    spec BYTEA NOT NULL,
    spec_digest TEXT NOT NULL,
    environment TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT DEFAULT '' NOT NULL,
    order_state TEXT NOT NULL,
    tasks_max BIGINT NOT NULL,
    tasks BIGINT NOT NULL,
    accepted BIGINT DEFAULT 0 NOT NULL,
    sealed BOOLEAN NOT NULL,
    slots INTEGER NOT NULL,
    rate_cap NUMERIC(39, 0) NOT NULL,
    budget NUMERIC(39, 0) NOT NULL,
    spent NUMERIC(39, 0) DEFAULT 0 NOT NULL,
    reserved NUMERIC(39, 0) DEFAULT 0 NOT NULL,
    refunded NUMERIC(39, 0) DEFAULT 0 NOT NULL,
    task_us BIGINT,
    close_try INTEGER DEFAULT 0 NOT NULL,
    created_ms BIGINT NOT NULL,
    touched_ms BIGINT NOT NULL,
    deadline_ms BIGINT NOT NULL,
    closed_ms BIGINT DEFAULT 0 NOT NULL,
    CONSTRAINT pk_jobs PRIMARY KEY (id),
    CONSTRAINT ck_jobs_state_known CHECK (state IN ('open', 'running', 'finishing', 'closed')),
    CONSTRAINT ck_jobs_order_state_known CHECK (order_state IN ('open', 'closed')),
    CONSTRAINT ck_jobs_tasks_within_order CHECK (tasks >= 0 AND tasks <= tasks_max),
    CONSTRAINT ck_jobs_accepted_within_tasks CHECK (accepted >= 0 AND accepted <= tasks),
    CONSTRAINT ck_jobs_budget_covers CHECK (reserved >= 0 AND spent + reserved <= budget)
)""",
    "CREATE INDEX ix_jobs_consumer ON jobs (consumer, created_ms, id)",
    "CREATE INDEX ix_jobs_live ON jobs (state) WHERE state <> 'closed'",
    """CREATE TABLE offer_environments (
    provider TEXT NOT NULL,
    digest TEXT NOT NULL,
    CONSTRAINT pk_offer_environments PRIMARY KEY (provider, digest)
)""",
    """CREATE TABLE providers (
    address TEXT NOT NULL,
    name TEXT NOT NULL,
    connected BOOLEAN DEFAULT false NOT NULL,
    session UUID,
    draining BOOLEAN DEFAULT false NOT NULL,
    seen_ms BIGINT DEFAULT 0 NOT NULL,
    agreed BIGINT DEFAULT 0 NOT NULL,
    differed BIGINT DEFAULT 0 NOT NULL,
    receipts BIGINT DEFAULT 0 NOT NULL,
    wall_ms BIGINT DEFAULT 0 NOT NULL,
    earned NUMERIC(39, 0) DEFAULT 0 NOT NULL,
    offer TEXT,
    offer_at_ms BIGINT DEFAULT 0 NOT NULL,
    offer_expires_ms BIGINT DEFAULT 0 NOT NULL,
    terms BYTEA,
    CONSTRAINT pk_providers PRIMARY KEY (address),
    CONSTRAINT ck_providers_address_64_digits CHECK (length(address) = 64)
)""",
    """CREATE TABLE requests (
    caller TEXT NOT NULL,
    key TEXT NOT NULL,
    digest TEXT NOT NULL,
    status INTEGER NOT NULL,
    body BYTEA NOT NULL,
    created_ms BIGINT NOT NULL,
    CONSTRAINT pk_requests PRIMARY KEY (caller, key)
)""",
    "CREATE INDEX ix_requests_created_ms ON requests (created_ms)",
    """CREATE TABLE intervals (
    job UUID NOT NULL,
    first BIGINT NOT NULL,
    tasks BIGINT NOT NULL,
    state TEXT NOT NULL,
    attempt UUID,
    CONSTRAINT pk_intervals PRIMARY KEY (job, first),
    CONSTRAINT ck_intervals_state_known CHECK (state IN ('pending', 'leased', 'executed', 'accepted')),
    CONSTRAINT ck_intervals_tasks_positive CHECK (tasks > 0),
    CONSTRAINT ck_intervals_holder CHECK ((state = 'pending') = (attempt IS NULL)),
    CONSTRAINT fk_intervals_job_jobs FOREIGN KEY(job) REFERENCES jobs (id)
)""",
    "CREATE INDEX ix_intervals_pending ON intervals (job, first) WHERE state = 'pending'",
    "CREATE UNIQUE INDEX uq_intervals_attempt ON intervals (attempt) WHERE attempt IS NOT NULL",
    """CREATE TABLE leases (
    id UUID NOT NULL,
    job UUID NOT NULL,
    provider TEXT NOT NULL,
    statement TEXT NOT NULL,
    offer TEXT NOT NULL,
    cpus_milli INTEGER NOT NULL,
    memory_mib INTEGER NOT NULL,
    gpus INTEGER NOT NULL,
    rate NUMERIC(39, 0) NOT NULL,
    state TEXT NOT NULL,
    reason TEXT DEFAULT '' NOT NULL,
    detail TEXT DEFAULT '' NOT NULL,
    chunks INTEGER DEFAULT 0 NOT NULL,
    granted_ms BIGINT NOT NULL,
    worked_ms BIGINT NOT NULL,
    deadline_ms BIGINT NOT NULL,
    closed_ms BIGINT DEFAULT 0 NOT NULL,
    CONSTRAINT pk_leases PRIMARY KEY (id),
    CONSTRAINT ck_leases_state_known CHECK (state IN ('granted', 'active', 'paused', 'closed')),
    CONSTRAINT ck_leases_slot_not_negative CHECK (cpus_milli >= 0 AND memory_mib >= 0 AND gpus >= 0),
    CONSTRAINT fk_leases_job_jobs FOREIGN KEY(job) REFERENCES jobs (id)
)""",
    "CREATE INDEX ix_leases_job ON leases (job)",
    "CREATE INDEX ix_leases_live ON leases (provider) WHERE state <> 'closed'",
    """CREATE TABLE tasks (
    job UUID NOT NULL,
    index BIGINT NOT NULL,
    digest TEXT NOT NULL,
    size BIGINT NOT NULL,
    body BYTEA,
    CONSTRAINT pk_tasks PRIMARY KEY (job, index),
    CONSTRAINT fk_tasks_job_jobs FOREIGN KEY(job) REFERENCES jobs (id)
)""",
    "CREATE INDEX ix_tasks_blob ON tasks (digest) WHERE body IS NULL",
    """CREATE TABLE attempts (
    id UUID NOT NULL,
    job UUID NOT NULL,
    lease UUID NOT NULL,
    provider TEXT NOT NULL,
    purpose TEXT NOT NULL,
    checks UUID,
    first BIGINT NOT NULL,
    tasks BIGINT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT DEFAULT '' NOT NULL,
    window_ms BIGINT NOT NULL,
    cap NUMERIC(39, 0) NOT NULL,
    tries INTEGER DEFAULT 0 NOT NULL,
    handed_ms BIGINT NOT NULL,
    received_ms BIGINT DEFAULT 0 NOT NULL,
    receipt TEXT,
    leaves BYTEA,
    wall_ms BIGINT DEFAULT 0 NOT NULL,
    cpu_ms BIGINT DEFAULT 0 NOT NULL,
    protection TEXT DEFAULT '' NOT NULL,
    charge NUMERIC(39, 0) DEFAULT 0 NOT NULL,
    fee NUMERIC(39, 0) DEFAULT 0 NOT NULL,
    surcharge NUMERIC(39, 0) DEFAULT 0 NOT NULL,
    CONSTRAINT pk_attempts PRIMARY KEY (id),
    CONSTRAINT ck_attempts_state_known CHECK (state IN ('handed', 'checking', 'accepted', 'rejected', 'lost')),
    CONSTRAINT ck_attempts_purpose_known CHECK (purpose IN ('work', 'check')),
    CONSTRAINT ck_attempts_check_names_work CHECK ((purpose = 'check') = (checks IS NOT NULL)),
    CONSTRAINT ck_attempts_interval_in_order CHECK (tasks > 0 AND first >= 0),
    CONSTRAINT fk_attempts_job_jobs FOREIGN KEY(job) REFERENCES jobs (id),
    CONSTRAINT fk_attempts_lease_leases FOREIGN KEY(lease) REFERENCES leases (id),
    CONSTRAINT fk_attempts_checks_attempts FOREIGN KEY(checks) REFERENCES attempts (id),
    CONSTRAINT uq_attempts_receipt UNIQUE (receipt)
)""",
    "CREATE INDEX ix_attempts_job ON attempts (job, id)",
    "CREATE INDEX ix_attempts_lease ON attempts (lease)",
    "CREATE INDEX ix_attempts_open ON attempts (job) WHERE state IN ('handed', 'checking')",
    """CREATE UNIQUE INDEX uq_attempts_check ON attempts (checks) WHERE checks IS NOT NULL AND state NOT IN ('lost', 'rejected')""",
    """CREATE TABLE outputs (
    attempt UUID NOT NULL,
    index BIGINT NOT NULL,
    job UUID NOT NULL,
    position BIGINT,
    status TEXT NOT NULL,
    digest TEXT NOT NULL,
    size BIGINT NOT NULL,
    body BYTEA,
    log TEXT NOT NULL,
    CONSTRAINT pk_outputs PRIMARY KEY (attempt, index),
    CONSTRAINT fk_outputs_attempt_attempts FOREIGN KEY(attempt) REFERENCES attempts (id)
)""",
    "CREATE INDEX ix_outputs_blob ON outputs (digest) WHERE body IS NULL",
    """CREATE UNIQUE INDEX uq_outputs_position ON outputs (job, position) WHERE position IS NOT NULL""",
    "CREATE UNIQUE INDEX uq_outputs_result ON outputs (job, index) WHERE position IS NOT NULL",
)
DROP: Final = (
    "DROP TABLE outputs",
    "DROP TABLE attempts",
    "DROP TABLE tasks",
    "DROP TABLE leases",
    "DROP TABLE intervals",
    "DROP TABLE requests",
    "DROP TABLE providers",
    "DROP TABLE offer_environments",
    "DROP TABLE jobs",
    "DROP TABLE job_events",
    "DROP TABLE environments",
    "DROP TABLE charges",
    "DROP TABLE blobs",
    "DROP SEQUENCE result_positions",
)


def upgrade() -> None:
    for statement in CREATE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DROP:
        op.execute(statement)
