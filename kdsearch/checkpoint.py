"""States of trainings on disk: whole, verified, and only tensors and plain values.

Goes in: a state dict, later its path and the sha256 that was recorded of it. Comes out: the same state, or
a `CheckpointError`. A crash at any moment leaves the old file or the new one.
"""

from __future__ import annotations

import hashlib
import io
import os
import uuid
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

State = dict[str, Any]


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged or not the one that was recorded."""


def write_state(path: Path, state: State) -> str:
    """Write tensors and plain values for `load_checkpoint`, whole or not at all. Returns the file's sha256.

    Raises OSError where the disk does not take it; an older file of that name is then still there.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def load_checkpoint(path: Path, sha256: str) -> State:
    """The state that was written with this sha256, on the CPU. Raises CheckpointError, in words."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: the checkpoint cannot be read: {error.strerror}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise CheckpointError(
            f"{path}: the checkpoint is damaged: sha256 {found[:12]}, recorded {sha256[:12]}"
        )
    try:
        state: State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (EOFError, RuntimeError, UnpicklingError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: not a checkpoint of tensors and plain values") from error
    return state


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that after a crash is the old one or the new one, never half of either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """A rename is on disk only when its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
