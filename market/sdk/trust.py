"""Whose word makes something final: the validators pinned at first use, or those of a policy file.

A new set is believed if the pinned one approved it, as the log proves; else the user has to say so.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from market.sdk import wallet
from market.sdk.explorer import Explorer, entries_from
from market.sdk.reader import MarketReader, read
from market.sdk.wallet import ValidatorsPin
from market.wire.public import ValidatorsView
from settlement.domain import checkpoint, cosignature, evidence, policy
from settlement.domain.errors import BadProof, Malformed, MarketChanged
from settlement.domain.governance import Approval, Validators
from settlement.domain.policy import Policy
from settlement.domain.statement import Opened

KINDS: Final = ("validators", "approval")


@dataclass(frozen=True, slots=True)
class Trusted:
    """The keys that a reader trusts. Without a policy nothing is final."""

    log_key: str
    ledger_key: str
    policy: Policy | None = None

    def is_final(self, note: str) -> bool:
        """Whether enough of the trusted validators cosigned a checkpoint."""
        return self.policy is not None and self.policy.is_final(note)


def by_pin(log_key: str, ledger_key: str, pin: ValidatorsPin | None) -> Trusted:
    """What a wallet remembers."""
    if pin is None or not pin.quorum:
        return Trusted(log_key, ledger_key)
    return Trusted(log_key, ledger_key, policy.simple(log_key, pin.members, quorum=pin.quorum))


def by_policy(text: str, ledger_key: str) -> Trusted:
    """What a policy file (C2SP tlog-policy) says of its one log."""
    parsed = policy.parse(text)
    if len(parsed.logs) != 1:
        raise Malformed("the policy has to name exactly one log")
    return Trusted(next(iter(parsed.logs)), ledger_key, parsed)


async def current(client: MarketReader, *, accept: bool = False) -> ValidatorsPin:
    """The market's validators, checked against the pin, and pinned.

    `MarketChanged` if they are others, and the log does not prove that the pinned ones agreed;
    `accept` is the user's own word for it.
    """
    market = await client.market()
    data = await client.transport.request("GET", "/v1/validators", signed=False)
    view = read(data, ValidatorsView)
    size = checkpoint.head(await client.checkpoint()).size
    seen = ValidatorsPin(view.members, view.quorum, size)
    if client.home is None:
        return seen
    known = wallet.load_profile(client.home).validators.get(client.url)
    if known is not None and known.quorum and not accept:
        if known.same(seen):
            return known
        follow = _Follow(known)
        for opened, index in await _logged(client, market.log_key):
            if opened.signer == market.ledger_key or isinstance(opened.statement, Approval):
                follow.take(index, opened)
        if not follow.now.same(seen):
            raise MarketChanged(
                f"the validators of {client.url} changed, and the log does not prove that the pinned"
                f" ones approved it: pinned {known.told()}, now {seen.told()};"
                " `gridpact wallet validators --accept` trusts them"
            )
    wallet.pin_validators(client.home, client.url, seen)
    return seen


async def trusted(client: MarketReader) -> Trusted:
    """The keys of the market that a client talks to, as they are pinned."""
    market = await client.market()
    return by_pin(market.log_key, market.ledger_key, await current(client))


async def _logged(client: MarketReader, log_key: str) -> Iterable[tuple[Opened, int]]:
    """Every statement about validators, each with its proof checked, in the log's order."""
    explorer, found = Explorer(client.transport), []
    for kind in KINDS:
        for row in await explorer.rows(entries_from(kind=kind)):
            data = await client.statement_evidence(row.digest)
            opened = evidence.verify(data, log_key)
            if opened.digest != row.digest:
                raise BadProof("the market proved another statement than the one asked for")
            index = msgspec.json.decode(data, type=evidence.Evidence).index
            found.append((opened, index))
    return sorted(found, key=lambda each: each[1])


@dataclass(slots=True)
class _Follow:
    """Which set stands, from a pinned one on, by the approvals of its own members."""

    now: ValidatorsPin
    _proposed: dict[str, Validators] = field(default_factory=dict)
    _approved: dict[str, set[str]] = field(default_factory=dict)

    def take(self, index: int, opened: Opened) -> None:
        said = opened.statement
        if isinstance(said, Validators):
            self._proposed[opened.digest] = said
        elif isinstance(said, Approval) and said.statement in self._proposed:
            self._approve(index, said)

    def _approve(self, index: int, said: Approval) -> None:
        members = {cosignature.parse_verifier_key(key).address for key in self.now.members}
        agreed = self._approved.setdefault(said.statement, set())
        agreed.add(said.validator)
        if index < self.now.size or len(agreed & members) < self.now.quorum:
            return
        wanted = self._proposed[said.statement]
        self.now = ValidatorsPin(list(wanted.members), wanted.quorum, index + 1)
        self._proposed.clear()
        self._approved.clear()
