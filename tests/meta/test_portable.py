"""Nothing in the checkout depends on the machine or the network it was written on."""

import re
from typing import Final

from tests.meta import tree

HOSTS: Final = frozenset(
    {
        "localhost",
        "127.0.0.1",
        "[::1]",
        "0.0.0.0",
        "www.apache.org",
        "c2sp.org",
        "www.rfc-editor.org",
    }
)
RESERVED: Final = (".example", ".invalid", ".test", ".localhost", "example.org", "example.com")
PLACES: Final = re.compile(
    # written apart, so that this file does not find itself
    "|".join(
        ["/wo" + "rk/", "/tmp/" + "gp", "/ro" + r"ot/\.py", r"/ho" + r"me/[a-z]", "index" + "-url"]
    )
)
ADDRESS: Final = re.compile(r"\bhttps?://([^/\s\"'`)\]}>|,\\]+)")
TEXT: Final = frozenset(
    {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".json", ".mako", "", ".sh", ".html"}
)


def test_no_place_of_one_machine_is_named() -> None:
    found = [
        f"{tree.name(path)}: {match[0]}"
        for path in tree.files()
        if path.suffix in TEXT
        for match in PLACES.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_only_known_hosts_are_named() -> None:
    found = [
        f"{tree.name(path)}: {match[0]}"
        for path in tree.files()
        if path.suffix in TEXT and path.name != "LICENSE"
        for match in ADDRESS.finditer(path.read_text(encoding="utf-8"))
        if not _is_known(match[1])
    ]
    assert found == []


def test_the_tree_is_looked_at() -> None:
    names = {tree.name(path) for path in tree.files()}
    assert {"README.md", "Makefile", "pyproject.toml", ".ci/run", "constraints.txt"} <= names


def _is_known(authority: str) -> bool:
    if "{" in authority or "%" in authority:
        return True  # filled in at run time
    host = authority.rpartition("@")[2]
    host = host if host.endswith("]") else host.partition(":")[0]
    return host in HOSTS or host.endswith(RESERVED) or "." not in host
