"""docs/protocol.md: its vectors are what the code computes, and what others' code computes too."""

import base64
import re
from typing import Any, cast

import msgspec
import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

import settlement.domain.governance
import settlement.domain.payments
import settlement.domain.receipt
import settlement.domain.settled
import settlement.domain.trade
import settlement.domain.verdict
from market.wire import plain, signed_request
from settlement.domain import canonical, checkpoint, identity, statement
from settlement.domain.errors import GridpactError
from settlement.domain.statement import Envelope, Statement
from tests.meta import documents
from tests.meta.vectors import RECOMPUTE, Vector

PROTOCOL = "docs/protocol.md"
VECTORS = cast("dict[str, dict[str, Vector]]", documents.vectors())
DEFINING = (
    settlement.domain.trade,
    settlement.domain.payments,
    settlement.domain.receipt,
    settlement.domain.verdict,
    settlement.domain.settled,
    settlement.domain.governance,
)


def test_every_vector_is_there() -> None:
    assert set(VECTORS) == set(RECOMPUTE)


@pytest.mark.parametrize("name", sorted(RECOMPUTE))
def test_the_code_computes_the_vector(name: str) -> None:
    vector = VECTORS[name]
    assert RECOMPUTE[name](vector["given"]) == vector["expect"]


@pytest.mark.parametrize("name", ["payment", "receipt"])
def test_a_stranger_computes_the_same_statement(name: str) -> None:
    given, expect = VECTORS[name]["given"], VECTORS[name]["expect"]
    assert rfc8785.dumps(given["statement"]).decode() == expect["payload"]
    signer = _signer(given)
    assert (
        base64.b64encode(signer.sign(expect["signed_bytes"].encode())).decode()
        == (expect["signature"])
    )
    kind = given["statement"]["kind"]
    context = f"application/vnd.gridpact.{kind}.v1+json"
    length = len(expect["payload"].encode())
    assert expect["signed_bytes"] == f"DSSEv1 {len(context)} {context} {length} {expect['payload']}"


@pytest.mark.parametrize("name", ["payment", "receipt"])
def test_the_statement_opens_and_every_changed_byte_is_refused(name: str) -> None:
    expect, market_name = VECTORS[name]["expect"], VECTORS[name]["given"]["statement"]["market"]
    envelope = expect["envelope"].encode()
    assert statement.open_any(envelope, market=market_name).digest == expect["digest"]
    for place in range(len(envelope)):
        changed = bytearray(envelope)
        changed[place] ^= 0x01
        with pytest.raises(GridpactError):
            statement.open_any(bytes(changed), market=market_name)


@pytest.mark.parametrize("name", ["request-read", "request-write"])
def test_the_request_is_accepted_under_its_key(name: str) -> None:
    given, expect = VECTORS[name]["given"], VECTORS[name]["expect"]
    headers = {header.lower(): value for header, value in expect["headers"].items()}
    request = signed_request.Request(
        given["method"], given["authority"], given["path"], given["query"], headers
    )
    authorities = frozenset({given["authority"]})
    caller = signed_request.verify(request, authorities=authorities, now=given["now"] + 1)
    assert caller.address == identity.PrivateKey(bytes.fromhex(given["seed"])).address
    signature = base64.b64decode(headers["signature"].removeprefix("sig1=:").removesuffix(":"))
    _public(given).verify(signature, expect["signature_base"].encode())


def test_the_checkpoint_holds_under_its_key() -> None:
    given, expect = VECTORS["checkpoint"]["given"], VECTORS["checkpoint"]["expect"]
    text, _, lines = expect["note"].partition("\n\n")
    signature = base64.b64decode(lines.split(" ")[2])
    assert signature[:4].hex() == expect["verifier_key"].split("+")[1]
    _public(given).verify(signature[4:], f"{text}\n".encode())
    signer, root = identity.PrivateKey(bytes.fromhex(given["seed"])), bytes.fromhex(given["root"])
    assert checkpoint.verifier_key(given["origin"], signer) == expect["verifier_key"]
    note = checkpoint.sign(given["origin"], signer, size=given["size"], root=root)
    assert note == expect["note"]
    assert checkpoint.verify(note, expect["verifier_key"]).size == given["size"]


def test_the_receipt_names_the_leaves_beside_it() -> None:
    claim, roots = VECTORS["receipt"]["given"]["statement"], VECTORS["leaves"]["expect"]
    assert {name: claim[name] for name in ("tasks_root", "inputs", "outputs")} == {
        name: roots[name] for name in ("tasks_root", "inputs", "outputs")
    }


def test_the_tree_holds_the_two_statements() -> None:
    entries = VECTORS["tree"]["given"]["entries"]
    assert entries[:2] == [VECTORS[name]["expect"]["envelope"] for name in ("payment", "receipt")]
    given = VECTORS["checkpoint"]["given"]
    assert (given["size"], given["root"]) == (len(entries), VECTORS["tree"]["expect"]["root"])


def test_plain_data_comes_back() -> None:
    for text, data in VECTORS["plain"]["expect"].items():
        assert repr(plain.decode(bytes.fromhex(data))) == text


def test_every_kind_of_statement_has_its_row() -> None:
    rows = set(re.findall(r"^\| `([a-z]+)` \|", documents.text_of(PROTOCOL), re.MULTILINE))
    assert len(DEFINING) == len({module.__name__ for module in DEFINING})
    assert rows == set(Statement.kinds)


def test_the_envelope_is_the_form_that_is_described() -> None:
    fields = [field.encode_name for field in msgspec.structs.fields(Envelope)]
    assert fields == ["payload", "payloadType", "signatures"]
    assert canonical.encode(Envelope("", "", [])) == (
        b'{"payload":"","payloadType":"","signatures":[]}'
    )


def _signer(given: dict[str, Any]) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(given["seed"]))


def _public(given: dict[str, Any]) -> Ed25519PublicKey:
    return _signer(given).public_key()
