"""Strict decoding, problem documents both ways, and the signature profile."""

import base64
from contextlib import suppress
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.wire import codec, problem, signed_request
from market.wire.jobs import Append
from market.wire.payload import INLINE_BYTES_MAX, Payload, inline
from market.wire.signed_request import Request
from settlement.domain.errors import (
    BadSignature,
    DigestMismatch,
    GridpactError,
    Malformed,
    Oversized,
    StaleRequest,
    Unsigned,
    WrongAuthority,
)  # fmt: skip
from settlement.domain.identity import PrivateKey

KEY = PrivateKey(b"\x07" * 32)
AUTHORITIES = frozenset({"market.example:8410"})
NOW = 1_800_000_000


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"first":0,"inputs":[]}',
        b'{"first":0,"inputs":[],"sealed":false,"more":1}', b'{"first":true,"inputs":[],"sealed":false}',
        b'{"first":0.0,"inputs":[],"sealed":false}', b'{"first":"0","inputs":[],"sealed":false}',
        b'{"first":-1,"inputs":[],"sealed":false}', b'{"first":0,"inputs":null,"sealed":false}',
        b'{"first":0,"first":0,"inputs":[],"sealed":false}', b'{"first":0,"inputs":[],"sealed":false} x',
        b'{"first":0,"inputs":' + b"[" * 5_000 + b"]" * 5_000 + b',"sealed":false}',
        b'{"first":9007199254740993,"inputs":[],"sealed":false}',
    ],
)  # fmt: skip
def test_whatever_is_wrong_is_one_refusal(body: bytes) -> None:
    with pytest.raises(Malformed):
        codec.decode(body, Append)


def test_sizes_are_limited() -> None:
    with pytest.raises(Oversized):
        codec.decode(b" " * (codec.BODY_BYTES_MAX + 1), Append)
    with pytest.raises(Oversized):
        codec.unpack(b"\0" * 11, Append, bytes_max=10)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_decoded(body: bytes) -> None:
    for reader in (codec.decode, codec.unpack):
        with suppress(Malformed, Oversized):
            reader(body, Append)


def test_every_error_survives_the_wire() -> None:
    for code, kind in GridpactError.registry.items():
        document = problem.from_error(kind("because"))
        again = problem.to_error(msgspec.json.encode(document), document.status)
        assert type(again) is kind
        assert (again.code, again.detail) == (code, "because")
        assert document.title
        assert document.cure


def test_what_is_no_problem_document_is_still_an_error() -> None:
    assert problem.to_error(b"<html>", 502).code == "failed"


def test_payloads_are_held_to_their_digest() -> None:
    inline(b"x").check()
    inline(b"x" * (INLINE_BYTES_MAX + 1)).check()
    small = inline(b"x")
    with pytest.raises(DigestMismatch):
        Payload(small.digest, 1, b"y").check()
    with pytest.raises(DigestMismatch):
        Payload(small.digest, 2, b"x").check()
    Payload(small.digest, 1).check()  # small bytes may be a blob too


def request(method: str = "POST", body: bytes = b"{}", **changes: str) -> Request:
    headers = {
        "content-digest": signed_request.content_digest(body),
        "idempotency-key": "key-00000001",
    }
    unsigned = Request(method, "market.example:8410", "/v1/jobs", "?a=1", headers)
    signed = {k.lower(): v for k, v in signed_request.sign(unsigned, KEY, now=NOW).items()}
    fields = {
        "method": method, "authority": "market.example:8410", "path": "/v1/jobs", "query": "?a=1",
        **changes,
    }  # fmt: skip
    return Request(**fields, headers={**headers, **signed})


def check(received: Request, now: int = NOW) -> signed_request.Caller:
    return signed_request.verify(received, authorities=AUTHORITIES, now=now)


def test_a_signed_request_names_its_caller() -> None:
    caller = check(request())
    assert caller == signed_request.Caller(KEY.address, "key-00000001")
    assert check(request("GET")) == signed_request.Caller(KEY.address, "")
    signed_request.verify_body(request(), b"{}")


@pytest.mark.parametrize(
    "changed",
    [
        replace(request(), method="PUT"),
        replace(request(), path="/v1/offers"),
        replace(request(), query="?a=2"),
        replace(request(), query=""),
    ],
)
def test_a_signature_serves_one_request_only(changed: Request) -> None:
    with pytest.raises(BadSignature):
        check(changed)


def test_other_refusals_have_their_own_codes() -> None:
    with pytest.raises(WrongAuthority):
        check(request(authority="other.example"))
    with pytest.raises(StaleRequest):
        check(request(), now=NOW + signed_request.WINDOW_SECONDS)
    with pytest.raises(StaleRequest):
        check(request(), now=NOW - signed_request.SKEW_SECONDS - 1)
    with pytest.raises(DigestMismatch):
        signed_request.verify_body(request(), b"[]")
    with pytest.raises(Unsigned):
        check(Request("GET", "market.example:8410", "/", "", {}))


def test_a_changed_key_is_a_changed_signature() -> None:
    good = request()
    headers = {**good.headers, "idempotency-key": "key-00000002"}
    with pytest.raises(BadSignature):
        check(Request(good.method, good.authority, good.path, good.query, headers))


@given(st.sampled_from(["signature", "signature-input"]), st.data())
def test_no_changed_character_passes(name: str, data: st.DataObject) -> None:
    good = request()
    value = good.headers[name]
    at = data.draw(st.integers(0, len(value) - 1))
    other = data.draw(st.characters(min_codepoint=32, max_codepoint=126))
    if value[at] == other:
        return
    headers = {**good.headers, name: value[:at] + other + value[at + 1 :]}
    with pytest.raises((Unsigned, BadSignature, StaleRequest)):
        check(Request(good.method, good.authority, good.path, good.query, headers))


def test_a_signature_has_one_spelling() -> None:
    good = request()
    value = good.headers["signature"]
    last = value.index("==") - 1  # only two of this digit's six bits are used
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    for digit in digits:
        if digit != value[last]:
            spelt = {**good.headers, "signature": value[:last] + digit + value[last + 1 :]}
            with pytest.raises((Unsigned, BadSignature)):
                check(replace(good, headers=spelt))


def test_base64_bodies_travel_in_json() -> None:
    encoded = codec.encode(inline(b"\x00\xff"))
    assert base64.b64encode(b"\x00\xff") in encoded
    assert codec.decode(encoded, Payload) == inline(b"\x00\xff")
