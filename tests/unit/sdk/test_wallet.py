"""Key files and profile: private, never overwritten, refused when others may read them."""

import os
import stat
from pathlib import Path

import pytest

from market.sdk import wallet
from settlement.domain.errors import BadKey, MisConfigured


def test_a_key_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        key = wallet.create_key(tmp_path / "new" / "wallet.key")
    finally:
        os.umask(before)
    path = tmp_path / "new" / "wallet.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert wallet.load_key(path).address == key.address


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "wallet.key"
    key = wallet.create_key(path)
    with pytest.raises(BadKey, match="never overwritten"):
        wallet.create_key(path)
    assert wallet.load_key(path).address == key.address


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o660, 0o777])
def test_a_key_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "wallet.key"
    wallet.create_key(path)
    path.chmod(mode)
    with pytest.raises(BadKey, match="others may read it"):
        wallet.load_key(path)


@pytest.mark.parametrize("content", [b"", b"zz" * 32, b"\xff" * 10, b"ab" * 31, b"ab" * 150])
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "wallet.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(BadKey):
        wallet.load_key(path)


def test_a_missing_key_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadKey, match="there is no key file"):
        wallet.load_key(tmp_path / "none")


def test_choice_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(wallet.URL_VARIABLE, raising=False)
    monkeypatch.delenv(wallet.KEY_VARIABLE, raising=False)
    with pytest.raises(MisConfigured, match="no market is named"):
        wallet.choose(tmp_path)
    wallet.set_default(tmp_path, url="http://profile:1", key_path=tmp_path / "p.key")
    assert wallet.choose(tmp_path).url == "http://profile:1"
    assert wallet.choose(tmp_path).key_path == tmp_path / "p.key"
    monkeypatch.setenv(wallet.URL_VARIABLE, "http://environment:1/")
    monkeypatch.setenv(wallet.KEY_VARIABLE, "/e.key")
    assert wallet.choose(tmp_path).url == "http://environment:1"
    assert wallet.choose(tmp_path).key_path == Path("/e.key")
    named = wallet.choose(tmp_path, url="http://named:1", key_path="/n.key")
    assert (named.url, named.key_path) == ("http://named:1", Path("/n.key"))


def test_a_broken_profile_is_told(tmp_path: Path) -> None:
    (tmp_path / wallet.PROFILE_FILE).write_text('{"url": 1}')
    with pytest.raises(MisConfigured, match=r"profile\.json"):
        wallet.load_profile(tmp_path)
