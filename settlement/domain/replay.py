"""The replay: the log's entries in, balances and standings out; it stops at the first that is wrong.

One state machine, (state, statement) → state. Validators run it over the public log, the audit runs
it, and the service takes the transfers of its items from the same table (`moves.py`), so that what
the market does and what anybody recomputes cannot drift apart.
"""

from functools import cache
from typing import Any, Final, NamedTuple

from settlement.domain import replay_charges, replay_market, replay_rules, statement
from settlement.domain.errors import Differs, GridpactError
from settlement.domain.governance import STATE_LAG_MAX, Charter, Takeover
from settlement.domain.moves import RULES as MOVERS
from settlement.domain.moves import Mover
from settlement.domain.payments import Payout
from settlement.domain.replay_rules import Effect, Rule
from settlement.domain.reputation import Standing
from settlement.domain.snapshot import dump, load
from settlement.domain.state_lines import root
from settlement.domain.statement import Opened, Statement
from settlement.domain.world import FRESH_MS, World

SEEN_SWEEP: Final = 4_096  # entries between two sweeps of what is no longer fresh

_RULES: Final[dict[type, Rule]] = {
    **replay_rules.RULES,
    **replay_charges.RULES,
    **replay_market.RULES,
}
_EFFECTS: Final[dict[type, Effect]] = {
    **replay_rules.EFFECTS,
    **replay_charges.EFFECTS,
    **replay_market.EFFECTS,
}


class _Law(NamedTuple):
    """All that is to be known of one kind of statement, met millions of times."""

    is_markets: bool  # it names no signer: the market's key is meant
    rule: Rule | None
    mover: Mover | None
    effect: Effect | None
    named: bool  # it says the ids of its transfers itself


@cache
def _law_of(kind: type[Statement]) -> _Law:
    is_markets = kind.signer is Statement.signer
    named = kind is Payout or "transfer" in kind.__struct_fields__
    return _Law(is_markets, _RULES.get(kind), MOVERS.get(kind), _EFFECTS.get(kind), named)


def _names(said: Any) -> list[str]:  # noqa: ANN401 - of a kind that is named
    """The ids that a statement gives its transfers."""
    return (
        [payee.transfer for payee in said.payees] if isinstance(said, Payout) else [said.transfer]
    )


