"""Recomputes the test vectors of docs/protocol.md: what is given in, what is expected out."""

import ast
import base64
import hashlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from market.wire import plain, signed_request
from settlement.domain import canonical, charge, merkle, statement
from settlement.domain.identity import PrivateKey
from settlement.domain.receipt import Leaf, inputs_digest, outputs_digest, tasks_root

Vector = dict[str, Any]


def key(given: Vector) -> Vector:
    """A seed's address."""
    return {"address": _key(given).address}


def signed(given: Vector) -> Vector:
    """A statement of any kind under a key."""
    kind = statement.Statement.kinds[given["statement"]["kind"]]
    opened = statement.sign(msgspec.convert(given["statement"], kind), _key(given))
    envelope = msgspec.json.decode(opened.envelope)
    payload = base64.b64decode(envelope["payload"])
    return {
        "payload": payload.decode(),
        "signed_bytes": statement.pae(envelope["payloadType"], payload).decode(),
        "signature": envelope["signatures"][0]["sig"],
        "digest": opened.digest,
        "envelope": opened.envelope.decode(),
    }


def leaves(given: Vector) -> Vector:
    """A receipt's roots and digests over its leaves."""
    rows = [msgspec.convert(row, Leaf) for row in given["leaves"]]
    encoded = [canonical.encode(row) for row in rows]
    return {
        "leaf_bytes": [entry.decode() for entry in encoded],
        "leaf_hashes": [merkle.leaf_hash(entry).hex() for entry in encoded],
        "tasks_root": tasks_root(rows),
        "inputs": inputs_digest(rows),
        "outputs": outputs_digest(rows),
    }


def request(given: Vector) -> Vector:
    """The headers of a signed request."""
    headers = {}
    if given["method"] not in signed_request.READ_METHODS:
        headers["content-digest"] = signed_request.content_digest(given["body"].encode())
        headers["idempotency-key"] = given["idempotency_key"]
    asked = signed_request.Request(
        given["method"], given["authority"], given["path"], given["query"], headers
    )
    result = signed_request.sign(asked, _key(given), now=given["now"])
    parameters = result["Signature-Input"].partition("=")[2]
    components = signed_request.covered(given["method"])
    signature_base = signed_request.signature_base(asked, components, parameters).decode()
    return {"headers": {**headers, **result}, "signature_base": signature_base}


def tree(given: Vector) -> Vector:
    """Hashes, root and one inclusion path over entries."""
    entries = [entry.encode() for entry in given["entries"]]
    hashes = [merkle.leaf_hash(entry) for entry in entries]
    path = merkle.inclusion(merkle.nodes_of(hashes), index=given["included"], size=len(entries))
    return {
        "leaf_hashes": [value.hex() for value in hashes],
        "first_node": merkle.node_hash(hashes[0], hashes[1]).hex(),
        "root": merkle.root(entries).hex(),
        "inclusion": [value.hex() for value in path],
        "empty_root": merkle.EMPTY_ROOT.hex(),
    }


def checkpoint(given: Vector) -> Vector:
    """A signed tree head by the C2SP note form, written out here by hand."""
    signer, origin = _key(given), given["origin"]
    typed = b"\x01" + bytes.fromhex(signer.address)
    key_id = hashlib.sha256(origin.encode() + b"\n" + typed).digest()[:4]
    root = base64.b64encode(bytes.fromhex(given["root"])).decode()
    text = f"{origin}\n{given['size']}\n{root}\n"
    line = base64.b64encode(key_id + signer.sign(text.encode())).decode()
    return {
        "verifier_key": f"{origin}+{key_id.hex()}+{base64.b64encode(typed).decode()}",
        "note": f"{text}\n— {origin} {line}\n",
    }


def charged(given: Vector) -> Vector:
    """The money of one receipt."""
    money = charge.charge(**given)
    return {
        "gross": money.gross_microcredits,
        "fee": money.fee_microcredits,
        "earned": money.earned_microcredits,
        "surcharge": money.surcharge_microcredits,
        "paid": money.paid_microcredits,
    }


def plain_data(given: Vector) -> Vector:
    """The bytes of values, written as Python literals."""
    return {text: plain.encode(ast.literal_eval(text)).hex() for text in given["values"]}


def _key(given: Vector) -> PrivateKey:
    return PrivateKey(bytes.fromhex(given["seed"]))


RECOMPUTE: Final[Mapping[str, Callable[[Vector], Vector]]] = MappingProxyType(
    {
        "key": key,
        "payment": signed,
        "leaves": leaves,
        "receipt": signed,
        "request-read": request,
        "request-write": request,
        "tree": tree,
        "checkpoint": checkpoint,
        "charge": charged,
        "plain": plain_data,
    }
)
