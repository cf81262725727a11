"""The teacher's outputs on the views that students see: computed once on a machine, then read from files.

Goes in: what decides a teacher's output on a view (teacher, data, augmentation, stream, epoch) and a function
that runs it. Comes out: logits, embeddings and what terms read of maps, [N, ...] of one epoch, mapped from a
file that all processes of the machine share, or None: then the teacher runs live, its targets rounded to
float16 all the same.

`<store>/outputs/<key>/` has a file for each stream and epoch: a header of JSON, then float16 arrays. A file
appears whole, by a rename; its sha256 is checked when a process first opens it, and a sample of it against
the teacher itself. What is damaged or does not agree is computed again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdsearch.checkpoint import write_atomically

logger = logging.getLogger(__name__)

# Part of every key: raise it when the files or the augmented views change.
VERSION = 2
FOLDER = "outputs"
DESCRIPTION = "about.json"
SUFFIX = ".f16"
HEADER_BYTES = 4096
FREE_BYTES = 10**9  # left on the disk whatever the budget
WAIT_S = 60.0  # for another process's pass; a live epoch takes the teacher as long
POLL_S = 0.01
NUM_CHECKED = 4  # samples that are compared with the teacher
HELD_BYTES = 1 << 28  # of one epoch: more is not put on a GPU, which several trials may share
# By the precision that the teacher computes in. float16 keeps 11 bits, and two ways to batch the same image
# differ by about 1e-6 in float32; bfloat16 keeps 8, and a sum in another order may end two numbers further.
TOLERANCES = {torch.float32: 4e-3, torch.bfloat16: 3e-2}


class Targets(NamedTuple):
    """A teacher's outputs of views: logits [B,K], embedding [B,D], by name what terms read of maps [B,W]."""

    logits: Tensor
    embedding: Tensor
    summaries: Mapping[str, Tensor] = MappingProxyType({})

    @property
    def rows(self) -> Tensor:
        """All of it side by side."""
        return torch.cat([self.logits, self.embedding, *self.summaries.values()], dim=1)


def rounded(targets: Targets) -> Targets:
    """Outputs as a file would give them back: float32, of float16 values."""
    summaries = {name: values.half().float() for name, values in targets.summaries.items()}
    return Targets(targets.logits.half().float(), targets.embedding.half().float(), summaries)


@dataclass(frozen=True)
class Shelf:
    """Where a teacher's outputs are kept: the store's folder, the teacher's content, and how much may be.

    `checked` are the files and folders that this process has found to be sound, for all its trainings.
    """

    store: Path
    teacher: str
    budget_bytes: float
    checked: set[str] = field(default_factory=set, compare=False)


