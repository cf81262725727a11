"""Where kdsearch keeps what it computed once on a machine.

Goes in: the environment. Comes out: a folder, which may not exist yet.
"""

from __future__ import annotations

import os
from pathlib import Path


def default_store() -> Path:
    """`$KDSEARCH_HOME`, else ~/.cache/kdsearch; an absolute path."""
    home = os.environ.get("KDSEARCH_HOME")
    return Path(home).expanduser().absolute() if home else Path.home() / ".cache" / "kdsearch"


def given() -> dict[str, str]:
    """`KDSEARCH_HOME` where it is set: what processes on other machines are to go by."""
    home = os.environ.get("KDSEARCH_HOME")
    return {"KDSEARCH_HOME": home} if home else {}


def settle() -> None:
    """Make `$KDSEARCH_HOME` absolute for processes to come: Ray Tune moves its workers to other folders."""
    if os.environ.get("KDSEARCH_HOME"):
        os.environ["KDSEARCH_HOME"] = str(default_store())
