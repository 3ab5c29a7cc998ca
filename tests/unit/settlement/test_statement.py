"""Statements of every kind: one form, one meaning, one signer, one market; all else is refused."""

import base64
import re
import uuid
from typing import Any, Final

import msgspec
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

import settlement.domain.receipt
import settlement.domain.trade
import settlement.domain.verdict
from settlement.domain import canonical, statement
from settlement.domain.errors import (
    BadSignature,
    BadStatement,
    GridpactError,
    Malformed,
    WrongMarket,
)
from settlement.domain.identity import PrivateKey
from settlement.domain.payments import Issue, Payment
from settlement.domain.statement import Opened, Statement

KEY: Final = PrivateKey(b"\3" * 32)
OTHER: Final = PrivateKey(b"\4" * 32)
MARKET: Final = "market.example"
KINDS: Final = sorted(Statement.kinds)


def payment(**fields: object) -> Payment:
    said: dict[str, Any] = {
        "v": 1, "kind": "payment", "market": MARKET, "payer": KEY.address, "to": OTHER.address,
        "amount": "12", "transfer": str(uuid.UUID(int=5)), "memo": 'für 😀 \n\t"/\\\x1f', "at_ms": 7,
    }  # fmt: skip
    return Payment(**{**said, **fields})


OPENED: Final = statement.sign(payment(), KEY)


def values(kind: msgspec.inspect.Type) -> st.SearchStrategy[Any]:  # noqa: C901, PLR0911 - one a type
    """Anything of a type, as msgspec describes it."""
    match kind:
        case msgspec.inspect.IntType():
            return st.integers(kind.ge or 0, canonical.INTEGER_MAX if kind.le is None else kind.le)
        case msgspec.inspect.StrType(pattern=str() as pattern):
            return st.from_regex(re.compile(pattern), fullmatch=True)
        case msgspec.inspect.StrType():
            return st.text(min_size=kind.min_length or 0, max_size=min(kind.max_length or 20, 20))
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.EnumType():
            return st.sampled_from(list(kind.cls))
        case msgspec.inspect.ListType():
            size = min(kind.max_length or 3, 3)
            return st.lists(values(kind.item_type), min_size=kind.min_length or 0, max_size=size)
        case msgspec.inspect.StructType():
            fields = {field.name: values(field.type) for field in kind.fields}
            return st.builds(kind.cls, **fields)
        case msgspec.inspect.DictType():
            # keys beyond ASCII sort differently in every encoder
            assert getattr(kind.key_type, "pattern", "").startswith("^[!-~]")
            return st.dictionaries(values(kind.key_type), values(kind.value_type), max_size=3)
        case _:
            raise AssertionError(f"{kind} may not stand in a statement")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_kind_encodes_as_rfc_8785_says(kind: str, data: st.DataObject) -> None:
    said = data.draw(values(msgspec.inspect.type_info(Statement.kinds[kind])))
    encoded = canonical.encode(said)
    assert encoded == rfc8785.dumps(msgspec.to_builtins(said))
    assert canonical.decode(encoded, Statement.kinds[kind]) == said


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_has_defaults_floats_or_null(kind: str) -> None:
    described = msgspec.inspect.type_info(Statement.kinds[kind])
    assert isinstance(described, msgspec.inspect.StructType)
    assert described.forbid_unknown_fields
    assert all(field.required for field in described.fields)
    values(described)  # raises for any type that is not listed there


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_every_kind_opens_for_its_signer_only(kind: str, data: st.DataObject) -> None:
    drawn = data.draw(values(msgspec.inspect.type_info(Statement.kinds[kind])))
    said = msgspec.structs.replace(drawn, kind=kind, market=MARKET)
    opened = statement.sign(said, KEY)
    if said.signer() in {None, KEY.address}:
        assert statement.open_any(opened.envelope, market=MARKET) == opened
    else:
        with pytest.raises(BadSignature, match="another key"):
            statement.open_any(opened.envelope, market=MARKET)


def test_it_opens_as_it_was_signed() -> None:
    said, opened = statement.open_envelope(OPENED.envelope, Payment, market=MARKET)
    assert said == payment()
    assert opened == OPENED


@pytest.mark.parametrize("at", range(len(OPENED.envelope)))
def test_every_changed_byte_is_refused(at: int) -> None:
    for flip in (1, 0x20, 0x80):
        changed = bytearray(OPENED.envelope)
        changed[at] ^= flip
        with pytest.raises((BadStatement, BadSignature)):
            statement.open_any(bytes(changed), market=MARKET)


def enveloped(payload: bytes, kind: str = "payment", key: PrivateKey = KEY) -> bytes:
    """Any payload, signed properly."""
    context = statement.context(kind)
    signature = key.sign(statement.pae(context, payload))
    return canonical.encode(
        statement.Envelope(
            base64.b64encode(payload).decode(),
            context,
            [statement.Signature(key.address, base64.b64encode(signature).decode())],
        )
    )


PAYLOAD: Final = canonical.encode(payment())


