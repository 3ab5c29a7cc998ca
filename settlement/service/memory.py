"""What a process still knows from its last batch, so that the next one need not load it again."""

from collections.abc import Iterable
from typing import Any, Final

from settlement.domain.ledger import Account, AccountKey
from settlement.store import ledger as store

ACCOUNTS_MAX: Final = 131_072  # remembered at most; with more it begins anew


class Memory:
    """Accounts by key and by number, as they stand after batch `batch`.

    The baton is the fence: whoever changes an account makes a batch, and the baton's row counts
    them. So what was known after a batch still holds if the row names that very batch, and else
    nothing is believed; nor is it after a batch that failed or whose end is not known.
    """

    def __init__(self) -> None:
        self.keys: dict[AccountKey, Account] = {}
        self.accounts: dict[int, Account] = {}
        self._batch: int | None = None

    def begin(self, batch: int) -> None:
        """Under the baton: forget what may be stale. Nothing is sure again before `keep`."""
        if self._batch != batch or len(self.accounts) > ACCOUNTS_MAX:
            self.keys.clear()
            self.accounts.clear()
        self._batch = None

    def keep(self, batch: int) -> None:
        """The batch is committed: what is in here is what the database says."""
        self._batch = batch

    async def open(self, connection: Any, keys: Iterable[AccountKey]) -> None:
        """Have these accounts in here; those that do not exist are opened, empty."""
        missing = list(dict.fromkeys(key for key in keys if key not in self.keys))
        found = await store.open_accounts(connection, missing)
        for key in missing:  # the callers' own keys: finding these again compares nothing
            account = found[key]
            self.keys[key] = self.accounts.setdefault(account.id, account)
