"""Which software this is."""

from importlib.metadata import PackageNotFoundError, version
from typing import Final

NAME: Final = "gridpact"
try:
    VERSION: Final = version(NAME)
except PackageNotFoundError:  # a checkout that was never installed
    VERSION: Final = "0.0.0"  # type: ignore[misc]
