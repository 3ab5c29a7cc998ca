"""Cosignatures against checkpoints that public witnesses cosigned, and against every wrong byte."""

import base64
from typing import Final

import pytest

from settlement.domain import checkpoint, cosignature
from settlement.domain.errors import BadCheckpoint, BadKey
from settlement.domain.identity import PrivateKey
from tests.unit.settlement import logged

# A public log's checkpoint with the lines of four public witnesses, as it was served.
PUBLIC_NOTE: Final = """\
arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=

— arche2025h1.staging.ct.transparency.dev zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMHbdQ3urbllzalApkptQIgIpwtEroeW2BXaHAI4kJXFbon5Ch9MNL5zRNZ55lvGt0=
— arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=
— transparency.dev/DEV:witness-little-garden 2AQqhwAAAABqEiEgzgFIqqhbUoDwjMWE6UP8nd8/KYTzwZ2rhIgcqoXHAwVkjZr4AscylP3v7sEodkRAErumC2q44vdgJY096st5BQ==
— witness1.smartit.nu/witness1 pIyCDwAAAABqEiEghIp82KWebrw7/oHQwlTAm3g2RKS4+eebl8eO0WH+/iEcxZ75W3u5hNI7TOQtmJbqmNWVuE0tgh0XwzdZsDsUAQ==
— remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtqB0DrAWfBw==
— witness.stagemole.eu Z/euoAAAAABqEiEgw0i+7g2ENfDAWHmtRzCfKTHSDwYDJA2NmKeGi9Y8FtEyOUvVr+AJmIY/2TUFucgKi7lI7cUiOvKFYe/TmN9DAg==
"""
PUBLIC_LOG: Final = (
    "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"
)
PUBLIC_WITNESSES: Final = (
    "transparency.dev/DEV:witness-little-garden+d8042a87+BCtusOxINQNUTN5Oj8HObRkh2yHf/MwYaGX4CPdiVEPM",
    "witness1.smartit.nu/witness1+a48c820f+BPSFWg9G6KPiO7QPryYO5Xq4oYJJ+kAvLKLSimDhoxMO",
    "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
    "witness.stagemole.eu+67f7aea0+BEqSG3yu9YrmcM3BHvQYTxwFj3uSWakQepafafpUqklv",
)
UNSEEN_WITNESS: Final = (
    "witness.navigli.sunlight.geomys.org+a3e00fe2+BNy/co4C1Hn1p+INwJrfUlgz7W55dSZReusH/GhUhJ/G"
)
PUBLIC_SECONDS: Final = 1_779_573_024

ONE, TWO = PrivateKey(b"\x21" * 32), PrivateKey(b"\x22" * 32)
ONE_KEY: Final = cosignature.verifier_key("one.example/v", ONE)
TWO_KEY: Final = cosignature.verifier_key("two.example/v", TWO)
NOTE: Final = checkpoint.sign(logged.MARKET, logged.LOG, size=7, root=b"\5" * 32)
TEXT: Final = checkpoint.split_note(NOTE)[0]


def line(name: str = "one.example/v", key: PrivateKey = ONE, at: int = 1_700_000_000) -> str:
    return cosignature.sign(TEXT, name, key, time_seconds=at)


def test_public_witnesses_hold() -> None:
    assert checkpoint.verify(PUBLIC_NOTE, PUBLIC_LOG).size == 1_432_088_532
    assert cosignature.count(PUBLIC_NOTE, PUBLIC_WITNESSES) == 4
    witnesses = [cosignature.parse_verifier_key(key) for key in PUBLIC_WITNESSES]
    times = {found.time_seconds for found in cosignature.cosigned(PUBLIC_NOTE, witnesses).values()}
    assert times == {PUBLIC_SECONDS}
    assert cosignature.count(PUBLIC_NOTE, [*PUBLIC_WITNESSES, UNSEEN_WITNESS]) == 4


def test_public_witnesses_do_not_hold_for_another_tree() -> None:
    with pytest.raises(BadCheckpoint, match="does not hold"):
        cosignature.count(PUBLIC_NOTE.replace("1432088532", "1432088533"), PUBLIC_WITNESSES)


