"""An MLflow store that is one SQLite file.

Goes in: a tracking URI, or the file's path. Comes out: whether and how this process may write to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path


def sqlite_path(uri: str) -> Path | None:
    """The absolute path of a store in a file, None for any other store."""
    path = uri.removeprefix("sqlite:///")
    if path == uri or path in ("", ":memory:") or "?" in path:
        return None
    return Path(os.path.abspath(path))


def file_id(path: Path) -> tuple[int, int]:
    """Another one where the file was deleted and made again."""
    status = path.stat()
    return status.st_dev, status.st_ino


def check_writable(path: Path) -> None:
    """Fail within a second, and in SQLite's words, where MLflow would try for minutes."""
    with contextlib.closing(sqlite3.connect(path, timeout=1.0)) as database:
        database.execute("BEGIN IMMEDIATE")


@contextlib.contextmanager
def only_process(path: Path) -> Iterator[None]:
    """Two sweeps that start in one directory must not both run the migrations of a new store."""
    lock = path.with_name(f"{path.name}.lock")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
