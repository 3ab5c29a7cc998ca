"""What the library signs, the hand-written verifier of the market accepts, and the other way round."""

import time
from urllib.parse import quote, urlsplit

import pytest
from http_message_signatures import (
    HTTPMessageVerifier,
    HTTPSignatureKeyResolver,
    InvalidSignature,
    algorithms,
)
from hypothesis import given
from hypothesis import strategies as st

from market.sdk.transport import Message, Transport, sign
from market.wire import signed_request
from settlement.domain.errors import GridpactError
from settlement.domain.identity import PrivateKey

AUTHORITY = "127.0.0.1:8410"
KEY = PrivateKey(b"\x07" * 32)
OWN = frozenset({AUTHORITY})

texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)
queries = st.dictionaries(texts, texts, max_size=4)
paths = st.lists(texts.filter(lambda part: part not in {"", ".", ".."}), min_size=1, max_size=4)


class Resolver(HTTPSignatureKeyResolver):
    """The keyid is the key."""

    def resolve_public_key(self, key_id: str) -> object:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(key_id))

    def resolve_private_key(self, key_id: str) -> object:
        raise NotImplementedError(key_id)


def received(message: Message) -> signed_request.Request:
    parts = urlsplit(message.url)
    return signed_request.Request(
        message.method,
        parts.netloc,
        parts.path,
        f"?{parts.query}" if parts.query else "",
        {name.lower(): value for name, value in message.headers.items()},
    )


def signed(method: str, path: list[str], query: dict[str, str], body: bytes, now: int) -> Message:
    url = Transport(f"http://{AUTHORITY}").url("/" + "/".join(map(_segment, path)), query)
    message = Message(method, url, {})
    sign(message, KEY, body=body, now=now)
    return message


def _segment(text: str) -> str:
    return quote(text, safe="").replace("%", "")


@given(st.sampled_from(["GET", "POST", "PUT"]), paths, queries, st.binary(max_size=200))
def test_library_signed_is_accepted_by_hand(
    method: str, path: list[str], query: dict[str, str], body: bytes
) -> None:
    now = int(time.time())
    message = signed(method, path, query, body, now)
    caller = signed_request.verify(received(message), authorities=OWN, now=now)
    assert caller.address == KEY.address
    if method != "GET":
        assert caller.idempotency_key == message.headers["Idempotency-Key"]
        signed_request.verify_body(received(message), body)


@given(st.sampled_from(["GET", "POST"]), paths, queries, st.binary(max_size=200))
def test_hand_signed_is_accepted_by_the_library(
    method: str, path: list[str], query: dict[str, str], body: bytes
) -> None:
    now = int(time.time())
    url = Transport(f"http://{AUTHORITY}").url("/" + "/".join(map(_segment, path)), query)
    message = Message(method, url, {})
    if method == "POST":
        message.headers.update(
            {
                "Content-Digest": signed_request.content_digest(body),
                "Idempotency-Key": "0123456789",
            }
        )
    message.headers.update(signed_request.sign(received(message), KEY, now=now))
    verifier = HTTPMessageVerifier(signature_algorithm=algorithms.ED25519, key_resolver=Resolver())
    verifier.verify(message, expect_tag=signed_request.TAG, body=body if method == "POST" else None)
    broken = Message("DELETE", message.url, message.headers)
    with pytest.raises(InvalidSignature):
        verifier.verify(broken, expect_tag=signed_request.TAG)


@given(
    st.sampled_from(["method", "path", "query", "authority", "content-digest", "idempotency-key"])
)
def test_every_covered_part_counts(part: str) -> None:
    now = int(time.time())
    request = received(signed("POST", ["v1", "jobs"], {"a": "b"}, b"{}", now))
    headers = dict(request.headers)
    fields = {name: getattr(request, name) for name in ("method", "authority", "path", "query")}
    if part in fields:
        fields[part] = {"method": "PUT", "authority": "other:1"}.get(part, fields[part] + "x")
    else:
        headers[part] += "x"
    changed = signed_request.Request(**fields, headers=headers)
    with pytest.raises(GridpactError):
        signed_request.verify(changed, authorities=OWN | {"other:1"}, now=now)


def test_default_port_is_not_part_of_the_authority() -> None:
    now = int(time.time())
    message = Message("GET", "http://market.example:80/v1/market", {})
    sign(message, KEY, body=b"", now=now)
    request = signed_request.Request(
        "GET",
        "market.example",
        "/v1/market",
        "",
        {k.lower(): v for k, v in message.headers.items()},
    )
    caller = signed_request.verify(request, authorities=frozenset({"market.example"}), now=now)
    assert caller.address == KEY.address
