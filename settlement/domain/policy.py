"""C2SP trust policies (tlog-policy): which logs are known, and whose cosignatures are enough.

log <vkey> [<url>]
witness <name> <vkey> [<url>]
group <name> <k>|any|all <name>…
quorum <name>|none
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from settlement.domain import checkpoint, cosignature
from settlement.domain.checkpoint import Checkpoint, Verifier
from settlement.domain.errors import BadCheckpoint, BadKey, Malformed

POLICY_BYTES_MAX: Final = 1024 * 1024
NONE: Final = "none"
ANY: Final = "any"
ALL: Final = "all"
_ALLOWED: Final = re.compile(r"[\t\n\x20-\x7e\u0080-\U0010ffff]*\Z")
_COUNT: Final = re.compile(r"[1-9][0-9]{0,4}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Group:
    """Cosigned once at least `needed` of its members are; a member is a witness or a group."""

    needed: int
    members: tuple[str, ...]


@dataclass(slots=True)
class Policy:
    """A parsed policy file; keys are verifier keys as written, in the file's order."""

    logs: dict[str, str] = field(default_factory=dict)  # verifier key → address, maybe empty
    witnesses: dict[str, Verifier] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)  # a witness's name → its address
    groups: dict[str, Group] = field(default_factory=dict)
    quorum: str = ""

    def verify(self, note: str) -> Checkpoint:
        """The tree head, if one of the logs signed it and the quorum cosigned it."""
        head = self._head(note)
        if not self.met(cosignature.cosigned(note, self.witnesses.values())):
            raise BadCheckpoint(f"the cosignatures do not make up the quorum {self.quorum!r}")
        return head

    def met(self, cosigned: Mapping[Verifier, object]) -> bool:
        """Whether these cosigners are enough."""
        if self.quorum == NONE:
            return True
        reached = {name: witness in cosigned for name, witness in self.witnesses.items()}
        for name, group in self.groups.items():  # each refers to earlier lines only
            reached[name] = sum(reached[member] for member in group.members) >= group.needed
        return reached[self.quorum]

    def is_final(self, note: str) -> bool:
        """Whether enough of the witnesses cosigned; nothing is final by a quorum of none."""
        return self.quorum != NONE and self.met(cosignature.cosigned(note, self.witnesses.values()))

    def _head(self, note: str) -> Checkpoint:
        origin = checkpoint.head(note).origin
        for key in self.logs:
            if checkpoint.parse_verifier_key(key).name == origin:
                return checkpoint.verify(note, key)
        raise BadCheckpoint(f"the policy knows no log {origin!r}")


def simple(log_key: str, witness_keys: Sequence[str], *, quorum: int) -> Policy:
    """The policy of one log with k of n cosigners."""
    names = [f"w{number}" for number in range(1, len(witness_keys) + 1)]
    lines = [f"log {log_key}"]
    lines += [f"witness {name} {key}" for name, key in zip(names, witness_keys, strict=True)]
    if quorum:
        lines.append(f"group validators {quorum} {' '.join(names)}")
    lines.append(f"quorum {'validators' if quorum else NONE}")
    return parse(render_lines(lines))


def render_lines(lines: Sequence[str]) -> str:
    """A policy file's text."""
    return "".join(f"{line}\n" for line in lines)


def parse(text: str) -> Policy:
    """`Malformed`, with the line's number, unless the text is a policy."""
    if len(text) > POLICY_BYTES_MAX or not _ALLOWED.match(text):
        raise Malformed("a policy is text without control characters, and not so long")
    policy = Policy()
    for number, line in enumerate(text.split("\n"), start=1):
        words = [word for word in re.split(r"[ \t]+", line) if word]
        if not words or words[0].startswith("#"):
            continue
        try:
            _TAKERS.get(words[0], _unknown)(policy, words)
        except (BadKey, Malformed) as error:
            raise Malformed(f"line {number} of the policy: {error.detail}") from None
    if not policy.quorum:
        raise Malformed("a policy has one quorum line")
    return policy


def _unknown(policy: Policy, words: list[str]) -> None:  # noqa: ARG001 - a taker of lines
    raise Malformed(f"{words[0][:40]!r} is no line of a policy")


def _log(policy: Policy, words: list[str]) -> None:
    _, key, *rest = _sized(words, least=2, most=3)
    address = checkpoint.parse_verifier_key(key).address
    if address in {checkpoint.parse_verifier_key(known).address for known in policy.logs}:
        raise Malformed("this log stands twice")
    policy.logs[key] = rest[0] if rest else ""


def _witness(policy: Policy, words: list[str]) -> None:
    _, name, key, *rest = _sized(words, least=3, most=4)
    witness = cosignature.parse_verifier_key(key)
    if witness.address in {known.address for known in policy.witnesses.values()}:
        raise Malformed("this witness's key stands twice")
    policy.witnesses[_fresh(policy, name)] = witness
    if rest:
        policy.urls[name] = rest[0]


def _group(policy: Policy, words: list[str]) -> None:
    _, name, needed, *members = _sized(words, least=4, most=None)
    known = policy.witnesses.keys() | policy.groups.keys()
    taken = {member for group in policy.groups.values() for member in group.members}
    for member in members:
        if member not in known:
            raise Malformed(f"{member[:40]!r} is not defined before this line")
        if member in taken or members.count(member) > 1:
            raise Malformed(f"{member[:40]!r} can be a member only once")
    if needed not in {ANY, ALL} and not _COUNT.match(needed):
        raise Malformed(f"{needed[:40]!r} is neither a number nor any nor all")
    count = {ANY: 1, ALL: len(members)}.get(needed) or int(needed)
    if count > len(members):
        raise Malformed(f"{count} of {len(members)} members can't be reached")
    policy.groups[_fresh(policy, name)] = Group(count, tuple(members))


def _quorum(policy: Policy, words: list[str]) -> None:
    _, name = _sized(words, least=2, most=2)
    if policy.quorum:
        raise Malformed("a policy has one quorum line")
    if name != NONE and name not in policy.witnesses and name not in policy.groups:
        raise Malformed(f"{name[:40]!r} is not defined before this line")
    policy.quorum = name


def _fresh(policy: Policy, name: str) -> str:
    if name == NONE or name in policy.witnesses or name in policy.groups:
        raise Malformed(f"the name {name[:40]!r} is taken")
    return name


def _sized(words: list[str], *, least: int, most: int | None) -> list[str]:
    if len(words) < least or (most is not None and len(words) > most):
        raise Malformed(f"a {words[0]} line does not have {len(words)} words")
    return words


_TAKERS: Final[dict[str, Callable[[Policy, list[str]], None]]] = {
    "log": _log,
    "witness": _witness,
    "group": _group,
    "quorum": _quorum,
}
