"""MLflow as a sink: what the journal says, MLflow gets, sooner or later; nothing flows back but run ids.

Goes in: the journal's events, each after it is on disk. Comes out: one parent run per sweep and one child
per trial in an MLflow store. Training never waits for MLflow and never fails with it: one thread writes,
what it cannot send it keeps and tries again, and `sync` makes good later whatever was missed.

By default the store is `sqlite:///mlflow.db` in the working directory, and MLflow puts artifacts of such a
store under `./mlruns`; `mlflow ui` started in the same directory, without options, shows both.
"""

from __future__ import annotations

import contextlib
import getpass
import importlib
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdsearch import journal, results
from kdsearch.mlflow_mirror import Append, Mirror, StoredRun
from kdsearch.mlflow_runs import Point
from kdsearch.records import Event
from kdsearch.sqlite_file import check_writable, file_id, only_process, sqlite_path
from kdsearch.tracking_uri import redact, resolve_uri

logger = logging.getLogger(__name__)

METRICS_PER_CALL = 800  # of mlflow's 1,000 entities a call; 100 params and 100 tags come on top
# A batch takes some 30 ms, however little is in it: a short trial gets one or two.
FLUSH_S = 15.0
MAX_RETRY_S = 60.0
WARN_EVERY_S = 60.0
LAST_ATTEMPTS = 3  # once the sweep has ended; one if the store was down already: the user is waiting

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing leaves this machine unasked
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # we retry, and look first: a repeated POST makes a second run
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output belongs to the command line
}
_LOG_LEVELS = {
    "mlflow": logging.WARNING,
    "alembic": logging.WARNING,
    "mlflow.store.db.utils": logging.CRITICAL,  # logs a traceback of each error that we report in words
    "urllib3.connectionpool": logging.ERROR,
}


class TrackingError(Exception):
    """The store refuses in a way that the user can mend; the message is for the user."""


@dataclass(frozen=True)
class SyncResult:
    """What a store holds of a sweep. `runs` counts the parent; `changed` the runs that were written to."""

    uri: str  # without credentials
    runs: int
    created: int
    changed: int
    pending: int  # runs of which something is missing
    error: str = ""

    @property
    def is_complete(self) -> bool:
        return not self.pending and not self.error


