"""What a process still knows from its last batch, so that the next one need not load it again."""

from collections.abc import Iterable
from typing import Any, Final

from settlement.domain.ledger import Account, AccountKey
from settlement.store import ledger as store

ACCOUNTS_MAX: Final = 131_072  # remembered at most; with more it begins anew


class Memory:
    """Accounts by number, as they stand after batch `batch`, and the numbers of their keys.

    The baton is the fence: whoever changes an account makes a batch, and the baton's row counts
    them. So what was known after a batch still holds if the row names that very batch, and else
    no counter is believed. After a batch that failed, or whose end is not known, nothing is.
    """

    def __init__(self) -> None:
        self.accounts: dict[int, Account] = {}
        self.numbers: dict[AccountKey, int] = {}  # of committed accounts; they never change
        self._opened: dict[AccountKey, int] = {}  # in the batch that is under way
        self._batch: int | None = None

    def begin(self, batch: int) -> None:
        """Under the baton: forget what may be stale. Nothing is sure again before `keep`."""
        if self._batch != batch or len(self.accounts) > ACCOUNTS_MAX:
            self.accounts.clear()
        self._opened.clear()
        self._batch = None

    def keep(self, batch: int) -> None:
        """The batch is committed: what is in here is what the database says."""
        if len(self.numbers) > ACCOUNTS_MAX:
            self.numbers.clear()
        self.numbers |= self._opened
        self._batch = batch

    def forget(self) -> None:
        """The batch failed, or perhaps not; the database may even be another one by now."""
        self.accounts.clear()
        self.numbers.clear()
        self._opened.clear()
        self._batch = None

    def number(self, key: AccountKey) -> int:
        """The account's number, once it is committed or opened in this batch."""
        found = self.numbers.get(key)
        return self._opened[key] if found is None else found

    async def open(self, connection: Any, keys: Iterable[AccountKey]) -> None:
        """Have these keys' numbers in here; accounts that do not exist are opened, empty."""
        missing = list(dict.fromkeys(key for key in keys if key not in self.numbers))
        found = await store.open_accounts(connection, missing)
        for key in missing:  # the callers' own keys: finding these again compares nothing
            account = found[key]
            self._opened[key] = account.id
            self.accounts.setdefault(account.id, account)

    async def load(self, connection: Any, numbers: Iterable[int]) -> None:
        """Have these accounts in here."""
        missing = [number for number in numbers if number not in self.accounts]
        if missing:
            self.accounts.update(await store.accounts(connection, missing))
