"""Where the server keeps what is its own on this machine."""

import os
from pathlib import Path
from typing import Final

import platformdirs

HOME_VARIABLE: Final = "GRIDPACT_HOME"
ROOT_HOME: Final = Path("/var/lib/gridpact")


def state_folder() -> Path:
    """`GRIDPACT_HOME`, else `/var/lib/gridpact` as root, else the user's own data folder."""
    named = os.environ.get(HOME_VARIABLE)
    if named:
        return Path(named).absolute()
    if os.geteuid() == 0:
        return ROOT_HOME
    return Path(platformdirs.user_data_dir("gridpact"))
