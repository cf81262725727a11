"""events.jsonl: the only truth of a sweep, one JSON object a line.

Goes in: events. Comes out: the same events, after any crash. An event is on disk (fsync) before
`append` returns, so whoever acts on it afterwards can be rebuilt from the file.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from kdsearch.records import Event

VERSION = 1
FILE = "events.jsonl"
LOCK = ".lock"


class JournalError(Exception):
    """The journal cannot be read or is in use; the message is for the user."""


def read(path: Path) -> list[Event]:
    """All events of a journal. A torn last line (a crash while writing) is left out.

    Raises JournalError for a missing file, and, with its line number, for damage before the end.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror or error}") from None
    whole = content[: content.rfind(b"\n") + 1]
    return [_event(path, number, line) for number, line in enumerate(whole.splitlines(), start=1)]


def _event(path: Path, number: int, line: bytes) -> Event:
    try:
        event: Event = json.loads(line)
        version = event["v"]
    except (ValueError, TypeError, KeyError):
        raise JournalError(f"{path}:{number}: not a journal line; the file was damaged or edited") from None
    if version != VERSION:
        raise JournalError(
            f"{path}:{number}: written by journal version {version}; this kdsearch reads {VERSION}"
        )
    return event


class Tail:
    """The events that were added to a journal since the last look, for another process than its writer.

    The writer has to say how many there are: only those are on disk, and will not be taken back.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._num, self._offset = path, 0, 0

    def up_to(self, num_events: int) -> list[Event]:
        """Raises JournalError for damage, OSError for a file that cannot be read; then it is where it was."""
        events: list[Event] = []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            while self._num + len(events) < num_events:
                line = file.readline()
                events.append(_event(self._path, self._num + len(events) + 1, line))
            self._offset = file.tell()
        self._num += len(events)
        return events


class Journal:
    """Appends events; safe to share between threads; one writer per folder, kept so by a file lock.

    Opening repairs a torn tail by cutting it off. `listeners` hear every event once it is on disk; they
    must not raise. Raises JournalError when another process writes here or the folder
    cannot be written or locked.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.listeners: list[Callable[[Event], None]] = []
        self._mutex = threading.Lock()
        try:
            self._lock_file = (folder / LOCK).open("w")
        except OSError as error:
            raise JournalError(f"{folder}: {error.strerror or error}") from None
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock_file.close()
            is_taken = isinstance(error, BlockingIOError)
            why = (
                "another sweep is running in this folder"
                if is_taken
                else f"cannot be locked ({error.strerror})"
            )
            raise JournalError(f"{folder}: {why}") from None
        self._file = self.path.open("ab", buffering=0)
        try:
            self.events = read(self.path)
        except JournalError:
            self.close()
            raise
        self._size = self.path.read_bytes().rfind(b"\n") + 1
        self._file.truncate(self._size)

    def append(self, kind: str, trial_id: str | None = None, **data: Any) -> Event:
        """Write one event durably and return it as written."""
        return self.append_all([(kind, trial_id, data)])[0]

    def append_all(self, entries: Iterable[tuple[str, str | None, dict[str, Any]]]) -> list[Event]:
        """Write several events with one fsync: after a crash a prefix of them is there.

        Raises OSError when the disk refuses, after taking back what was half written.
        """
        with self._mutex:
            now = time.time()
            events = [
                {
                    "v": VERSION,
                    "seq": len(self.events) + i,
                    "time": now,
                    "kind": kind,
                    "trial_id": trial_id,
                    **data,
                }
                for i, (kind, trial_id, data) in enumerate(entries)
            ]
            lines = "".join(json.dumps(event, allow_nan=False) + "\n" for event in events).encode()
            try:
                if self._file.write(lines) != len(lines):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                os.fsync(self._file.fileno())
            except BaseException:  # a full disk or a signal: nobody has acted on these events yet
                self._file.truncate(self._size)
                raise
            self._size += len(lines)
            self.events.extend(events)
        for event in events:
            for listener in self.listeners:
                listener(event)
        return events

    def close(self) -> None:
        self._file.close()
        self._lock_file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
