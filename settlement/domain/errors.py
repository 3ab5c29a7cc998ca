"""The one error tree: every refusal has a class, a stable code, a sentence and a cure.

HTTP statuses are not known here; `market/wire/problem.py` maps codes to them, both ways.
"""

from typing import ClassVar


class GridpactError(Exception):
    """Something in Gridpact failed."""

    code: ClassVar[str] = "error"
    cure: ClassVar[str] = "Look at the detail; if it does not help, report it with the code."
    registry: ClassVar[dict[str, type["GridpactError"]]] = {}

    def __init_subclass__(cls, *, code: str, cure: str, **options: object) -> None:
        super().__init_subclass__(**options)
        if code in GridpactError.registry:
            raise TypeError(f"error code {code!r} is taken by {GridpactError.registry[code]}")
        cls.code, cls.cure = code, cure
        GridpactError.registry[code] = cls

    def __init__(self, detail: str | None = None) -> None:
        self.detail = detail if detail is not None else (type(self).__doc__ or "").strip()
        super().__init__(self.detail)

    @staticmethod
    def from_code(code: str, detail: str) -> "GridpactError":
        """The class for a code, as the SDK raises it; an unknown code stays a plain error."""
        return GridpactError.registry.get(code, GridpactError)(detail)


class Refused(
    GridpactError, code="refused", cure="Change the request; repeating it will not help."
):
    """The request was understood and refused."""


class Failed(
    GridpactError, code="failed", cure="Try again; if it goes on, look at the server's log."
):
    """Something that should have worked did not."""


# ── requests ────────────────────────────────────────────────────────────────────────────────


class Malformed(Refused, code="malformed", cure="Compare the body with /openapi.json."):
    """The bytes are not what this place takes."""


class Oversized(Refused, code="oversized", cure="Send less, or send large bytes as a blob."):
    """The request is larger than the limit."""


class Unsigned(Refused, code="unsigned", cure="Sign the request with your key (docs/protocol.md)."):
    """The request carries no signature of the required profile."""


class BadSignature(
    Refused, code="bad-signature", cure="Check the key and what the signature covers."
):
    """The signature does not hold over what was received."""


class StaleRequest(Refused, code="stale-request", cure="Set this machine's clock and sign again."):
    """The signature is expired, or its time is not within the allowed window."""


class WrongAuthority(
    Refused, code="wrong-authority", cure="Sign for the address that you send to."
):
    """The request was signed for another market's address."""


class WrongMarket(
    Refused, code="wrong-market", cure="Sign the statement for this market's origin."
):
    """The statement was signed for another market."""


class DuplicateKey(
    Refused, code="duplicate-key", cure="Use a new idempotency key for a new request."
):
    """The idempotency key was used before with another content."""


class Forbidden(Refused, code="forbidden", cure="Use the key that owns this."):
    """This key may not do that."""


class NotFound(Refused, code="not-found", cure="Check the identifier; list what exists."):
    """There is no such thing."""


class Stale(Refused, code="stale", cure="Read the present state and decide again."):
    """The state has moved on, so that the change no longer applies."""


class LimitExceeded(
    Refused, code="limit-exceeded", cure="Stay below the limit named in the detail."
):
    """A limit with a name was reached."""


class RateLimited(Refused, code="rate-limited", cure="Wait for the time in Retry-After."):
    """Too many requests in too short a time."""


class DigestMismatch(Refused, code="digest-mismatch", cure="Send the bytes that the digest names."):
    """The bytes do not have the digest that was named."""


class Unavailable(Failed, code="unavailable", cure="Try again in a moment."):
    """The service cannot answer now."""


class Unreachable(Failed, code="unreachable", cure="Check the address, and that the server runs."):
    """The market could not be reached."""


class Unknown(Failed, code="unknown-outcome", cure="Repeat the request with the same key."):
    """It is not known whether the change took effect."""


# ── money ───────────────────────────────────────────────────────────────────────────────────


class BadAmount(Refused, code="bad-amount", cure="Give credits with at most six decimals."):
    """The amount is not a whole number of micro-credits in range."""


class InsufficientFunds(
    Refused, code="insufficient-funds", cure="Top up the account, or spend less."
):
    """The account does not hold the amount."""


class BudgetExceeded(Refused, code="budget-exceeded", cure="Raise the budget or lower the price."):
    """The job's budget does not cover what is asked."""


class LedgerRefused(Refused, code="ledger-refused", cure="The detail names the ledger's answer."):
    """The ledger refused a transfer."""


