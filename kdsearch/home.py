"""Where kdsearch keeps what it computed once on a machine.

Goes in: the environment. Comes out: a folder, which may not exist yet.
"""

from __future__ import annotations

import os
from pathlib import Path


def default_store() -> Path:
    """`$KDSEARCH_HOME`, else ~/.cache/kdsearch."""
    home = os.environ.get("KDSEARCH_HOME")
    return Path(home) if home else Path.home() / ".cache" / "kdsearch"
