"""The OpenAPI 3.1 document, from the routes and the shapes themselves."""

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from market.http.endpoint import UNSIGNED, Access, Endpoint, Text
from market.wire.explorer import CSV
from market.wire.problem import CONTENT_TYPE, Problem

TEMPLATE: Final = "#/components/schemas/{name}"
SIGNED: Final = (
    "RFC 9421 HTTP Message Signature with Ed25519; keyid is the public key in hex, tag gridpact-v1."
    " Reads cover @method @authority @path @query; writes also content-digest and idempotency-key."
)


def document(endpoints: Sequence[Endpoint], *, version: str) -> dict[str, Any]:
    """The whole document as plain dicts."""
    types = _types(endpoints)
    _, components = msgspec.json.schema_components(types, ref_template=TEMPLATE)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(_path(endpoint.path), {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Gridpact",
            "version": version,
            "description": "An open market for AI compute. Whoever acts, signs (docs/protocol.md).",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "signature": {
                    "type": "apiKey", "in": "header", "name": "Signature", "description": SIGNED,
                }
            },
        },
    }  # fmt: skip


def _types(endpoints: Sequence[Endpoint]) -> list[object]:
    named = [endpoint.hints.get(name) for endpoint in endpoints for name in ("body", "return")]
    return [Problem, *(kind for kind in named if kind not in {None, bytes, Text})]


def _path(path: str) -> str:
    return re.sub(r"\{(\w+):[^}]*\}", r"{\1}", path)


def _schema(kind: object) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=TEMPLATE)
    return dict(schema)


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    hints = endpoint.hints
    summary = " ".join((endpoint.handler.__doc__ or endpoint.handler.__name__).split())
    operation: dict[str, Any] = {
        "operationId": endpoint.handler.__name__.strip("_"),
        "summary": summary,
        "parameters": _parameters(endpoint, hints),
        "responses": {
            str(endpoint.status): _answer(endpoint, hints["return"]),
            "default": {
                "description": "A refusal or failure (RFC 9457).",
                "content": {CONTENT_TYPE: {"schema": {"$ref": TEMPLATE.format(name="Problem")}}},
            },
        },
    }
    if endpoint.access not in UNSIGNED:
        operation["security"] = [{"signature": []}]
    if hints.get("body") is bytes:
        operation["requestBody"] = _content(
            "application/octet-stream", {"type": "string", "format": "binary"}
        )
    elif "body" in hints:
        operation["requestBody"] = _content("application/json", _schema(hints["body"]))
    return operation


def _content(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {kind: {"schema": schema}}}


def _answer(endpoint: Endpoint, kind: object) -> dict[str, Any]:
    if kind is Text:
        return {"description": "The bytes.", "content": {"*/*": {"schema": {}}}}
    content: dict[str, Any] = {"application/json": {"schema": _schema(kind)}}
    if endpoint.export is not None:
        content[CSV] = {"schema": {"type": "string"}}
    return {"description": "Done.", "content": content}


def _parameters(endpoint: Endpoint, hints: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)", endpoint.path)
    ]
    if "query" in hints:
        for field in msgspec.structs.fields(hints["query"]):
            schema = _schema(field.type)
            found.append(
                {"name": field.encode_name, "in": "query", "required": False, "schema": schema}
            )
    if endpoint.access is Access.WRITE:
        found += [
            {"name": name, "in": "header", "required": True, "schema": {"type": "string"}}
            for name in ("Idempotency-Key", "Content-Digest")
        ]
    return found