class Recorded:
    """One epoch's outputs, `Targets.rows` in float16 in a file; only those that are asked for are read."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self._summaries = list(header["summaries"])
        self._widths = [header["num_logits"], header["num_features"], *header["summaries"].values()]
        shape = (header["num_samples"], sum(self._widths))
        # As a plain array on the same memory: a memmap runs Python code whenever it is indexed.
        self._rows = np.asarray(np.memmap(path, np.float16, "r", HEADER_BYTES, shape))
        self._held: Tensor | None = None  # all of it on a GPU, once it was asked for there

    def take(self, indices: Tensor, device: torch.device | str = "cpu") -> Targets:
        """The outputs for samples [B]. A GPU is given the whole epoch at once where that is small."""
        device = torch.device(device)
        if device.type == "cpu" or self._rows.nbytes > HELD_BYTES:
            rows = torch.from_numpy(self._rows[indices.cpu().numpy()]).to(device).float()
        else:
            if self._held is None:
                self._held = torch.tensor(self._rows, device=device)
            rows = self._held[indices.to(device)].float()
        logits, embedding, *others = torch.split(rows, self._widths, dim=1)
        return Targets(logits, embedding, dict(zip(self._summaries, others, strict=True)))


class OutputCache:
    """The recorded outputs of one teacher on one data set's views.

    `identity` is everything that decides an output apart from stream and epoch; `ask(indices, epoch, stream)`
    runs the teacher on the views of samples [B].
    """

    def __init__(
        self,
        shelf: Shelf,
        identity: Mapping[str, Any],
        num_samples: int,
        ask: Callable[[Tensor, int, int], Targets],
        batch_size: int = 256,
        tolerance: float = TOLERANCES[torch.float32],
    ) -> None:
        self._identity = {"version": VERSION, "teacher": shelf.teacher, **identity}
        text = json.dumps(self._identity, sort_keys=True)
        self.folder = shelf.store / FOLDER / hashlib.sha256(text.encode()).hexdigest()[:32]
        self._shelf = shelf
        self._num_samples = num_samples
        self._ask = ask
        self._batch_size, self._tolerance = batch_size, tolerance
        self._checked = shelf.checked
        self._is_off = False
        self.fill_s = 0.0  # seconds spent on running the teacher for the files

    def epoch(self, stream: int, epoch: int) -> Recorded | None:
        """What the teacher says in this epoch; computed here where no process has done so yet.

        One process computes while the others wait for it, which costs them nothing that a live teacher
        would not. None where the folder cannot be used: full, read-only, over the budget.
        """
        if self._is_off:
            return None
        path = self.folder / f"stream-{stream}-epoch-{epoch}{SUFFIX}"
        try:
            return self._found(path, epoch, stream) or self._elected(path, epoch, stream)
        except OSError as error:
            logger.warning("the teacher runs live, its outputs cannot be kept: %s", error)
            self._is_off = True
            return None

    def _elected(self, path: Path, epoch: int, stream: int) -> Recorded | None:
        deadline = time.monotonic() + WAIT_S
        self.folder.mkdir(parents=True, exist_ok=True)
        while time.monotonic() < deadline:
            with _locked(path.with_suffix(".lock")) as is_ours:
                found = self._found(path, epoch, stream)  # by whoever held the lock before
                if found is not None or is_ours:
                    return found or self._fill(path, epoch, stream)
            time.sleep(POLL_S)
        return None

    def _fill(self, path: Path, epoch: int, stream: int) -> Recorded | None:
        started = time.perf_counter()
        rows, first = self._asked(epoch, stream)
        if not np.isfinite(rows).all():
            raise OSError(f"{path.name}: an output is too large for float16")
        self._check_room(rows.shape[1])  # others may have written since
        content = rows.tobytes()
        header = {
            "num_samples": len(rows),
            "num_logits": first.logits.shape[1],
            "num_features": first.embedding.shape[1],
            "summaries": {name: values.shape[1] for name, values in first.summaries.items()},
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        text = json.dumps(header).encode()
        assert len(text) <= HEADER_BYTES
        if not (self.folder / DESCRIPTION).exists():
            write_atomically(self.folder / DESCRIPTION, json.dumps(self._identity, indent=2).encode())
        write_atomically(path, text.ljust(HEADER_BYTES) + content)
        self._checked.add(_version(path))
        self.fill_s += time.perf_counter() - started
        return Recorded(path, header)

    def _asked(self, epoch: int, stream: int) -> tuple[Any, Targets]:
        """An epoch's rows, float16 [N,W], and its first batch. Raises OSError where they have no room."""
        batches = torch.split(torch.arange(self._num_samples), self._batch_size)
        first = self._ask(batches[0], epoch, stream)
        self._check_room(first.rows.shape[1])
        # Each batch comes to the CPU at once: a GPU may not hold all of them in float32.
        others = [self._ask(indices, epoch, stream).rows.half().cpu() for indices in batches[1:]]
        return torch.cat([first.rows.half().cpu(), *others]).numpy(), first

    def _check_room(self, width: int) -> None:
        """Raises OSError where an epoch of rows of this width has no room, whatever is removed for it."""
        if not make_room(self._shelf, 2 * self._num_samples * width, self.folder):
            raise OSError(f"{self._shelf.store}: the budget or the disk is full")

    def _found(self, path: Path, epoch: int, stream: int) -> Recorded | None:
        """The file, once it is known to be whole and this teacher's; a bad one is removed."""
        try:
            header, version = _header(path), _version(path)
        except FileNotFoundError:
            return None
        if header is not None and version not in self._checked:
            with path.open("rb") as file:
                file.seek(HEADER_BYTES)
                is_whole = hashlib.file_digest(file, "sha256").hexdigest() == header["sha256"]
            header = header if is_whole else None
        if header is None or header["num_samples"] != self._num_samples:
            logger.warning("%s is damaged; it is computed again", path)
            path.unlink(missing_ok=True)
            return None
        recorded = Recorded(path, header)
        if str(self.folder) not in self._checked and not self._agrees(recorded, epoch, stream):
            logger.warning("%s: not what the teacher says; all of it is computed again", self.folder)
            for other in self.folder.glob(f"*{SUFFIX}"):
                other.unlink(missing_ok=True)
            return None
        self._checked |= {version, str(self.folder)}
        os.utime(self.folder)  # the last use, for those who make room
        return recorded

    def _agrees(self, recorded: Recorded, epoch: int, stream: int) -> bool:
        """Whether the teacher says the same of a few samples, other ones in each epoch."""
        step = max(1, self._num_samples // NUM_CHECKED)
        indices = (torch.arange(0, self._num_samples, step)[:NUM_CHECKED] + epoch) % self._num_samples
        live, kept = self._ask(indices, epoch, stream).rows.cpu(), recorded.take(indices).rows
        return live.shape == kept.shape and bool(
            ((live - kept).abs() <= self._tolerance * (1 + live.abs())).all()
        )


def _version(path: Path) -> str:
    """A file as it was written at one time: another in its place is another version."""
    stat = path.stat()
    return f"{path} {stat.st_ino} {stat.st_mtime_ns}"


def _header(path: Path) -> dict[str, Any] | None:
    """What a file says of itself, None where it is not one of ours. Raises FileNotFoundError."""
    with path.open("rb") as file:
        text = file.read(HEADER_BYTES)
    try:
        header: dict[str, Any] = json.loads(text)
        width = header["num_logits"] + header["num_features"] + sum(header["summaries"].values())
        fits = path.stat().st_size == HEADER_BYTES + 2 * header["num_samples"] * width
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return header if fits and isinstance(header.get("sha256"), str) else None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Whether this process now holds the lock; a process that dies lets go of its locks."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Entry:
    """One teacher's outputs on one data set's views, as `kdsearch cache` lists them."""

    key: str
    about: Mapping[str, Any]  # teacher, data, augment and the rest of the identity; empty if unreadable
    num_epochs: int
    num_bytes: int
    last_used: float


def entries(store: Path) -> list[Entry]:
    """What is kept, the longest unused first."""
    found = []
    for folder in (store / FOLDER).glob("*/"):
        with contextlib.suppress(FileNotFoundError):  # another process clears it
            files = [file.stat().st_size for file in folder.glob(f"*{SUFFIX}")]
            found.append(Entry(folder.name, _about(folder), len(files), sum(files), folder.stat().st_mtime))
    return sorted(found, key=lambda entry: (entry.last_used, entry.key))


def _about(folder: Path) -> Mapping[str, Any]:
    try:
        about: Mapping[str, Any] = json.loads((folder / DESCRIPTION).read_bytes())
    except (OSError, ValueError):
        return {}
    return about


def clear(store: Path, keys: list[str]) -> int:
    """Remove what is kept under these keys. Returns the bytes that are free again."""
    freed = 0
    for entry in entries(store):
        if entry.key in keys:
            shutil.rmtree(store / FOLDER / entry.key, ignore_errors=True)
            freed += entry.num_bytes
    return freed


def make_room(shelf: Shelf, num_bytes: int, ours: Path) -> bool:
    """Whether a file of this size may be written, once the longest unused of other teachers is removed."""
    kept = entries(shelf.store)
    total = num_bytes + sum(entry.num_bytes for entry in kept)
    for entry in kept:
        if total <= shelf.budget_bytes:
            break
        if entry.key != ours.name:
            total -= clear(shelf.store, [entry.key])
    return total <= shelf.budget_bytes and shutil.disk_usage(shelf.store).free > num_bytes + FREE_BYTES
