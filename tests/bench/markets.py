"""A whole market to measure: a development stack of its own, in a folder that goes away with it."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from market.cli.devstack import Devstack
from market.sdk import blocking as gp
from tests.bench.figures import tell

PASSABLE = 0o711  # other users run PostgreSQL and Ray below it


@contextlib.contextmanager
def market(*arguments: str) -> Iterator[Devstack]:
    """A fresh stack, with the SDK set up as its consumer."""
    with tempfile.TemporaryDirectory(prefix="gp-") as name:
        folder = Path(name)
        folder.chmod(PASSABLE)
        os.environ.pop("DATABASE_URL", None)  # measured is the PostgreSQL that comes along
        with Devstack(home=folder, arguments=("--port", "0", *arguments)) as stack:
            classes = {provider.protection for provider in stack.providers}
            tell(f"market ready after {stack.info.seconds:.0f} s, class {', '.join(classes)}")
            gp.configure(url=stack.url, key=stack.consumer_key_path, home=stack.home)
            try:
                yield stack
            finally:
                gp.close()
