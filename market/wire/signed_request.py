"""How a request is signed: one fixed profile of RFC 9421 with RFC 9530 digests; pure.

Covered on every request: method, authority, path, query. With a body also `content-digest`, on
writes also `idempotency-key`, which is the nonce. The keyid is the public key itself, so nobody
is asked whose key it is. Clients sign with the library; this module verifies by hand (five times
faster) and is held equal to the library by tests. `sign` serves tests and vectors.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from settlement.domain import identity
from settlement.domain.errors import (
    BadSignature,
    DigestMismatch,
    StaleRequest,
    Unsigned,
    WrongAuthority,
)

TAG: Final = "gridpact-v1"
LABEL: Final = "sig1"
WINDOW_SECONDS: Final = 300  # a signature's longest life
SKEW_SECONDS: Final = 30  # how far a client's clock may run ahead
KEY_CHARS_MAX: Final = 100
READ_METHODS: Final = frozenset({"GET", "HEAD"})

COVERED_READ: Final = ("@method", "@authority", "@path", "@query")
COVERED_WRITE: Final = (*COVERED_READ, "content-digest", "idempotency-key")

_INPUT: Final = re.compile(
    r"sig1=\((?P<covered>[^()]{0,200})\)(?P<parameters>(?:;[a-z]+=[^;]{1,100}){4,7})\Z"
)
_PARAMETERS: Final[dict[str, re.Pattern[str]]] = {
    "created": re.compile(r"(\d{1,12})\Z"),
    "expires": re.compile(r"(\d{1,12})\Z"),
    "keyid": re.compile(r'"([0-9a-f]{64})"\Z'),
    "alg": re.compile(r'"(ed25519)"\Z'),
    "tag": re.compile(rf'"({TAG})"\Z'),
}
_REQUIRED: Final = frozenset({"created", "expires", "keyid", "tag"})
# 64 bytes; the last digit carries two bits, and its spare bits are zero: one spelling only
_SIGNATURE: Final = re.compile(r"sig1=:([A-Za-z0-9+/]{85}[AQgw]==):\Z")
_DIGEST: Final = re.compile(r"sha-256=:([A-Za-z0-9+/]{43}=):\Z")
_KEY: Final = re.compile(r"[A-Za-z0-9._:-]{8,100}\Z")


@dataclass(frozen=True, slots=True)
class Request:
    """What was received, as far as it is signed. Header names in lower case."""

    method: str
    authority: str
    path: str
    query: str  # with the leading question mark, as RFC 9421 2.2.7 wants it
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who signed, and the key under which a write is done once."""

    address: str
    idempotency_key: str = ""


def content_digest(body: bytes) -> str:
    """The value of Content-Digest (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def covered(method: str) -> tuple[str, ...]:
    """The components that a request of this method must cover."""
    return COVERED_READ if method in READ_METHODS else COVERED_WRITE


def signature_base(request: Request, components: tuple[str, ...], parameters: str) -> bytes:
    """RFC 9421 2.5 over our components, all of them single-valued."""
    derived = {
        "@method": request.method,
        "@authority": request.authority.lower(),
        "@path": request.path,
        "@query": request.query or "?",
    }
    lines = [
        f'"{name}": {derived.get(name) or request.headers[name].strip()}' for name in components
    ]
    lines.append(f'"@signature-params": {parameters}')
    return "\n".join(lines).encode()


def parameters_text(components: tuple[str, ...], *, created: int, expires: int, keyid: str) -> str:
    """The signature parameters in the order of our profile."""
    names = " ".join(f'"{name}"' for name in components)
    return (
        f'({names});created={created};expires={expires};keyid="{keyid}";alg="ed25519";tag="{TAG}"'
    )


def sign(request: Request, key: identity.PrivateKey, *, now: int) -> dict[str, str]:
    """The two headers for a request; Content-Digest and Idempotency-Key must be there already."""
    components = covered(request.method)
    parameters = parameters_text(
        components, created=now, expires=now + WINDOW_SECONDS, keyid=key.address
    )
    value = key.sign(signature_base(request, components, parameters))
    return {
        "Signature-Input": f"{LABEL}={parameters}",
        "Signature": f"{LABEL}=:{base64.b64encode(value).decode()}:",
    }


def verify(request: Request, *, authorities: frozenset[str], now: int) -> Caller:
    """Who signed the request; the body is compared by `verify_body` once it is read.

    Order: form → covered components → time → address → signature.
    """
    components = covered(request.method)
    signature = _SIGNATURE.match(request.headers.get("signature", ""))
    parameters = request.headers.get("signature-input", "").removeprefix(f"{LABEL}=")
    values = _parse(request.headers.get("signature-input", ""), components)
    if signature is None:
        raise Unsigned
    created, expires = int(values["created"]), int(values["expires"])
    if created > now + SKEW_SECONDS:
        raise StaleRequest("the signature is from the future")
    if now >= min(expires, created + WINDOW_SECONDS):
        raise StaleRequest("the signature has expired")
    if request.authority.lower() not in authorities:
        raise WrongAuthority(f"{request.authority[:200]!r} is not this market's address")
    key = request.headers.get("idempotency-key", "")
    if components is COVERED_WRITE and (
        "content-digest" not in request.headers or not _KEY.match(key)
    ):
        raise Unsigned(
            "a write carries Content-Digest and an Idempotency-Key of 8 to 100 characters"
        )
    signed = signature_base(request, components, parameters)
    value = base64.b64decode(signature[1])
    if not identity.verify(values["keyid"], signed, value):
        raise BadSignature("the request's signature does not hold")
    return Caller(values["keyid"], key if components is COVERED_WRITE else "")


def _parse(text: str, components: tuple[str, ...]) -> dict[str, str]:
    """The parameters of our profile, in any order, each once; `Unsigned` for anything else."""
    parsed = _INPUT.match(text)
    if parsed is None:
        raise Unsigned
    if parsed["covered"] != " ".join(f'"{name}"' for name in components):
        raise Unsigned(f"the signature must cover exactly: {' '.join(components)}")
    values: dict[str, str] = {}
    for part in parsed["parameters"][1:].split(";"):
        name, _, value = part.partition("=")
        matched = (
            _PARAMETERS[name].match(value) if name in _PARAMETERS and name not in values else None
        )
        if matched is None:
            raise Unsigned(f"the signature's parameter {name} is not of the profile {TAG}")
        values[name] = matched[1]
    if not values.keys() >= _REQUIRED:
        raise Unsigned(f"the signature needs the parameters {', '.join(sorted(_REQUIRED))}")
    return values


def verify_body(request: Request, body: bytes) -> None:
    """The body must be the one that was signed for."""
    claimed = request.headers.get("content-digest", "")
    if not _DIGEST.match(claimed):
        raise Unsigned("Content-Digest must be one sha-256 value")
    if claimed != content_digest(body):
        raise DigestMismatch("the body is not the one that was signed")
