"""Where teachers are kept: `<store>/teachers/<key>/`, teacher.safetensors and teacher.json.

Goes in: a `Teacher`, or the state of one in training, and its key. Comes out: the same again, verified;
what is damaged is not used. `<store>/measured/` has what `remembered` keeps of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.numpy

from kdsearch.checkpoint import (
    CheckpointError,
    State,
    load_checkpoint,
    sync_folder,
    write_atomically,
    write_state,
)
from kdsearch.teacher_model import Teacher
from kdsearch.weights import WeightsError, read_description, read_weights

logger = logging.getLogger(__name__)


def save(teacher: Teacher, store: Path) -> Path:
    """Keep a teacher; the folder appears whole or not at all. Returns the folder. Raises OSError.

    A sound one under the same key, from a sweep that was faster, stays; a damaged one is replaced.
    """
    folder = _folder(teacher.key, store)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    content = safetensors.numpy.save(teacher.weights)
    fields = {field.name: getattr(teacher, field.name) for field in dataclasses.fields(teacher)}
    del fields["weights"]
    fields |= {"options": dict(teacher.options), "sha256": hashlib.sha256(content).hexdigest()}
    try:
        write_atomically(draft / "teacher.safetensors", content)
        write_atomically(draft / "teacher.json", (json.dumps(fields, indent=2) + "\n").encode())
        if not _is_sound(teacher.key, store):
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(draft, folder)
            sync_folder(folder.parent)
    except OSError:
        if not _is_sound(teacher.key, store):  # else another sweep was faster
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    shutil.rmtree(_partial_folder(teacher.key, store), ignore_errors=True)
    return folder


def find(key: str, store: Path) -> Teacher | None:
    """The stored teacher, verified; None where there is none, or, with a warning, where it is damaged."""
    try:
        return _stored(key, store) if _folder(key, store).exists() else None
    except WeightsError as error:
        logger.warning("the stored teacher is damaged and will be trained again: %s", error)
        return None


def save_partial(key: str, state: State, store: Path) -> None:
    """Keep the state of a teacher in training; the previous one is dropped once this one is on disk."""
    folder = _partial_folder(key, store)
    file = folder / f"epoch-{state['training']['epoch']}.pt"
    sha256 = write_state(file, state)
    write_atomically(folder / "state.json", json.dumps({"file": file.name, "sha256": sha256}).encode())
    for other in folder.glob("epoch-*.pt"):
        if other != file:
            other.unlink(missing_ok=True)


def find_partial(key: str, store: Path) -> State | None:
    """The last kept state of an interrupted training; None, with a warning, where it is damaged."""
    folder = _partial_folder(key, store)
    if not (folder / "state.json").exists():
        return None
    try:
        index = json.loads((folder / "state.json").read_bytes())
        return load_checkpoint(folder / index["file"], index["sha256"])
    except (CheckpointError, OSError, KeyError, TypeError, ValueError) as error:
        logger.warning("the teacher's training begins again, its kept state is damaged: %s", error)
        return None


def remembered(
    identity: Mapping[str, Any], measure: Callable[[], dict[str, float]], store: Path
) -> dict[str, float]:
    """What an earlier sweep measured of a teacher; `identity` is all that decides it.

    Measured where none did or its file is damaged, and kept where the store takes it.
    """
    text = json.dumps(identity, sort_keys=True)
    file = store / "measured" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    try:
        found = json.loads(file.read_bytes())
        return {str(name): float(value) for name, value in found["values"].items()}
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s is damaged, it is measured again: %s", file, error)
    values = measure()
    try:
        write_atomically(file, json.dumps({"about": identity, "values": values}, indent=2).encode())
    except OSError as error:
        logger.warning("what was measured of the teacher could not be kept: %s", error)
    return values


def _folder(key: str, store: Path) -> Path:
    return store / "teachers" / key


def _partial_folder(key: str, store: Path) -> Path:
    return store / "teachers" / f"{key}.partial"


def _stored(key: str, store: Path) -> Teacher:
    """Raises WeightsError where anything is missing, damaged or another teacher's."""
    file = _folder(key, store) / "teacher.safetensors"
    description = read_description(file)
    weights = read_weights(file)
    try:
        del description["sha256"]
        description["report"]["source"] = "stored"
        teacher = Teacher(weights=weights, **description)
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{file.with_suffix('.json')}: damaged, it does not describe a teacher") from error
    if teacher.key != key:
        raise WeightsError(f"{file.with_suffix('.json')}: describes another teacher")
    return teacher


def _is_sound(key: str, store: Path) -> bool:
    try:
        return bool(_stored(key, store))
    except WeightsError:
        return False
