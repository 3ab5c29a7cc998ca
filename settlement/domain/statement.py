"""Statements: a frozen Struct per kind, signed over canonical bytes under a context of its own.

The form is DSSE 1.0.2 over canonical JSON: the signed bytes are the pre-authentication encoding
(PAE), which names the kind, so that no signature can serve another purpose. An envelope carries
exactly one signature, and its bytes are the log's entry (docs/protocol.md).
"""

import base64
import re
from typing import Annotated, ClassVar, Final, TypeVar

import msgspec

from settlement.domain import canonical, identity
from settlement.domain.errors import BadSignature, BadStatement, Malformed, WrongMarket

PAYLOAD_BYTES_MAX: Final = 32 * 1024
ENVELOPE_BYTES_MAX: Final = 65_535  # a tile entry's length is two bytes
CONTEXT: Final = re.compile(r"application/vnd\.gridpact\.([a-z]+)\.v1\+json\Z")

Address = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
Digest = Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}$(?!\n)")]
Amount = Annotated[str, msgspec.Meta(pattern=r"^(0|[1-9][0-9]{0,38})$(?!\n)")]
Identifier = Annotated[
    str,
    msgspec.Meta(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$(?!\n)"),
]
Count = Annotated[int, msgspec.Meta(ge=0, le=canonical.INTEGER_MAX)]
TimeMs = Annotated[int, msgspec.Meta(ge=0, le=canonical.INTEGER_MAX)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Nonce = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every statement says: its version, its kind, the market it is for, who, and when."""

    kinds: ClassVar[dict[str, type["Statement"]]] = {}

    v: Annotated[int, msgspec.Meta(ge=1, le=1)]
    kind: str
    market: Name

    def signer(self) -> str | None:
        """The address that must have signed; None when the reader knows it (the market's key)."""
        return None


S = TypeVar("S", bound=Statement)


def register(kind: type[S]) -> type[S]:
    """Class decorator: makes a kind known under its lower-case name."""
    Statement.kinds[kind.__name__.lower()] = kind
    return kind


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One signature: the key's address and 64 bytes in base64."""

    keyid: Address
    sig: str


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A signed statement as it travels and as it stands in the log."""

    payload: str
    payload_type: str
    signatures: list[Signature]


class Opened(msgspec.Struct, frozen=True):
    """A statement whose signature and form were checked, with the bytes that prove it."""

    statement: Statement
    signer: str
    digest: str
    envelope: bytes


def context(kind: str) -> str:
    """The DSSE payload type: the context string of one kind."""
    return f"application/vnd.gridpact.{kind}.v1+json"


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE pre-authentication encoding: `DSSEv1 <len> <type> <len> <payload>`."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(statement: Statement, key: identity.PrivateKey) -> Opened:
    """The statement under the key, ready for the log."""
    payload = canonical.encode(statement)
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise BadStatement(f"a statement has at most {PAYLOAD_BYTES_MAX} bytes, not {len(payload)}")
    kind = context(statement.kind)
    signed = pae(kind, payload)
    signature = Signature(key.address, base64.b64encode(key.sign(signed)).decode())
    envelope = Envelope(base64.b64encode(payload).decode(), kind, [signature])
    return Opened(statement, key.address, canonical.digest(signed), canonical.encode(envelope))


def open_envelope(data: bytes, kind: type[S], *, market: str) -> tuple[S, Opened]:
    """Check an envelope, in this order, and return the statement of the wanted kind.

    Size → form → context → signature over the received bytes → strict decode → re-encoded bytes
    equal → market is ours → the signer is who the statement says.
    """
    opened = open_any(data, market=market)
    return of_kind(opened, kind), opened


def of_kind(opened: Opened, kind: type[S]) -> S:
    """The statement, if it is of the wanted kind."""
    if not isinstance(opened.statement, kind):
        raise BadStatement(f"a statement of kind {kind.__name__.lower()} is needed here")
    return opened.statement


def open_any(data: bytes, *, market: str, check_signature: bool = True) -> Opened:
    """As `open_envelope`, for whichever kind the context names.

    The signature may be left out only for bytes of which it was checked before.
    """
    if len(data) > ENVELOPE_BYTES_MAX:
        raise BadStatement(f"an envelope has at most {ENVELOPE_BYTES_MAX} bytes")
    try:
        envelope = canonical.decode(data, Envelope)
    except Malformed as error:
        raise BadStatement(f"the envelope is not in form: {error}") from None
    if len(envelope.signatures) != 1:
        raise BadStatement("an envelope carries exactly one signature")
    payload = _unbase64(envelope.payload)
    signature = _unbase64(envelope.signatures[0].sig)
    matched = CONTEXT.match(envelope.payload_type)
    kind = Statement.kinds.get(matched[1]) if matched else None
    if matched is None or kind is None:
        raise BadStatement(f"unknown kind {envelope.payload_type[:80]!r}")
    signer = envelope.signatures[0].keyid
    signed = pae(envelope.payload_type, payload)
    if check_signature and not identity.verify(signer, signed, signature):
        raise BadSignature("the statement's signature does not hold")
    try:
        statement = canonical.decode(payload, kind)
    except Malformed as error:
        raise BadStatement(error.detail) from None
    _check(statement, matched[1], signer, market)
    return Opened(statement, signer, canonical.digest(signed), data)


def _unbase64(text: str) -> bytes:
    """The bytes behind canonical base64: decoding must lose nothing, not even padding bits."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:  # binascii.Error, or characters beyond ASCII
        raise BadStatement(f"not base64: {error}") from None
    if base64.b64encode(data).decode() != text:
        raise BadStatement("the base64 is not canonical")
    return data


def _check(statement: Statement, kind: str, signer: str, market: str) -> None:
    if statement.kind != kind:
        raise BadStatement("the statement names another kind than its context")
    if statement.market != market:
        raise WrongMarket(f"the statement is for {statement.market!r}, this market is {market!r}")
    expected = statement.signer()
    if expected is not None and expected != signer:
        raise BadSignature("the statement is signed by another key than the party it names")