@pytest.mark.parametrize(
    "payload",
    [
        PAYLOAD.replace(b'"amount":"12"', b'"amount":"13","amount":"12"'),  # the decoder takes the last
        PAYLOAD.replace(b'"amount"', b'"\\u0061mount"'),
        PAYLOAD.replace(b'"memo":"', b'"memo":"\\u0041'),
        PAYLOAD.replace(b'"memo":"', b'"memo":"\\/'),
        PAYLOAD.replace(b',"', b', "', 1),
        b" " + PAYLOAD,
        PAYLOAD + b"\n",
        PAYLOAD + b"{}",
        PAYLOAD.replace(b'"at_ms":7', b'"at_ms":-0'),
        PAYLOAD.replace(b'"at_ms":7', b'"at_ms":7.0'),
        PAYLOAD.replace(b'"at_ms":7', b'"at_ms":7e0'),
        PAYLOAD.replace(b'"at_ms":7', b'"at_ms":null'),
        PAYLOAD.replace(b'"at_ms":7', b'"at_ms":9007199254740992'),
        PAYLOAD.replace(b'"at_ms":7', b'"at_ms":"7"'),
        PAYLOAD.replace(b'"at_ms":7,', b""),
        PAYLOAD.replace(b'{"amount"', b'{"about":1,"amount"'),
        PAYLOAD.replace(b'"12"', b'"012"'),
        PAYLOAD.replace(b'"12"', b'"-1"'),
        PAYLOAD.replace(b'"12"', b"12"),
        PAYLOAD.replace(b'"12"', b'"1' + b"0" * 39 + b'"'),
        PAYLOAD.replace(b'"v":1', b'"v":2'),
        PAYLOAD.replace(b'"memo":"', b'"memo":"\xff'),
        PAYLOAD.replace(b'"memo":"', b'"memo":"\\ud800'),
        PAYLOAD.replace(KEY.address.encode(), KEY.address.upper().encode()),
        b"[" * 20_000,
        b"",
    ],
)  # fmt: skip
def test_other_bytes_of_the_same_meaning_are_refused(payload: bytes) -> None:
    assert payload != PAYLOAD
    with pytest.raises(BadStatement):
        statement.open_any(enveloped(payload), market=MARKET)


def test_a_line_break_does_not_pass_a_pattern() -> None:
    payload = PAYLOAD.replace(b'"amount":"12"', b'"amount":"12\\n"')
    with pytest.raises(BadStatement):
        statement.open_any(enveloped(payload), market=MARKET)


def test_the_envelope_has_one_form_too() -> None:
    envelope = msgspec.json.decode(OPENED.envelope)
    signature = envelope["signatures"][0]
    padded = {**signature, "sig": signature["sig"][:-3] + chr(ord(signature["sig"][-3]) + 1) + "=="}
    for changed in (
        OPENED.envelope + b" ",
        msgspec.json.encode({**envelope, "more": 1}, order="sorted"),
        msgspec.json.encode({**envelope, "signatures": []}, order="sorted"),
        msgspec.json.encode({**envelope, "signatures": [signature] * 2}, order="sorted"),
        msgspec.json.encode({**envelope, "signatures": [padded]}, order="sorted"),
        msgspec.json.encode({**envelope, "payload": envelope["payload"] + "\n"}, order="sorted"),
        msgspec.json.encode({**envelope, "payloadType": "text/plain"}, order="sorted"),
        msgspec.json.encode(dict(reversed(envelope.items()))),
        b"x" * (statement.ENVELOPE_BYTES_MAX + 1),
    ):
        with pytest.raises(BadStatement):
            statement.open_any(changed, market=MARKET)


def test_a_signature_serves_one_kind_one_market_one_signer() -> None:
    with pytest.raises(WrongMarket):
        statement.open_any(OPENED.envelope, market="other.example")
    with pytest.raises(BadStatement, match="kind issue"):
        statement.open_envelope(OPENED.envelope, Issue, market=MARKET)
    with pytest.raises(BadStatement, match="another kind than its context"):
        statement.open_any(enveloped(canonical.encode(payment(kind="issue"))), market=MARKET)
    with pytest.raises(BadSignature, match="another key"):
        statement.open_any(enveloped(PAYLOAD, key=OTHER), market=MARKET)
    moved = msgspec.json.decode(OPENED.envelope)
    moved["payloadType"] = statement.context("issue")
    with pytest.raises(BadSignature):
        statement.open_any(msgspec.json.encode(moved, order="sorted"), market=MARKET)


def test_a_statement_too_long_for_the_log_is_not_signed() -> None:
    long = payment(memo="x" * statement.PAYLOAD_BYTES_MAX)
    with pytest.raises(BadStatement):
        statement.sign(long, KEY)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_garbage_is_one_kind_of_refusal(data: bytes) -> None:
    with pytest.raises(GridpactError):
        statement.open_any(data, market=MARKET)
    with pytest.raises((Malformed, GridpactError)):
        canonical.decode(data + b"}", Opened)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "sha256:" + "A" * 64,
        "sha256:" + "0" * 65,
        "sha512:" + "0" * 64,
        "sha256:" + "0" * 64 + "\n",
    ],
)
def test_other_digests_are_refused(text: str) -> None:
    assert not canonical.is_digest(text)
    with pytest.raises(Malformed):
        canonical.digest_bytes(text)


def test_kinds_of_all_layers_are_here() -> None:
    assert {"issue", "payment", "receipt", "verdict", "release"} <= set(KINDS)
    assert len(KINDS) > 7, settlement.domain.trade.__name__
