"""MLflow as a sink: what the journal says, MLflow gets, sooner or later; nothing flows back but run ids.

Goes in: the journal's events, each after it is on disk. Comes out: one parent run per sweep and one child
per trial in an MLflow store. Training never waits for MLflow and never fails with it: a process of its own
writes (`tracking_process.py`), what it cannot send it keeps and tries again, and `sync` makes good later
whatever was missed.

By default the store is `sqlite:///mlflow.db` in the working directory, and MLflow puts artifacts of such a
store under `./mlruns`; `mlflow ui` started in the same directory, without options, shows both.
"""

from __future__ import annotations

import dataclasses
import getpass
import logging
import math
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
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
    """Sends a running sweep's journal to MLflow, and after a failure again. Nothing here ever raises.

    `append` journals the id of a new run. A call may take as long as the store does.
    """

    def __init__(self, append: Append, uri: str | None = None, *, retry_s: float = 5.0) -> None:
        self._uri = resolve_uri(uri)
        self._mirror = Mirror(MlflowStore(self._uri), append)
        self._retry_s = retry_s
        self.num_failures = 0  # attempts since the store last took everything
        self._error, self._quiet_until = "", 0.0

    def put(self, events: Iterable[Event]) -> None:
        """Take in events that are on disk."""
        for event in events:
            self._mirror.hear(event)

    def flush(self, until: float = math.inf) -> float:
        """Send what the store lacks, run by run until that time. The seconds after which to come again."""
        try:
            self._mirror.flush(lambda: time.monotonic() > until)
        except Exception as error:  # whatever a store, a server or their client does, training goes on
            self._failed(error)
            return min(self._retry_s * 2.0 ** min(self.num_failures - 1, 10), MAX_RETRY_S)
        if not self._mirror.num_pending:  # else the time was over
            self._succeeded()
        return FLUSH_S

    def finish(self, folder: Path, deadline_s: float = 60.0) -> SyncResult:
        """Send what is left, who is on the front, and the report's files; end the parent run.

        The journal in `folder` decides, so nothing is lost that was not `put`. What is missing at the
        deadline, `sync` or a resume makes good.
        """
        until = time.monotonic() + deadline_s
        attempts_left = 1 if self.num_failures else LAST_ATTEMPTS
        try:
            self._mirror.load(journal.read(folder / journal.FILE))
            self._mirror.add_report(folder)
        except Exception as error:  # a damaged journal is the sweep's to report; MLflow gets what was put
            logger.warning("MLflow gets no report: %s", error)
        wait_s = self.flush(until)
        while self._error and attempts_left > 1 and time.monotonic() < until:
            attempts_left -= 1
            time.sleep(min(wait_s, 1.0))
            wait_s = self.flush(until)
        result = _result(self._uri, self._mirror, self._error)
        if result.pending and not result.error:
            result = dataclasses.replace(result, error="no answer in time")
        if not result.is_complete:
            logger.warning(
                "MLflow (%s) has not got all of %d of %d runs: %s; `kdsearch sync %s` completes them",
                *(result.uri, result.pending, result.runs, result.error, folder),
            )
        return result

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


def _new_client(uri: str) -> Any:
    """A client, and what mlflow needs to know of its surroundings before its import."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # A user's active model would draw every metric to itself, and fail the batch where it does not exist.
    os.environ.pop("MLFLOW_ACTIVE_MODEL_ID", None)
    from mlflow.tracking import MlflowClient

    for name, level in _LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


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
