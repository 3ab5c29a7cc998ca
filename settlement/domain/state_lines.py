"""State lines: what a state statement's root is over; one canonical line for each account, hold and standing."""

from collections.abc import Iterable, Iterator, Sequence

from settlement.domain import canonical, merkle
from settlement.domain.ledger import AccountKey, AccountName
from settlement.domain.reputation import Standing

Line = tuple[object, ...]
Key = AccountName | str  # an account, a receipt's digest, or a provider's address


def root(lines: Sequence[bytes]) -> bytes:
    """The state root: RFC 6962 over the lines."""
    return merkle.root(list(lines))


def account_line(key: AccountKey, values: Line) -> bytes | None:
    """`["account", owner, purpose, job or "", ledger, pending debits, pending credits, debit, credit]`.

    What was posted is netted: one of the last two is 0. None for an account that has nothing.
    """
    line = account_fields(key.name, values)
    return None if line is None else canonical.encode(line)


def held_line(*, provider: str, receipt: str, amount: int, release_ms: int) -> bytes:
    """`["held", provider, receipt, amount, release_ms]`."""
    return canonical.encode(("held", provider, receipt, str(amount), release_ms))


def standing_line(provider: str, standing: Standing) -> bytes | None:
    """`["standing", provider, agreed, differed]`; None for a newcomer."""
    line = standing_fields(provider, (standing.agreed, standing.differed))
    return None if line is None else canonical.encode(line)


def account_fields(name: AccountName, values: Line) -> Line | None:
    """As `account_line`, before it is bytes."""
    debits_pending, debits_posted, credits_pending, credits_posted = values
    assert isinstance(credits_posted, int)
    assert isinstance(debits_posted, int)
    net = credits_posted - debits_posted
    if not (net or debits_pending or credits_pending):
        return None
    return (
        "account", *name, str(debits_pending), str(credits_pending), str(max(0, -net)), str(max(0, net))
    )  # fmt: skip


def standing_fields(provider: str, values: Line) -> Line | None:
    """As `standing_line`, before it is bytes."""
    return ("standing", provider, *values) if any(values) else None


def past_fields(past: dict[Key, Line]) -> Iterator[Line]:
    """The lines of what was otherwise, as it was."""
    for key, before in past.items():
        if isinstance(key, tuple):
            yield from some(account_fields(key, before))
        elif key.startswith(canonical.DIGEST_PREFIX):
            if len(before) > 1:
                provider, amount, release_ms = before
                yield ("held", provider, key, str(amount), release_ms)
        else:
            yield from some(standing_fields(key, before))


def some(line: Line | None) -> Iterable[Line]:
    """The line, if there is one."""
    return () if line is None else (line,)
