"""The market whose log other people's clients read: the system tests' own, on real HTTP."""

from tests.system.conftest import api, settings

__all__ = ["api", "settings"]
