"""Bring an MLflow store to what the journal says, by sending what it lacks.

Goes in: the journal's events. Comes out: calls to a store (`tracking.py` has the real one), and the ids of
new runs for the journal. Sending can stop anywhere and begin again: runs are found by their tags, metrics
that are there are not sent twice, so a resume, a late `sync` and a repaired store are one and the same case.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from kdsearch.confirmation import front_of_record
from kdsearch.mlflow_runs import ON_FRONT, SWEEP_ID, TRIAL_ID, Point, Run, sweep_run, trial_run
from kdsearch.records import Event, is_teacher, replay

PARENT = "mlflow.parentRunId"
REPORT = "kdsearch.report"  # checksum of the artifacts: an unchanged report is not sent twice
LOGGED = "kdsearch.logged_step"  # the metrics up to this step are in the store: what need not be sent again
CHANGED = "kdsearch.changed."  # params are written once, and a resumed sweep may have a larger budget
REPORT_FILES = (
    "confirmed.csv",
    "curves.csv",
    "methods.csv",
    "pareto.csv",
    "report.html",
    "report.md",
    "spec.yaml",
    "summary.json",
    "trials.csv",
)

# MLflow's errors about one run (deleted, a value refused); any other means that the store does not answer.
REFUSALS = ("BAD_REQUEST", "INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")


class Append(Protocol):
    """Journals an `mlflow_run` event."""

    def __call__(self, trial_id: str | None, *, run_id: str, experiment_id: str) -> object: ...


class StoredRun(NamedTuple):
    """A run as it is in the store."""

    run_id: str
    experiment_id: str
    status: str
    ended_ms: int
    params: Mapping[str, str]
    tags: Mapping[str, str]


class Store(Protocol):
    """What is asked of a tracking store. Every method may raise anything; none is atomic."""

    def connect(self) -> bool:
        """Make sure that the store is there and takes writes. True when it is another one than before."""

    def experiment(self, name: str) -> str:
        """The id of the experiment, made where there is none."""

    def run(self, run_id: str) -> StoredRun | None:
        """A run, None when it is not there or was deleted."""

    def runs_tagged(self, experiment_id: str, tag: str, value: str) -> list[StoredRun]:
        """All runs with this tag, oldest first."""

    def create_run(
        self, experiment_id: str, name: str, started_ms: int, tags: Mapping[str, str]
    ) -> StoredRun: ...

    def delete_run(self, run_id: str) -> None: ...

    def log(
        self, run_id: str, points: Sequence[Point], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        """Log all of it, the tags after the metrics."""

    def set_status(self, run_id: str, status: str, ended_ms: int) -> None: ...

    def upload(self, run_id: str, path: Path, folder: str | None) -> None: ...


@dataclass
class _Link:
    """What the store is known to hold of one run. Unknown until `stored` is set."""

    run_id: str = ""
    stored: StoredRun | None = None
    num_points: int = 0


class Mirror:
    """The events of one sweep and what a store has of them.

    It keeps the whole journal (about 1 kB an epoch), so that a run that someone deletes, or a store that
    someone replaces, is filled again in full. Only `flush` talks to the store.
    """

    def __init__(self, store: Store, append: Append) -> None:
        self._store, self._append = store, append
        self._sweep_events: list[Event] = []
        self._trial_events: dict[str, list[Event]] = {}
        self._links = {"": _Link()}  # by trial; '' is the parent
        self._unsent = {""}
        self._front: set[str] | None = None  # known at the end only: until then the store keeps what it has
        self._report: list[Path] = []
        self._experiment_id = ""
        self._found: dict[str, list[StoredRun]] | None = None  # by trial; None: ask the store first
        self.created: set[str] = set()
        self.changed: set[str] = set()

    @property
    def num_runs(self) -> int:
        return len(self._links)

    @property
    def num_pending(self) -> int:
        return len(self._unsent | ({""} if self._report else set()))

    def load(self, events: Iterable[Event]) -> None:
        """Start over from a whole journal."""
        self._sweep_events.clear()
        self._trial_events.clear()
        for event in events:
            self.hear(event)

    def hear(self, event: Event) -> None:
        trial_id = event.get("trial_id") or ""
        (self._trial_events.setdefault(trial_id, []) if trial_id else self._sweep_events).append(event)
        link = self._links.setdefault(trial_id, _Link())
        if event["kind"] == "mlflow_run" and not link.stored:
            link.run_id = event["run_id"]
        self._unsent |= {trial_id} if trial_id else set(self._links)

    def add_report(self, folder: Path) -> None:
        """What only the end of a sweep knows: who is on the front, and the report's files."""
        events = [*self._sweep_events, *(event for events in self._trial_events.values() for event in events)]
        self._front = {trial.trial_id for trial in front_of_record(replay(events))}
        self._report = [path for name in REPORT_FILES if (path := folder / name).is_file()]
        self._report += sorted((folder / "figures").glob("*.png"))
        self._unsent |= set(self._links)

    def flush(self, is_cancelled: Callable[[], bool] = lambda: False) -> None:
        """Send all that the store lacks. A run that the store refuses does not hold up the others.

        Raises what the store raises. `is_cancelled` is asked between two runs.
        """
        if not self.num_pending:
            return
        if self._store.connect():
            self._forget_store()
        if self._found is None:
            self._look()
        if not self._links[""].stored:
            self._try(self._find_or_create, "")  # first, as the children carry its id
        refusal: Exception | None = None
        for trial_id in sorted(self._unsent, key=lambda trial_id: (not trial_id, trial_id)):  # it ends last
            if is_cancelled():
                return
            try:
                self._try(self._send, trial_id)
            except Exception as error:
                if not _is_about_one_run(error):
                    raise
                refusal = error
            else:
                self._unsent.discard(trial_id)
        self._send_report()
        if refusal:
            raise refusal

    def _forget_store(self) -> None:
        for link in self._links.values():
            link.stored = None
        self._found = None
        self._unsent |= set(self._links)

    def _look(self) -> None:
        """Find the sweep's experiment (where its parent is: someone may have renamed it) and its runs."""
        header = replay(self._sweep_events).header
        parent_id = self._links[""].run_id
        parent = self._store.run(parent_id) if parent_id else None
        self._experiment_id = parent.experiment_id if parent else self._store.experiment(header["name"][:500])
        found: dict[str, list[StoredRun]] = {}
        for stored in self._store.runs_tagged(self._experiment_id, SWEEP_ID, header["sweep_id"]):
            found.setdefault(stored.tags.get(TRIAL_ID, ""), []).append(stored)
        self._found = found

    def _try(self, action: Callable[[Run], None], trial_id: str) -> None:
        """After a failure the store is asked: a run may be gone, or be there though creating it failed."""
        try:
            action(self._run(trial_id))
        except Exception:
            self._links[trial_id].stored = self._found = None
            raise

    def _run(self, trial_id: str) -> Run:
        sweep = replay([*self._sweep_events, *self._trial_events.get(trial_id, [])])
        if trial_id:
            return trial_run(sweep, sweep.trials[trial_id])
        ready = (event for event in self._sweep_events if event["kind"] == "teacher_ready")
        teachers = (event for event in ready if is_teacher(event))
        return sweep_run(sweep, next(teachers, None))

    def _send(self, run: Run) -> None:
        link = self._links[run.trial_id]
        if not link.stored:
            self._find_or_create(run)
        stored = link.stored
        assert stored is not None
        points = run.points[link.num_points :]
        params = {name: value for name, value in run.params.items() if name not in stored.params}
        tags = {name: value for name, value in self._tags(run).items() if stored.tags.get(name) != value}
        for name, value in run.params.items():
            if stored.params.get(name, value) != value and stored.tags.get(CHANGED + name) != value:
                tags[CHANGED + name] = value
        if points:
            tags[LOGGED] = str(points[-1].step)
        if points or params or tags:
            self._store.log(link.run_id, points, params, tags)
            self.changed.add(run.trial_id)
        if (run.status, run.ended_ms) != (stored.status, stored.ended_ms):
            self._store.set_status(link.run_id, run.status, run.ended_ms)
            self.changed.add(run.trial_id)
        link.num_points = len(run.points)
        link.stored = stored._replace(
            status=run.status,
            ended_ms=run.ended_ms,
            params={**stored.params, **params},
            tags={**stored.tags, **tags},
        )

    def _tags(self, run: Run) -> dict[str, str]:
        if not run.trial_id:
            return dict(run.tags)
        tags = {**run.tags, PARENT: self._links[""].run_id}
        if self._front is not None:
            tags[ON_FRONT] = "true" if run.trial_id in self._front else "false"
        return tags

    def _find_or_create(self, run: Run) -> None:
        link = self._links[run.trial_id]
        stored = self._adopt(run.trial_id, link)
        if stored is None:
            tags = {**({ON_FRONT: "false"} if run.trial_id else {}), **self._tags(run)}
            stored = self._store.create_run(self._experiment_id, run.name, run.started_ms, tags)
            self.created.add(run.trial_id)
        logged_step = int(stored.tags.get(LOGGED, -1))
        link.num_points = sum(point.step <= logged_step for point in run.points)
        link.stored = stored
        if link.run_id != stored.run_id:
            link.run_id = stored.run_id
            self._unsent |= {run.trial_id} if run.trial_id else set(self._links)
            self._append(run.trial_id or None, run_id=link.run_id, experiment_id=self._experiment_id)

    def _adopt(self, trial_id: str, link: _Link) -> StoredRun | None:
        """The run that the store has: the journalled one, or one that a crash kept out of the journal.

        Of several, which a lost answer to `create_run` leaves behind, one stays.
        """
        candidates = (self._found or {}).pop(trial_id, [])
        if not candidates:
            return self._store.run(link.run_id) if link.run_id else None
        kept = next((stored for stored in candidates if stored.run_id == link.run_id), candidates[0])
        for stored in candidates:
            if stored is not kept:
                self._store.delete_run(stored.run_id)
        return kept

    def _send_report(self) -> None:
        if not self._report:
            return
        parent = self._links[""].stored
        if parent is None:  # refused just now
            return
        contents = hashlib.sha256()
        for path in self._report:
            contents.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
        checksum = contents.hexdigest()
        if parent.tags.get(REPORT) != checksum:
            for path in self._report:
                self._store.upload(parent.run_id, path, "figures" if path.suffix == ".png" else None)
            self._store.log(parent.run_id, (), {}, {REPORT: checksum})
            self._links[""].stored = parent._replace(tags={**parent.tags, REPORT: checksum})
            self.changed.add("")
        self._report = []


def _is_about_one_run(error: Exception) -> bool:
    is_broken_event = isinstance(error, LookupError | TypeError | ValueError)
    return is_broken_event or getattr(error, "error_code", "") in REFUSALS