# ── statements, log and proofs ──────────────────────────────────────────────────────────────


class BadStatement(
    Refused, code="bad-statement", cure="Sign exactly the canonical bytes of its kind."
):
    """The statement's bytes or fields are not in order."""


class BadReceipt(Refused, code="bad-receipt", cure="A receipt must match its lease and attempt."):
    """The receipt does not match what the market handed out."""


class BadProof(Refused, code="bad-proof", cure="Fetch the evidence again; do not trust this one."):
    """A Merkle proof does not lead to the signed root."""


class BadCheckpoint(Refused, code="bad-checkpoint", cure="Do not trust it; compare the log's key."):
    """The checkpoint is not signed by the log's key, or is not in form."""


class Differs(
    Refused,
    code="log-differs",
    cure="Do not trust this market beyond that entry; keep the log's files as evidence.",
):
    """The log breaks a rule, or the market's state is not what the log leads to."""

    index: int = -1
    rule: str = ""
    expected: str = ""
    found: str = ""

    @classmethod
    def at(cls, index: int, rule: str, *, expected: object = "", found: object = "") -> "Differs":
        """At the entry of that index: the rule that does not hold, and both sides of it."""
        sides = f": expected {expected}, found {found}" if expected != "" or found != "" else ""
        error = cls(f"entry {index}: {rule}{sides}")
        error.index, error.rule = index, rule
        error.expected, error.found = str(expected), str(found)
        return error


class BadLog(
    Refused,
    code="bad-log",
    cure="Fetch it again; if it stays so, keep the evidence and tell others.",
):
    """What the log serves is not what its checkpoint signs."""

    def __init__(
        self,
        detail: str | None = None,
        *,
        path: str = "",
        index: int = -1,
        expected: str = "",
        found: str = "",
    ) -> None:
        super().__init__(detail)
        self.path, self.index = path, index  # the file, and the first entry that differs
        self.expected, self.found = expected, found


class SplitView(
    Refused, code="split-view", cure="Trust no checkpoint of this log; hand the evidence on."
):
    """The log signed two histories that do not fit together."""

    def __init__(self, detail: str | None = None, *, evidence: bytes = b"") -> None:
        super().__init__(detail)
        self.evidence = evidence  # a file that proves it by itself, `conflict.verify_split`


class BadKey(Refused, code="bad-key", cure="Create a key with `gridpact wallet new`."):
    """The key is missing, malformed, or not private enough."""


class MarketChanged(
    Refused,
    code="market-changed",
    cure="Ask the operator why; if it is right, `gridpact wallet unpin` that address.",
):
    """The market at this address shows other keys than the ones pinned at first use."""


# ── jobs, offers, leases ────────────────────────────────────────────────────────────────────


class BadTransition(Refused, code="bad-transition", cure="Read the present state first."):
    """The state machine has no such step."""


class EnvironmentMismatch(
    Refused, code="environment-mismatch", cure="Use the Python and library versions that are named."
):
    """The caller's Python or a key library differs from the job's environment."""


class NoOffer(Refused, code="no-offer", cure="Raise the price cap, ask for less, or wait."):
    """No offer on the market fits."""


class UnsafeResult(
    Refused, code="unsafe-result", cure="Return plain data (docs/protocol.md lists it)."
):
    """The value is not plain data, so it is not taken over."""


class TaskFailed(Refused, code="task-failed", cure="Look at the task's log and traceback."):
    """The task's own code failed."""


class JobEnded(Refused, code="job-ended", cure="Look at the job's state and reason."):
    """The job ended before this result was there."""


# ── the machine ─────────────────────────────────────────────────────────────────────────────


class NoSandbox(Failed, code="no-sandbox", cure="Install bubblewrap, or allow user namespaces."):
    """No sandbox can run on this machine, so strangers' code is refused."""


class NoDatabase(
    Failed,
    code="no-database",
    cure="Set DATABASE_URL, or install gridpact[embedded] or PostgreSQL.",
):
    """No PostgreSQL was found."""


class NoRay(Failed, code="no-ray", cure="Install gridpact[provider]; look into the daemon's log."):
    """Ray did not start."""


class MisConfigured(Failed, code="misconfigured", cure="Correct the setting that is named."):
    """A setting is missing or wrong."""


class SlotLost(Failed, code="slot-lost", cure="Nothing: the work is handed out again elsewhere."):
    """The machine under a slot failed, not the code that ran in it."""
