"""A specification names its kind, and what an environment must have for it."""

import msgspec
import pytest

from market.domain.jobspec import Spec, check_environment
from settlement.domain import canonical
from settlement.domain.errors import EnvironmentMismatch
from settlement.domain.trade import Manifest
from tests.unit.daemon import makers

OTHER = Manifest({"numpy": "1.0.0"}, "3.9")


def test_the_kind_is_part_of_the_digest_and_has_no_default() -> None:
    digests = {makers.spec(kind=kind).digest() for kind in ("function", "command", "wasm")}
    assert len(digests) == 3
    fields = msgspec.json.decode(canonical.encode(makers.spec()))
    assert msgspec.convert(fields, Spec) == makers.spec()
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**fields, "kind": "other"}, Spec)
    del fields["kind"]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, Spec)


def test_only_pickles_ask_for_the_same_interpreter() -> None:
    with pytest.raises(EnvironmentMismatch):
        check_environment("function", OTHER, makers.MANIFEST)
    check_environment("command", OTHER, makers.MANIFEST)
    with pytest.raises(EnvironmentMismatch, match="wasmtime"):
        check_environment("wasm", OTHER, makers.MANIFEST)
    check_environment("wasm", OTHER, Manifest({"wasmtime": "50.0.1"}, "3.11"))