class Replay:
    """`feed` the entries in order; `Differs` names the first that breaks a rule, and changes nothing."""

    def __init__(self, market: str, *, ledger_key: str = "") -> None:
        """`ledger_key` pins the key that must have signed the charter; else the first entry tells."""
        self._world = World(market)
        self._pinned = ledger_key

    @classmethod
    def load(cls, data: bytes) -> "Replay":
        """Go on from a snapshot, which the caller trusts: its own, or one that a quorum signed."""
        replay = cls("")
        replay._world = load(data)
        return replay

    def dump(self) -> bytes:
        """All that is needed to go on from here; the same at the same place for everybody."""
        return dump(self._world)

    @property
    def market(self) -> str:
        return self._world.market

    @property
    def size(self) -> int:
        """How many entries were taken."""
        return self._world.size

    @property
    def members(self) -> tuple[str, ...]:
        """The validators' keys that stand in the log."""
        return self._world.members

    @property
    def quorum(self) -> int:
        """How many of them make a checkpoint final; 0 while there are none."""
        return self._world.quorum

    @property
    def charter(self) -> Charter | None:
        return self._world.charter

    @property
    def ledger_key(self) -> str:
        return self._world.ledger_key

    @property
    def world(self) -> World:
        """Everything, to be read only."""
        return self._world

    @property
    def standings(self) -> dict[str, Standing]:
        return self._world.standings

    def lines(self, size: int | None = None) -> list[bytes]:
        """The state's lines now, or after fewer entries, back to the last state statement."""
        return self._world.lines(size)

    def state_root(self) -> bytes:
        """The root over the lines."""
        return root(self.lines())

    def feed(self, index: int, envelope: bytes, *, signatures: bool = True) -> Opened:
        """Take one entry; without signatures only for entries whose signatures were checked before."""
        try:
            opened = statement.open_any(
                envelope, market=self._world.market, check_signature=signatures
            )
        except GridpactError as error:
            raise Differs.at(index, "an entry is a signed statement", found=error.detail) from None
        self.take(index, opened)
        return opened

    def take(self, index: int, opened: Opened) -> None:
        """As `feed`, for a statement that is open already."""
        world, said, signer = self._world, opened.statement, opened.signer
        is_markets, rule, mover, effect, named = _law_of(type(said))
        if index != world.size or not index or (is_markets and signer != world.ledger_key):
            self._check_place(index, opened)
        at_ms: int = getattr(said, "at_ms", world.time_ms)
        names = (opened.digest, *_names(said)) if named else (opened.digest,)
        if at_ms < world.time_ms - FRESH_MS or not world.seen.keys().isdisjoint(names):
            self._check_time(index, opened, at_ms, names)
        if rule is not None or mover is not None:
            self._check_law(index, opened, rule, mover)
        if effect is not None:
            effect(world, said, opened)
        if at_ms > world.time_ms and signer == world.ledger_key:
            world.time_ms = at_ms  # last: a refusal changes nothing; a charter names the key
        for name in names:
            world.seen[name] = at_ms
        world.size += 1
        if not world.size % SEEN_SWEEP:
            self._sweep()

    def _sweep(self) -> None:
        """Forget what no later entry can be about."""
        world = self._world
        least = world.fresh_ms
        world.seen = {digest: at for digest, at in world.seen.items() if at >= least}
        world.trim(world.size - STATE_LAG_MAX)

    def _check_place(self, index: int, opened: Opened) -> None:
        """In order, the charter first, and what only the market may say under the market's key."""
        world, said = self._world, opened.statement
        if index != world.size:
            raise Differs.at(index, "entries come in order", expected=world.size, found=index)
        if index == 0:
            if not isinstance(said, Charter):
                raise Differs.at(0, "a log begins with its charter", found=said.kind)
            if self._pinned and opened.signer != self._pinned:
                raise Differs.at(
                    0, "the charter is the market's", expected=self._pinned, found=opened.signer
                )
        else:
            raise Differs.at(
                index, "the market signs with its own key", expected=world.ledger_key, found=opened.signer
            )  # fmt: skip

    def _check_law(
        self, index: int, opened: Opened, rule: Rule | None, mover: Mover | None
    ) -> None:
        """What the kind's rule refuses, or the ledger its transfers; else these are made."""
        world = self._world
        try:
            wrong = rule(world, opened.statement, opened) if rule is not None else None
        except GridpactError as error:  # as no honest statement has them
            raise Differs.at(
                index, "a statement's numbers are in range", found=error.detail
            ) from None
        if wrong is None and mover is not None:
            try:
                made = mover(opened, world.ledger_key)
                refused = world.move(made, opened.digest) if made else None
            except GridpactError as error:
                raise Differs.at(
                    index, "a statement's transfers are in form", found=error.detail
                ) from None
            if refused is not None:
                wrong = ("the ledger takes what is logged", "CREATED", refused.name)
        if wrong is not None:
            raise Differs.at(index, wrong[0], expected=wrong[1], found=wrong[2])

    def _check_time(self, index: int, opened: Opened, at_ms: int, names: tuple[str, ...]) -> None:
        """Nothing old is logged as new, and nothing twice: so what is seen may be forgotten in time."""
        world = self._world
        if at_ms < world.fresh_ms and not isinstance(opened.statement, Takeover):
            raise Differs.at(
                index, "a statement is logged near its own time", expected=world.time_ms, found=at_ms
            )  # fmt: skip
        if opened.digest in world.seen:
            raise Differs.at(index, "a statement is logged once", found=opened.digest)
        twice = next((name for name in names if name in world.seen), None)
        if twice is not None:
            raise Differs.at(index, "a transfer of one id is made once", found=twice)
