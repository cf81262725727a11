"""How a session of a sweep begins: in a new folder, or in one that an earlier session left.

Goes in: the spec and the folder or its journal. Comes out: a `sweep_started` event, or a refusal.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import json
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdsearch import __version__, cli
from kdsearch import spec as specs
from kdsearch.journal import FILE, LOCK, Journal
from kdsearch.search.bands import CostOf, band_edges, check_students, cost_bounds
from kdsearch.spec import SweepSpec

PACKAGES = ("matplotlib", "mlflow", "numpy", "optuna", "pandas", "ray", "torch", "torchvision")


def check_folder(output: Path, resume: bool) -> None:
    """Refuse to write into what is already there, unless asked to go on with it."""
    if ":/" in str(output):
        raise cli.UsageError(
            f"--output {output}: an address is no folder; give one of this machine, or that all nodes share"
        )
    if output.exists() and not output.is_dir():
        raise cli.UsageError(f"--output {output}: is a file")
    if not resume and output.exists() and any(not _is_unused(path) for path in output.iterdir()):
        raise cli.UsageError(
            f"{output} exists: go on with it (--resume) or choose another folder (--output DIR)"
        )


def nothing_to_resume(output: Path) -> str:
    """A line where a folder to go on with holds no sweep; '' where it does.

    It is no refusal: a cluster's job may ask to go on every time that it starts, the first included.
    """
    if output.is_dir() and any(not _is_unused(path) for path in output.iterdir()):
        return ""
    beside = output.parent.iterdir() if output.parent.is_dir() else ()
    names = [path.name for path in beside if path != output and (path / FILE).exists()]
    near = "".join(f" (nearest: {name})" for name in difflib.get_close_matches(output.name, names, 1))
    return f"nothing to resume in {output}{near}: begins anew"


def _is_unused(path: Path) -> bool:
    """What a sweep leaves that was refused before it began."""
    return path.name == LOCK or (path.name == FILE and path.stat().st_size == 0)


def check_same_spec(journal: Journal, spec: SweepSpec) -> None:
    """A sweep goes on with the spec it began with; only its budgets may change, and trials only grow."""
    started = [event for event in journal.events if event["kind"] == "sweep_started"]
    if not started:
        return
    before = specs.from_dict(started[-1]["spec"])
    changed, _ = specs.diff(before, spec)
    for name in ("trials", "seeds"):
        was, now = getattr(before.search, name), getattr(spec.search, name)
        if now is not None and (was is None or now < was):
            shown = "all" if was is None else was
            changed = [*changed, f"search.{name}: {shown} -> {now} (may grow, not shrink)"]
    if changed:
        lines = "\n".join(f"  {line}" for line in changed)
        raise cli.UsageError(
            f"{journal.path.parent} was begun with another spec; only budgets and teacher.min_accuracy may "
            f"change on --resume\n{lines}"
        )


def begin(spec: SweepSpec, journal: Journal, cost_of: CostOf, data: Mapping[str, Any]) -> None:
    """Journal that this session begins: the spec, what runs it, the data's sizes, the students' range."""
    started = [event for event in journal.events if event["kind"] == "sweep_started"]
    if started and _contents(started[-1]["data"]) != _contents(data):
        raise cli.UsageError(
            f"{spec.data.root}: not the data that this sweep began with; use another --output"
        )
    resolved = specs.to_dict(spec)
    try:
        check_students(spec, cost_of)
        edges = band_edges(spec, cost_of)
    except ValueError as error:
        raise cli.UsageError(f"student: {error}") from None
    journal.append(
        "sweep_started",
        sweep_id=journal.events[0]["sweep_id"] if journal.events else uuid.uuid4().hex,
        name=spec.name,
        spec=resolved,
        spec_hash=hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest(),
        versions={"kdsearch": __version__} | {name: importlib.metadata.version(name) for name in PACKAGES},
        commit=commit(),
        seed=spec.search.seed,
        objectives=list(spec.search.objectives),
        bands={"cost": "params", "edges": edges},
        bounds=cost_bounds(spec, cost_of),
        data=dict(data),
        resumed=bool(journal.events),
    )


def _contents(data: Mapping[str, Any]) -> tuple[Any, Any]:
    """The keys of the data's pixels and labels, and of the images without labels."""
    return data.get("key"), (data.get("unlabelled") or {}).get("key")


def commit() -> str:
    """The git commit of the running code, '' where it is not a checkout."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()