class Tracker:
    """Sends a running sweep's journal to MLflow from a thread of its own (`TrackingProcess` has one for a sweep).

    `events` is the journal so far, `append` journals the id of a new run. Nothing here ever raises.
    """

    def __init__(
        self,
        events: Sequence[Event],
        append: Append,
        uri: str | None = None,
        *,
        flush_s: float = FLUSH_S,
        retry_s: float = 5.0,
    ) -> None:
        self._uri = resolve_uri(uri)
        self._mirror = Mirror(MlflowStore(self._uri), append)
        self._mirror.load(events)
        self._queue: queue.SimpleQueue[Event | Path | threading.Event] = queue.SimpleQueue()
        self._waiting: list[threading.Event] = []
        self._flush_s, self._retry_s = flush_s, retry_s
        self.num_failures = 0  # attempts since the store last took everything
        self._error, self._quiet_until = "", 0.0
        self._done, self._is_cancelled = threading.Event(), threading.Event()
        with contextlib.suppress(Exception):  # the thread comes upon it again, and says so
            _import_mlflow(self._uri)
        threading.Thread(target=self._write, name="mlflow", daemon=True).start()

    def put(self, event: Event) -> None:
        """Hand over an event that is on disk. Returns at once."""
        self._queue.put(event)

    def catch_up(self, deadline_s: float = 20.0) -> None:
        """Wait until the store has what was put, or refused it: then the journal has every run's id."""
        reached = threading.Event()
        self._queue.put(reached)
        reached.wait(deadline_s)

    def finish(self, folder: Path, deadline_s: float = 60.0) -> SyncResult:
        """Send what is left, who is on the front, and the report's files; end the parent run.

        The journal in `folder` decides, so nothing is lost that was not `put`. Returns by the deadline, and
        sooner where the store is down; what is missing then, `sync` or a resume makes good.
        """
        self._queue.put(folder)
        self._done.wait(deadline_s)
        self._is_cancelled.set()
        late = "" if self._done.is_set() else "no answer in time"
        result = _result(self._uri, self._mirror, self._error or late)
        if not result.is_complete:
            logger.warning(
                "MLflow (%s) has not got all of %d of %d runs: %s; `kdsearch sync %s` completes them",
                *(result.uri, result.pending, result.runs, result.error, folder),
            )
        return result

    def _write(self) -> None:
        try:
            self._write_until_finished()
        finally:
            self._done.set()

    def _write_until_finished(self) -> None:
        wait_s, is_finishing, attempts_left = 0.0, False, LAST_ATTEMPTS
        while not self._is_cancelled.is_set():
            if self._listen(wait_s):
                is_finishing, attempts_left = True, 1 if self.num_failures else LAST_ATTEMPTS
            try:
                self._mirror.flush(self._is_cancelled.is_set)
            except Exception as error:  # whatever a store, a server or their client does, training goes on
                self._failed(error)
                attempts_left -= int(is_finishing)
                if not attempts_left:
                    return
                longest_s = 1.0 if is_finishing else MAX_RETRY_S
                wait_s = min(self._retry_s * 2 ** min(self.num_failures - 1, 10), longest_s)
            else:
                self._succeeded()
                wait_s = self._flush_s
                if is_finishing:
                    return
            finally:
                while self._waiting:
                    self._waiting.pop().set()

    def _listen(self, wait_s: float) -> bool:
        """Take in events for some time. True, and at once, when the sweep's folder came: the end."""
        until = time.monotonic() + wait_s
        while True:
            try:
                heard = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return False
            if isinstance(heard, threading.Event):
                self._waiting.append(heard)
                return False
            if isinstance(heard, Path):
                self._load(heard)
                return True
            self._mirror.hear(heard)

    def _load(self, folder: Path) -> None:
        try:
            self._mirror.load(journal.read(folder / journal.FILE))
            self._mirror.add_report(folder)
        except Exception as error:  # a damaged journal is the sweep's to report; MLflow gets what was put
            logger.warning("MLflow gets no report: %s", error)

    def _failed(self, error: Exception) -> None:
        """One warning, then at most one a minute."""
        self.num_failures += 1
        self._error = _reason(error)
        if time.monotonic() < self._quiet_until:
            return
        self._quiet_until = time.monotonic() + WARN_EVERY_S
        logger.warning(
            "MLflow (%s) does not take the results (%s, attempt %d). The sweep goes on: its journal keeps"
            " everything, and MLflow gets it when it answers again",
            *(redact(self._uri), self._error, self.num_failures),
        )

    def _succeeded(self) -> None:
        if self.num_failures:
            logger.info("MLflow (%s) answers again and has everything so far", redact(self._uri))
        self.num_failures, self._error = 0, ""


def sync(folder: Path, uri: str | None = None, append: Append | None = None) -> SyncResult:
    """Make a store hold what the journal of a sweep's folder says. Doing it twice changes nothing more.

    The runs of a killed sweep stay RUNNING, as nothing in its journal ends them: a resume does. A store that
    cannot be written to is reported in `error`. Raises MissingSweepError and DamagedSweepError.
    """
    _, events = results.load(folder)
    uri = resolve_uri(uri)
    mirror = Mirror(MlflowStore(uri), append or _journal_nothing)
    mirror.load(events)
    mirror.add_report(folder)
    try:
        mirror.flush()
    except Exception as error:  # a store, its server and their client fail in too many ways to list
        return _result(uri, mirror, _reason(error))
    return _result(uri, mirror)


def _result(uri: str, mirror: Mirror, error: str = "") -> SyncResult:
    return SyncResult(
        uri=redact(uri),
        runs=mirror.num_runs,
        created=len(mirror.created),
        changed=len(mirror.changed | mirror.created),
        pending=mirror.num_pending,
        error=error,
    )


def _journal_nothing(trial_id: str | None, *, run_id: str, experiment_id: str) -> None:
    """Run ids need no journal to be found again: the runs are tagged with the sweep's and the trial's id."""