def test_the_message_is_the_specifications() -> None:
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    assert cosignature.message(text, 1_679_315_147).decode() == (
        "cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\n"
        "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    )
    specified = (
        "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZ"
        "qhf5nNo0xUe+mbIUBkBIfZ+qnA=="
    )
    found = checkpoint.parse_signature_line(f"— witness.example.com/w1 {specified}")
    assert int.from_bytes(found.signature[:8], "big") == 1_679_315_147
    assert len(found.signature) == cosignature.COSIGNATURE_BYTES


def test_lines_are_added_and_counted() -> None:
    note = cosignature.add_line(NOTE, line())
    assert cosignature.count(note, [ONE_KEY, TWO_KEY]) == 1
    note = cosignature.add_line(note, line("two.example/v", TWO))
    assert cosignature.count(note, [ONE_KEY, TWO_KEY]) == 2
    assert cosignature.is_final(note, [ONE_KEY, TWO_KEY], quorum=2)
    assert not cosignature.is_final(note, [ONE_KEY, TWO_KEY], quorum=3)
    assert not cosignature.is_final(note, [], quorum=0)
    assert checkpoint.verify(note, logged.LOG_KEY).size == 7


def test_a_newer_line_replaces_the_one_before() -> None:
    note = cosignature.add_line(cosignature.add_line(NOTE, line(at=5)), line(at=9))
    one = cosignature.parse_verifier_key(ONE_KEY)
    assert note.count("one.example/v") == 1
    assert cosignature.cosigned(note, [one])[one].time_seconds == 9
    assert cosignature.lines_of(note, one) == [line(at=9)]


def test_one_key_under_two_names_counts_once() -> None:
    other = cosignature.verifier_key("alias.example/v", ONE)
    note = cosignature.add_line(cosignature.add_line(NOTE, line()), line("alias.example/v"))
    assert cosignature.count(note, [ONE_KEY, other]) == 1


def test_unknown_keys_are_ignored() -> None:
    assert cosignature.count(cosignature.add_line(NOTE, line()), [TWO_KEY]) == 0


def test_every_changed_byte_of_a_known_line_is_refused_or_unknown() -> None:
    whole = base64.b64decode(line().split()[-1])
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1
        broken = f"— one.example/v {base64.b64encode(changed).decode()}\n"
        note = cosignature.add_line(NOTE, broken)
        if at < checkpoint.KEY_ID_BYTES:
            assert cosignature.count(note, [ONE_KEY]) == 0
            continue
        with pytest.raises(BadCheckpoint):
            cosignature.count(note, [ONE_KEY])


@pytest.mark.parametrize("length", [0, 8, 63, 71, 73, 136])
def test_a_line_of_another_length_is_refused(length: int) -> None:
    one = cosignature.parse_verifier_key(ONE_KEY)
    data = base64.b64encode(one.key_id + bytes(length)).decode()
    with pytest.raises(BadCheckpoint):
        cosignature.count(cosignature.add_line(NOTE, f"— one.example/v {data}\n"), [ONE_KEY])


def test_a_time_beyond_the_range_is_refused() -> None:
    one = cosignature.parse_verifier_key(ONE_KEY)
    at = cosignature.TIME_MAX + 1
    signed = ONE.sign(cosignature.message(TEXT, at))
    data = base64.b64encode(one.key_id + at.to_bytes(8, "big") + signed).decode()
    with pytest.raises(BadCheckpoint):
        cosignature.count(cosignature.add_line(NOTE, f"— one.example/v {data}\n"), [ONE_KEY])


def test_a_log_key_is_no_cosigner_and_the_reverse() -> None:
    with pytest.raises(BadKey):
        cosignature.parse_verifier_key(logged.LOG_KEY)
    with pytest.raises(BadKey):
        checkpoint.parse_verifier_key(ONE_KEY)


def test_a_log_signature_does_not_pass_for_a_cosignature() -> None:
    signed = checkpoint.sign_note(TEXT, "one.example/v", ONE)
    assert cosignature.count(signed, [ONE_KEY]) == 0


def test_a_note_takes_only_so_many_lines() -> None:
    note = NOTE
    for number in range(checkpoint.SIGNATURES_MAX - 1):
        note = cosignature.add_line(note, line(f"w{number}.example"))
    with pytest.raises(BadCheckpoint, match="signatures"):
        cosignature.add_line(note, line("more.example"))


def test_names_that_can_not_stand_in_a_line() -> None:
    assert cosignature.check_name("validator.example/1") == "validator.example/1"
    for name in ("", "with blank", "plus+sign", "new\nline", "x" * 201):
        with pytest.raises(BadKey):
            cosignature.check_name(name)
