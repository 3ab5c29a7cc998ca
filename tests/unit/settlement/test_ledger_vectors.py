"""The rules against the recorded answers of another engine: no difference at all."""

from settlement.domain.ledger import Account
from settlement.domain.ledger_rules import State
from tests.unit.settlement.vectors import groups


def counters(account: Account) -> list[int]:
    return [
        account.debits_pending, account.debits_posted, account.credits_pending, account.credits_posted,
    ]  # fmt: skip


def test_every_recorded_answer_and_balance() -> None:
    seen = 0
    for group in groups():
        state = State({account.id: account for account in group.accounts})
        for batch in group.batches:
            state.expire(batch.last_ns - len(batch.events))
            results = state.apply(batch.events, batch.last_ns)
            assert [int(result.code) for result in results] == batch.codes
            assert [result.at_ns for result in results] == batch.times
            assert [counters(account) for account in group.accounts] == batch.balances
            seen += len(results)
    assert seen == 63_064