class MlflowStore:
    """One tracking store through one MlflowClient: explicit run ids, no active run. For one thread.

    The methods are those of `mlflow_mirror.Store`.
    """

    def __init__(self, uri: str) -> None:
        self._uri, self._path = uri, sqlite_path(uri)
        self._client: Any = None
        self._num_clients = 0
        self._file_id = (0, 0)

    def connect(self) -> bool:
        if self._path is None:
            is_new = self._client is None
            self._client = self._client or _new_client(self._uri)
            return is_new
        if self._client is not None:
            check_writable(self._path)
            if file_id(self._path) == self._file_id:
                return False
            self._client = None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with only_process(self._path):
            check_writable(self._path)
            # MLflow keeps its first connection to a URI for ever, even to a file that was deleted since:
            # another slash is another URI for the same file.
            slashes = "/" * (self._num_clients + 1)
            self._client = _new_client(f"sqlite:///{self._path.parent}{slashes}{self._path.name}")
        self._num_clients += 1
        self._file_id = file_id(self._path)
        return True

    def experiment(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            return str(self._client.create_experiment(name))
        if experiment.lifecycle_stage != "active":
            raise TrackingError(
                f"the experiment {name!r} was deleted: `mlflow experiments restore --experiment-id"
                f" {experiment.experiment_id}` brings it back, `mlflow gc` frees its name"
            )
        return str(experiment.experiment_id)

    def run(self, run_id: str) -> StoredRun | None:
        try:
            run = self._client.get_run(run_id)
        except Exception as error:
            if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return _stored(run) if run.info.lifecycle_stage == "active" else None

    def runs_tagged(self, experiment_id: str, tag: str, value: str) -> list[StoredRun]:
        found: list[StoredRun] = []
        token = None
        while True:
            page = self._client.search_runs(
                [experiment_id],
                f"tags.`{tag}` = '{value}'",
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            found += map(_stored, page)
            token = page.token
            if not token:
                return found

    def create_run(
        self, experiment_id: str, name: str, started_ms: int, tags: Mapping[str, str]
    ) -> StoredRun:
        about = {"mlflow.source.name": "kdsearch", "mlflow.user": _user()}
        return _stored(
            self._client.create_run(
                experiment_id, start_time=started_ms, tags={**about, **tags}, run_name=name
            )
        )

    def delete_run(self, run_id: str) -> None:
        self._client.delete_run(run_id)

    def log(
        self, run_id: str, points: Sequence[Point], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(point.name, point.value, point.time_ms, point.step) for point in points]
        while len(metrics) > METRICS_PER_CALL:
            self._client.log_batch(run_id, metrics=metrics[:METRICS_PER_CALL], synchronous=True)
            metrics = metrics[METRICS_PER_CALL:]
        self._client.log_batch(  # splits params and tags by 100 itself
            run_id,
            metrics=metrics,
            params=[Param(name, value) for name, value in params.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
            synchronous=True,
        )

    def set_status(self, run_id: str, status: str, ended_ms: int) -> None:
        if status == "RUNNING":
            self._client.update_run(run_id, status=status)
        else:
            self._client.set_terminated(run_id, status=status, end_time=ended_ms)

    def upload(self, run_id: str, path: Path, folder: str | None) -> None:
        self._client.log_artifact(run_id, str(path), folder)


def _stored(run: Any) -> StoredRun:
    # A run that was taken up again keeps its old end in the store; a running one has none.
    ended_ms = run.info.end_time if run.info.status != "RUNNING" else 0
    return StoredRun(
        run_id=run.info.run_id,
        experiment_id=str(run.info.experiment_id),
        status=run.info.status,
        ended_ms=ended_ms or 0,
        params=dict(run.data.params),
        tags=dict(run.data.tags),
    )


def _import_mlflow(uri: str) -> Any:
    """`MlflowClient`; it imports what it needs for a database, too.

    In the thread that imports all else: two that import modules which import each other (Ray and mlflow have
    some in common) may see them half initialised, and those that failed once fail until the process ends.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # A user's active model would draw every metric to itself, and fail the batch where it does not exist.
    os.environ.pop("MLFLOW_ACTIVE_MODEL_ID", None)
    from mlflow.tracking import MlflowClient

    if not uri.startswith(("http://", "https://")):
        importlib.import_module("mlflow.store.tracking.sqlalchemy_store")  # else at the client's first use
    for name, level in _LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    return MlflowClient


def _new_client(uri: str) -> Any:
    return _import_mlflow(uri)(tracking_uri=uri, registry_uri=uri)


def _reason(error: BaseException) -> str:
    """What went wrong in a line, from the operating system or the database where it came from there."""
    found, link = error, error.__cause__ or error.__context__
    while link is not None:
        if isinstance(link, OSError | sqlite3.Error):
            found = link
        link = link.__cause__ or link.__context__
    lines = str(found).strip().splitlines() or [type(found).__name__]
    return redact(lines[0])[:300]


def _user() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container without a user database
        return "unknown"
