"""What a process still knows from its own batches, so that the next one need not ask for it again."""

import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

from settlement.domain.ledger import Account, AccountKey, Entry, PendingState
from settlement.domain.ledger_rules import State, expires_ns
from settlement.store import ledger as store
from settlement.store.ledger import Clock
from settlement.store.ledger_write import Logged

ACCOUNT_MAX: Final = 2**63 - 1  # no account has a greater number
ACCOUNTS_MAX: Final = 131_072  # remembered at most; with more it begins anew
DIGESTS_MAX: Final = 65_536
IDS_MAX: Final = 131_072  # in each of two generations
IDS_AHEAD_MAX: Final = 4_096  # transfers whose ids name a time to come, when the window is opened
NEVER_NS: Final = 2**63 - 1
OPEN_MAX: Final = 65_536
WINDOW_SECONDS: Final = 3_600


def id_at(seconds: float) -> int:
    """The smallest time-ordered id of that time."""
    return int(seconds * 1_000) << 80


class Window:
    """Ids from `floor` up to `ceiling` of which it is known without asking whether they are there.

    New ids are time-ordered, so nearly all of them lie above whatever was there when the window was
    opened; and since then nobody but this process wrote, or the baton's clock would say so. Ids
    outside are asked for.
    """

    def __init__(self) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is known."""
        self.floor = self.ceiling = 0
        self._young: set[int] = set()
        self._old: set[int] = set()

    @property
    def is_open(self) -> bool:
        return self.floor < self.ceiling

    def open(self, floor: int, ceiling: int, known: Iterable[int]) -> None:
        self.floor, self.ceiling = floor, ceiling
        self._young, self._old = set(known), set()

    def add(self, ids: Iterable[int]) -> None:
        """These exist now."""
        self._young.update(ids)
        if len(self._young) > IDS_MAX:
            self._age()

    def fresh(self, ids: set[int]) -> bool:
        """Whether it is sure that none of these exists."""
        return (
            min(ids) >= self.floor
            and max(ids) < self.ceiling
            and self._young.isdisjoint(ids)
            and self._old.isdisjoint(ids)
        )

    def absent(self, identifier: int) -> bool:
        """Whether it is sure that this one does not exist."""
        return (
            self.floor <= identifier < self.ceiling
            and identifier not in self._young
            and identifier not in self._old
        )

    def _age(self) -> None:
        """Let go of the older half: what it held is below the floor from now on."""
        now = id_at(time.time())
        past = [identifier for identifier in self._old if identifier < now]
        if past:
            self.floor = max(self.floor, max(past) + 1)
        ahead = {identifier for identifier in self._old if identifier >= self.floor}
        self._old, self._young = self._young, ahead
        if len(ahead) > IDS_MAX // 2 or now + (1 << 100) < self.floor:
            self.close()


class Memory:
    """Accounts, numbers of their keys, open pendings, logged digests and ids after batch `clock`.

    The baton's row is the fence: whoever changes the ledger makes a batch, and the row counts them.
    So what was known after a batch still holds if the row names that very batch, and else nothing
    is believed (docs/decisions/0005-memory-fence.md). `note` is told what a batch decides before it
    is committed; if it then fails, or its end is not known, `forget` has nothing left of it.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """A batch failed, or perhaps not; the database may even be another one by now."""
        self.accounts: dict[int, Account] = {}
        self.numbers: dict[AccountKey, int] = {}  # of committed accounts; they never change
        self.pendings: dict[int, Entry] = {}  # that are open
        self.digests: dict[bytes, int] = {}  # of the log's statements; positions
        self.window = Window()
        self.due_ns = 0  # nothing is due before it
        self.clock: Clock | None = None
        self._tentative = False  # a batch under the baton, whose commit is not known yet
        self._opened: dict[AccountKey, int] = {}  # in the batch that is under way

    def begin(self, clock: Clock) -> bool:
        """Under the baton: forget what may be stale; true if nothing was. `note` makes it sure."""
        valid = self.clock == clock and not self._tentative
        self._tentative = True
        if not valid:
            self.pendings.clear()
            self.window.close()
            self.due_ns = 0
        if not valid or self.full:
            self.accounts = {}
        self._opened.clear()
        self.clock = None
        return valid

    def note(self, state: State, statements: Sequence[Logged], first: int, after: Clock) -> None:
        """What a batch changed; the clock that it leaves."""
        self.clock = after
        if self.window.is_open:
            self.window.add(state.created)
            if state.burnt:
                self.window.add(state.burnt)
        for identifier, stands in state.resolved.items():
            if stands is PendingState.OPEN:
                entry = self.pendings[identifier] = state.transfers[identifier]
                deadline = expires_ns(entry)
                if deadline is not None and deadline < self.due_ns:
                    self.due_ns = deadline
            else:
                self.pendings.pop(identifier, None)
        for at, logged in enumerate(statements, first):
            self.digests[logged.digest] = at
        _halve(self.digests, DIGESTS_MAX)
        _halve(self.pendings, OPEN_MAX)

    def committed(self) -> None:
        """The batch under the baton is, and the accounts that it has opened are there for good."""
        self._tentative = False
        if len(self.numbers) > ACCOUNTS_MAX:
            self.numbers.clear()
        self.numbers |= self._opened

    async def open_window(self, connection: Any) -> None:
        """Under the baton, when it is sure that nobody else is writing: know what is new."""
        now = time.time()
        floor = await store.newest(connection, id_at(now))
        ceiling = id_at(now + WINDOW_SECONDS)
        ahead = await store.ids_within(connection, floor, ceiling, IDS_AHEAD_MAX + 1)
        await self.look_ahead(connection)
        if len(ahead) <= IDS_AHEAD_MAX:
            self.window.open(floor, ceiling, ahead)

    @property
    def full(self) -> bool:
        """Whether it is time to begin anew."""
        return len(self.accounts) > ACCOUNTS_MAX

    async def look_ahead(self, connection: Any) -> None:
        """Know when the next pending transfer runs out."""
        due_ns = await store.deadline(connection)
        self.due_ns = NEVER_NS if due_ns is None else due_ns

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

    async def meet(self, connection: Any, keys: Sequence[AccountKey]) -> bool:
        """Have the accounts of these keys in here, if all of them were opened before."""
        if len(self.numbers) > ACCOUNTS_MAX:
            self.numbers.clear()
        missing = list(dict.fromkeys(key for key in keys if key not in self.numbers))
        found = await store.find_accounts(connection, missing)
        for key in missing:
            if key in found:
                account = found[key]
                self.numbers[key] = account.id
                self.accounts.setdefault(account.id, account)
        return len(found) == len(missing)

    async def load(self, connection: Any, numbers: Iterable[int]) -> None:
        """Have these accounts in here."""
        missing = [
            number for number in numbers if number not in self.accounts and number <= ACCOUNT_MAX
        ]
        if missing:
            self.accounts.update(await store.accounts(connection, missing))


def _halve(known: dict[Any, Any], most: int) -> None:
    """Drop the older half of what is only a convenience."""
    if len(known) > most:
        for key in list(known)[: most // 2]:
            del known[key]
