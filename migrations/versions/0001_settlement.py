"""Settlement: baton, ledger, log; with the checks and triggers that hold them."""

from typing import Final

from alembic import op

revision: Final = "0001"
down_revision: Final = None
branch_labels: Final = None
depends_on: Final = None

CREATE: Final = (
    """CREATE TABLE accounts (
    id BIGSERIAL NOT NULL,
    owner BYTEA NOT NULL,
    purpose SMALLINT NOT NULL,
    job UUID,
    ledger INTEGER NOT NULL,
    flags INTEGER NOT NULL,
    dr_pending NUMERIC(39, 0) DEFAULT 0 NOT NULL,
    dr_posted NUMERIC(39, 0) DEFAULT 0 NOT NULL,
    cr_pending NUMERIC(39, 0) DEFAULT 0 NOT NULL,
    cr_posted NUMERIC(39, 0) DEFAULT 0 NOT NULL,
    CONSTRAINT pk_accounts PRIMARY KEY (id),
    CONSTRAINT uq_accounts_owner_purpose_job_ledger UNIQUE NULLS NOT DISTINCT (owner, purpose, job, ledger),
    CONSTRAINT ck_accounts_owner_32_bytes CHECK (octet_length(owner) = 32),
    CONSTRAINT ck_accounts_purpose_known CHECK (purpose IN (1, 2, 3, 4, 5, 6, 7)),
    CONSTRAINT ck_accounts_ledger_positive CHECK (ledger > 0),
    CONSTRAINT ck_accounts_flags_known CHECK (flags IN (0, 2, 4)),
    CONSTRAINT ck_accounts_dr_pending_in_range CHECK (dr_pending >= 0 AND dr_pending <= 340282366920938463463374607431768211455),
    CONSTRAINT ck_accounts_dr_posted_in_range CHECK (dr_posted >= 0 AND dr_posted <= 340282366920938463463374607431768211455),
    CONSTRAINT ck_accounts_cr_pending_in_range CHECK (cr_pending >= 0 AND cr_pending <= 340282366920938463463374607431768211455),
    CONSTRAINT ck_accounts_cr_posted_in_range CHECK (cr_posted >= 0 AND cr_posted <= 340282366920938463463374607431768211455),
    CONSTRAINT ck_accounts_sums_in_range CHECK (dr_pending + dr_posted <= 340282366920938463463374607431768211455 AND cr_pending + cr_posted <= 340282366920938463463374607431768211455),
    CONSTRAINT ck_accounts_debits_within_credits CHECK ((flags & 2) = 0 OR dr_pending + dr_posted <= cr_posted),
    CONSTRAINT ck_accounts_credits_within_debits CHECK ((flags & 4) = 0 OR cr_pending + cr_posted <= dr_posted)
)
 WITH (fillfactor = 50)""",
    """CREATE TABLE batches (
    number BIGINT NOT NULL,
    seq_first BIGINT NOT NULL,
    seq_last BIGINT NOT NULL,
    ts_last BIGINT NOT NULL,
    events INTEGER NOT NULL,
    CONSTRAINT pk_batches PRIMARY KEY (number),
    CONSTRAINT ck_batches_range_in_order CHECK (seq_last >= seq_first - 1 AND events >= 0)
)""",
    """CREATE TABLE checkpoints (
    size BIGINT NOT NULL,
    root BYTEA NOT NULL,
    note TEXT NOT NULL,
    CONSTRAINT pk_checkpoints PRIMARY KEY (size),
    CONSTRAINT ck_checkpoints_size_not_negative CHECK (size >= 0),
    CONSTRAINT ck_checkpoints_root_32_bytes CHECK (octet_length(root) = 32)
)""",
    """CREATE TABLE clock (
    one BOOLEAN NOT NULL,
    ts BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    log_size BIGINT NOT NULL,
    batch BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    CONSTRAINT pk_clock PRIMARY KEY (one),
    CONSTRAINT ck_clock_one_row CHECK (one),
    CONSTRAINT ck_clock_not_negative CHECK (ts >= 0 AND seq >= 0 AND log_size >= 0 AND batch >= 0)
)
 WITH (fillfactor = 20)""",
    """CREATE TABLE failed (
    id UUID NOT NULL,
    code SMALLINT NOT NULL,
    CONSTRAINT pk_failed PRIMARY KEY (id),
    CONSTRAINT ck_failed_code_known CHECK (code IN (21, 22, 25, 54, 55))
)""",
    """CREATE TABLE log_tiles (
    level SMALLINT NOT NULL,
    idx BIGINT NOT NULL,
    data BYTEA NOT NULL,
    CONSTRAINT pk_log_tiles PRIMARY KEY (level, idx),
    CONSTRAINT ck_log_tiles_place_not_negative CHECK (level >= 0 AND idx >= 0),
    CONSTRAINT ck_log_tiles_whole_hashes CHECK (octet_length(data) BETWEEN 32 AND 8192 AND octet_length(data) % 32 = 0)
)""",
    """CREATE TABLE pending (
    id UUID NOT NULL,
    status SMALLINT NOT NULL,
    expires_at BIGINT,
    CONSTRAINT pk_pending PRIMARY KEY (id),
    CONSTRAINT ck_pending_status_known CHECK (status IN (1, 2, 3, 4))
)
 WITH (fillfactor = 70)""",
    """CREATE INDEX ix_pending_due ON pending (expires_at) WHERE status = 1 AND expires_at IS NOT NULL""",
    """CREATE TABLE statements (
    idx BIGINT NOT NULL,
    digest BYTEA NOT NULL,
    kind TEXT NOT NULL,
    signer BYTEA NOT NULL,
    envelope BYTEA NOT NULL,
    CONSTRAINT pk_statements PRIMARY KEY (idx),
    CONSTRAINT ck_statements_idx_not_negative CHECK (idx >= 0),
    CONSTRAINT ck_statements_digest_32_bytes CHECK (octet_length(digest) = 32),
    CONSTRAINT ck_statements_signer_32_bytes CHECK (octet_length(signer) = 32),
    CONSTRAINT ck_statements_envelope_fits_a_tile CHECK (octet_length(envelope) BETWEEN 1 AND 65535),
    CONSTRAINT uq_statements_digest UNIQUE (digest)
)""",
    """CREATE TABLE transfers (
    id UUID NOT NULL,
    seq BIGINT NOT NULL,
    dr BIGINT NOT NULL,
    cr BIGINT NOT NULL,
    amount NUMERIC(39, 0) NOT NULL,
    pending_id UUID,
    timeout_s INTEGER NOT NULL,
    ledger INTEGER NOT NULL,
    code INTEGER NOT NULL,
    flags INTEGER NOT NULL,
    ts BIGINT NOT NULL,
    cause BYTEA NOT NULL,
    CONSTRAINT pk_transfers PRIMARY KEY (id),
    CONSTRAINT ck_transfers_two_accounts CHECK (dr <> cr),
    CONSTRAINT ck_transfers_amount_in_range CHECK (amount >= 0 AND amount <= 340282366920938463463374607431768211455),
    CONSTRAINT ck_transfers_timeout_not_negative CHECK (timeout_s >= 0),
    CONSTRAINT ck_transfers_ledger_and_code_positive CHECK (ledger > 0 AND code > 0),
    CONSTRAINT ck_transfers_flags_known CHECK (flags >= 0 AND flags < 64),
    CONSTRAINT ck_transfers_cause_32_bytes CHECK (octet_length(cause) = 32),
    CONSTRAINT uq_transfers_seq UNIQUE (seq)
)""",
    "CREATE INDEX ix_transfers_cr ON transfers (cr, seq)",
    "CREATE INDEX ix_transfers_dr ON transfers (dr, seq)",
    """CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation'; END $$""",
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
    """CREATE FUNCTION tiles_only_grow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.level <> OLD.level OR NEW.idx <> OLD.idx
     OR substring(NEW.data FROM 1 FOR octet_length(OLD.data)) <> OLD.data THEN
    RAISE EXCEPTION 'a tile only grows' USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NEW;
END $$""",
    """CREATE FUNCTION clock_only_grows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.ts < OLD.ts OR NEW.seq < OLD.seq OR NEW.log_size < OLD.log_size
     OR NEW.batch < OLD.batch OR NEW.epoch < OLD.epoch THEN
    RAISE EXCEPTION 'the clock only grows' USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NEW;
END $$""",
    """CREATE TRIGGER transfers_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON transfers FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()""",
    """CREATE TRIGGER failed_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON failed FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()""",
    """CREATE TRIGGER batches_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON batches FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()""",
    """CREATE TRIGGER statements_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON statements FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()""",
    """CREATE TRIGGER checkpoints_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON checkpoints FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()""",
    """CREATE TRIGGER accounts_kept BEFORE DELETE OR TRUNCATE ON accounts FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()""",
    """CREATE TRIGGER pending_kept BEFORE DELETE OR TRUNCATE ON pending FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()""",
    """CREATE TRIGGER log_tiles_kept BEFORE DELETE OR TRUNCATE ON log_tiles FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()""",
    """CREATE TRIGGER clock_kept BEFORE DELETE OR TRUNCATE ON clock FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()""",
    """CREATE TRIGGER accounts_balance AFTER UPDATE ON accounts REFERENCING OLD TABLE AS before_rows NEW TABLE AS after_rows FOR EACH STATEMENT EXECUTE FUNCTION accounts_balance()""",
    """CREATE TRIGGER accounts_open_empty BEFORE INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION accounts_open_empty()""",
    """CREATE TRIGGER tiles_only_grow BEFORE UPDATE ON log_tiles FOR EACH ROW EXECUTE FUNCTION tiles_only_grow()""",
    """CREATE TRIGGER clock_only_grows BEFORE UPDATE ON clock FOR EACH ROW EXECUTE FUNCTION clock_only_grows()""",
    "INSERT INTO clock (one, ts, seq, log_size, batch, epoch) VALUES (true, 0, 0, 0, 0, 0)",
    "ALTER TABLE log_tiles ALTER COLUMN data SET STORAGE EXTERNAL",
)
DROP: Final = (
    "DROP TABLE transfers",
    "DROP TABLE statements",
    "DROP TABLE pending",
    "DROP TABLE log_tiles",
    "DROP TABLE failed",
    "DROP TABLE clock",
    "DROP TABLE checkpoints",
    "DROP TABLE batches",
    "DROP TABLE accounts",
    "DROP FUNCTION refuse_change()",
    "DROP FUNCTION accounts_balance()",
    "DROP FUNCTION accounts_open_empty()",
    "DROP FUNCTION tiles_only_grow()",
    "DROP FUNCTION clock_only_grows()",
)


def upgrade() -> None:
    for statement in CREATE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DROP:
        op.execute(statement)
