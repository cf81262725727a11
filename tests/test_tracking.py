"""MLflow gets what the journal says, whatever happens to the store, the server or the sweep meanwhile."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journals import Story, config
from mlflow_stores import Stored, new_store

import kdsearch.sync
from kdsearch import cli
from kdsearch.mlflow_mirror import Mirror, StoredRun
from kdsearch.mlflow_runs import legal_name
from kdsearch.records import Event
from kdsearch.tracking import FLUSH_S, MlflowStore, SyncResult, Tracker, sync
from kdsearch.tracking_uri import redact, resolve_uri, ui_command

RETRY_S = 0.02  # seconds in a sweep


class Ids(list[tuple[str | None, str]]):
    """What the tracker asks to be journalled."""

    def append_run(self, trial_id: str | None, *, run_id: str, experiment_id: str) -> None:
        self.append((trial_id, run_id))


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store in the working directory, as by default."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return new_store(tmp_path)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, logger="kdsearch.tracking")
    return lambda: [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


class Tale(Story):
    """A story that makes up no MLflow runs: the tracker makes real ones."""

    def add(self, kind: str, *args: Any, **data: Any) -> Story:
        return self if kind == "mlflow_run" else super().add(kind, *args, **data)


def small_sweep() -> Story:
    """Four trials, one of each end; t0001 dominates t0000."""
    story = Tale().teacher(accuracy=0.8)
    story.trial(0, [0.3, 0.5], params=30_000)
    story.trial(1, [0.4, 0.6], params=20_000)
    story.trial(2, [0.1], status="stopped", reason="below the top 1/3 of rung 1", rule="asha rung 1")
    story.trial(3, [], status="failed", error="the loss is not finite: epoch 1, batch 3")
    return story.ended()


def track(events: Sequence[Event], uri: str | None, folder: Path, ids: Ids | None = None) -> SyncResult:
    """A whole sweep, from its first event to its end; the second half live."""
    half = len(events) // 2
    tracker = Tracker((ids if ids is not None else Ids()).append_run, uri, retry_s=RETRY_S)
    tracker.put(events[:half])
    tracker.flush()
    tracker.put(events[half:])
    return tracker.finish(folder)


def wait_for(is_true: Callable[[], object], deadline_s: float = 30.0) -> None:
    until = time.monotonic() + deadline_s
    while not is_true():
        assert time.monotonic() < until, "nothing happened in time"
        time.sleep(0.01)


def test_a_sweep_is_a_parent_with_a_child_for_each_trial(uri: str, tmp_path: Path) -> None:
    story = small_sweep()
    ids = Ids()
    result = track(story.events, uri, story.write(tmp_path / "sweep"), ids)
    assert result.is_complete
    assert (result.runs, result.created, result.pending) == (5, 5, 0)
    stored = Stored(uri)
    assert stored.statuses() == {
        "t0000": "FINISHED",
        "t0001": "FINISHED",
        "t0002": "FINISHED",
        "t0003": "FAILED",
    }
    assert stored.parent.info.status == "FINISHED"
    assert {run.data.tags["mlflow.parentRunId"] for run in stored.children.values()} == {
        stored.parent.info.run_id
    }
    assert stored.history("t0000") == [(1, 0.3), (2, 0.5)]
    assert dict(ids) == {None: stored.parent.info.run_id} | {
        t: r.info.run_id for t, r in stored.children.items()
    }


def test_a_child_carries_what_users_sort_and_filter_by(uri: str, tmp_path: Path) -> None:
    story = small_sweep()
    track(story.events, uri, story.write(tmp_path / "sweep"))
    child = Stored(uri).children["t0001"]
    assert child.info.run_name == "t0001 resnet d20 w0.5 kd"
    assert child.data.params["distill.alpha"] == "0.9"
    assert child.data.metrics["params"] == 20_000
    assert child.data.metrics["val_accuracy"] == 0.6
    assert child.data.metrics["retention"] == pytest.approx(0.75)
    tags = {k.removeprefix("kdsearch."): v for k, v in child.data.tags.items() if k.startswith("kdsearch.")}
    expected = {
        "sweep_id": "5f3a9c1e",
        "trial_id": "t0001",
        "role": "search",
        "status": "completed",
        "on_front": "true",
    }
    assert tags.items() >= expected.items()


def test_times_are_the_journals(uri: str, tmp_path: Path) -> None:
    story = small_sweep()
    track(story.events, uri, story.write(tmp_path / "sweep"))
    stored = Stored(uri)
    started, *epochs, ended = (round(e["time"] * 1000) for e in story.events if e["trial_id"] == "t0000")
    run = stored.children["t0000"]
    assert (run.info.start_time, run.info.end_time) == (started, ended)
    points = stored.client.get_metric_history(run.info.run_id, "val_accuracy")
    assert [point.timestamp for point in points] == epochs


def test_the_ends_of_trials_are_tags(uri: str, tmp_path: Path) -> None:
    story = small_sweep()
    track(story.events, uri, story.write(tmp_path / "sweep"))
    children = Stored(uri).children
    assert children["t0002"].data.tags["kdsearch.status"] == "stopped"
    assert children["t0002"].data.tags["kdsearch.rule"] == "asha rung 1"
    assert children["t0003"].data.tags["kdsearch.error"] == "the loss is not finite: epoch 1, batch 3"
    assert {t: run.data.tags["kdsearch.on_front"] for t, run in children.items()} == {
        "t0000": "false",
        "t0001": "true",
        "t0002": "false",
        "t0003": "false",
    }


def test_the_report_is_an_artifact_of_the_parent(uri: str, tmp_path: Path) -> None:
    story = small_sweep()
    folder = story.write(tmp_path / "sweep")
    (folder / "figures").mkdir()
    (folder / "figures" / "front.png").write_bytes(b"png")
    (folder / "report.md").write_text("# report")
    (folder / "pareto.csv").write_text("trial_id\n")
    track(story.events, uri, folder)
    stored = Stored(uri)
    assert stored.artifacts() == ["figures", "pareto.csv", "report.md"]
    assert stored.artifacts("figures") == ["figures/front.png"]
    assert (tmp_path / "mlruns").is_dir()


def test_more_epochs_than_one_call_takes(uri: str, tmp_path: Path) -> None:
    story = Tale().teacher()
    story.trial(0, [epoch / 1000 for epoch in range(300)], max_epochs=300)  # 2,400 metrics
    assert track(story.ended().events, uri, story.write(tmp_path / "sweep")).is_complete
    stored = Stored(uri)
    assert [step for step, _ in stored.history("t0000")] == list(range(1, 301))
    assert len(stored.history("t0000", "term/kd")) == 300


def test_more_params_than_one_call_takes(uri: str, tmp_path: Path) -> None:
    story = Tale(spec={f"a{number}": number for number in range(250)}).ended()
    assert track(story.events, uri, story.write(tmp_path / "sweep")).is_complete
    assert len(Stored(uri).parent.data.params) == 250


def test_illegal_names_and_values_lose_nothing(uri: str, tmp_path: Path) -> None:
    story = Tale(spec={"a:b?": "c", "long": "x" * 9000}).teacher()
    story.trial(0, [0.5], status="failed", error="e" * 9000)
    for event in story.events:
        event.get("terms", {}).update({"ü//é": 1.0, "inf": math.inf})
    assert track(story.ended().events, uri, story.write(tmp_path / "sweep")).is_complete
    stored = Stored(uri)
    assert stored.history("t0000", legal_name("term/ü//é")) == [(1, 1.0)]
    assert math.isnan(stored.history("t0000", "term/inf")[0][1])
    assert len(stored.children["t0000"].data.tags["kdsearch.error"]) == 8000


@given(st.text(max_size=300))
def test_mlflow_takes_every_legal_name(name: str) -> None:
    from mlflow.utils.validation import path_not_unique, validate_param_and_metric_name

    assert validate_param_and_metric_name(legal_name(name))
    assert not path_not_unique(legal_name(name))


def test_the_users_environment_does_not_disturb(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    monkeypatch.setenv("MLFLOW_ACTIVE_MODEL_ID", "m-none")
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    story = small_sweep()
    assert track(story.events, None, story.write(tmp_path / "sweep")).is_complete
    assert Stored(uri).num_runs == 5


def test_what_was_never_put_is_found_in_the_journal_at_the_end(uri: str, tmp_path: Path) -> None:
    story = small_sweep()
    tracker = Tracker(Ids().append_run, uri, retry_s=RETRY_S)
    tracker.put(story.events[:1])
    assert tracker.finish(story.write(tmp_path / "sweep")).is_complete
    assert Stored(uri).num_runs == 5


def test_a_live_sweep_is_seen_before_its_end(uri: str, tmp_path: Path) -> None:
    story = Tale().teacher()
    story.trial(0, [0.5], status="running")
    ids = Ids()
    tracker = Tracker(ids.append_run, uri, retry_s=RETRY_S)
    tracker.put(story.events)
    tracker.flush()
    assert Stored(uri).history("t0000")
    assert Stored(uri).statuses() == {"t0000": "RUNNING"}
    assert Stored(uri).children["t0000"].data.tags["kdsearch.on_front"] == "false"
    tracker.finish(story.ended().write(tmp_path / "sweep"))


# --- a sweep that was cut off ------------------------------------------------------------------------


def cut_off(uri: str, tmp_path: Path) -> tuple[Story, Ids]:
    """A sweep that was killed with t0000 done and t0001 in its second epoch; MLflow had everything."""
    story = Tale().teacher()
    story.trial(0, [0.3, 0.5])
    story.trial(1, [0.4], status="running")
    ids = Ids()
    mirror = Mirror(MlflowStore(uri), ids.append_run)
    mirror.load(story.events)
    mirror.flush()
    return story, ids


def resumed(story: Story, search: Mapping[str, Any] | None = None) -> Story:
    """The same sweep taken up again: t0001 goes on from its first epoch."""
    spec = story.header["spec"] | ({"search": search} if search else {})
    story.add("sweep_started", **(story.header | {"resumed": True, "spec": spec})).teacher()
    started = next(e for e in story.events if e["kind"] == "trial_started" and e["trial_id"] == "t0001")
    again = {k: v for k, v in started.items() if k not in ("v", "seq", "time", "kind", "trial_id")}
    story.add("trial_started", "t0001", **(again | {"attempt": 2, "from_epoch": 1}))
    story.epoch("t0001", 2, 0.6, config(), attempt=2)
    story.add("trial_ended", "t0001", status="completed", reason="", rule="", error="", student="")
    return story.ended()


def journalled_into(story: Story, ids: Ids) -> list[Event]:
    """The resumed sweep's events, with the ids journalled before it was cut off."""
    at = {"v": 1, "seq": 0, "time": story.now, "kind": "mlflow_run", "experiment_id": "1"}
    first = next(i for i, event in enumerate(story.events) if event.get("resumed"))
    story.events[first:first] = [{**at, "trial_id": trial_id, "run_id": run_id} for trial_id, run_id in ids]
    return story.events


def assert_whole(uri: str) -> None:
    """Nothing twice, nothing open, nothing missing."""
    stored = Stored(uri)
    assert stored.num_runs == 3
    assert stored.parent.info.status == "FINISHED"
    assert stored.statuses() == {"t0000": "FINISHED", "t0001": "FINISHED"}
    assert stored.history("t0000") == [(1, 0.3), (2, 0.5)]
    assert stored.history("t0001") == [(1, 0.4), (2, 0.6)]
    assert len(stored.client.get_metric_history(stored.parent.info.run_id, "teacher/accuracy")) == 1


def test_a_resume_goes_on_in_the_journalled_runs(uri: str, tmp_path: Path) -> None:
    story, ids = cut_off(uri, tmp_path)
    again = Ids()
    tracker = Tracker(again.append_run, uri, retry_s=RETRY_S)
    tracker.put(journalled_into(resumed(story), ids))
    tracker.finish(story.write(tmp_path / "sweep"))
    assert_whole(uri)
    assert again == []


def test_a_resume_adopts_runs_that_were_never_journalled(uri: str, tmp_path: Path) -> None:
    story, ids = cut_off(uri, tmp_path)
    again = Ids()
    track(resumed(story).events, uri, story.write(tmp_path / "sweep"), again)
    assert_whole(uri)
    assert sorted(again, key=str) == sorted(ids, key=str)


def test_runs_deleted_before_a_resume_are_made_again(uri: str, tmp_path: Path) -> None:
    story, ids = cut_off(uri, tmp_path)
    for _, run_id in ids:
        Stored(uri).client.delete_run(run_id)
    journalled_into(resumed(story), ids)
    sync(story.write(tmp_path / "sweep"), uri)
    assert_whole(uri)


def test_a_run_deleted_while_the_sweep_goes_on_is_made_again(uri: str, tmp_path: Path) -> None:
    story = Tale().teacher()
    story.trial(0, [0.3, 0.5])
    story.trial(1, [0.4], status="running")
    ids = Ids()
    tracker = Tracker(ids.append_run, uri, retry_s=RETRY_S)
    tracker.put(story.events)
    tracker.flush()
    Stored(uri).client.delete_run(dict(ids)["t0001"])
    tracker.finish(resumed(story).write(tmp_path / "sweep"))
    assert_whole(uri)


def test_of_two_runs_of_one_trial_one_stays(uri: str, tmp_path: Path) -> None:
    story, ids = cut_off(uri, tmp_path)
    stored = Stored(uri)
    twin = stored.children["t0001"]
    stored.client.create_run(stored.experiment.experiment_id, tags=twin.data.tags)
    journalled_into(resumed(story), ids)
    sync(story.write(tmp_path / "sweep"), uri)
    assert_whole(uri)
    assert Stored(uri).children["t0001"].info.run_id == dict(ids)["t0001"]


def test_a_larger_budget_is_a_tag_as_params_are_written_once(uri: str, tmp_path: Path) -> None:
    story, _ = cut_off(uri, tmp_path)
    story = resumed(story, {"trials": 80, "seed": 0})
    track(story.events, uri, story.write(tmp_path / "sweep"))
    assert_whole(uri)
    data = Stored(uri).parent.data
    assert data.params["search.trials"] == "60"
    assert data.tags["kdsearch.changed.search.trials"] == "80"


def test_an_interrupted_sweep_leaves_nothing_running_and_is_taken_up_again(uri: str, tmp_path: Path) -> None:
    story, _ = cut_off(uri, tmp_path)
    story.ended("interrupted")
    sync(story.write(tmp_path / "sweep"), uri)
    assert Stored(uri).statuses() == {"t0000": "FINISHED", "t0001": "KILLED"}
    assert Stored(uri).parent.info.status == "KILLED"
    sync(resumed(story).write(tmp_path / "sweep"), uri)
    assert_whole(uri)


def test_a_renamed_experiment_is_followed(uri: str, tmp_path: Path) -> None:
    story, ids = cut_off(uri, tmp_path)
    stored = Stored(uri)
    stored.client.rename_experiment(stored.experiment.experiment_id, "better")
    journalled_into(resumed(story), ids)
    sync(story.write(tmp_path / "sweep"), uri)
    assert Stored(uri, "better").statuses() == {"t0000": "FINISHED", "t0001": "FINISHED"}


class LossyStore(MlflowStore):
    """Makes its first runs, and loses the answer."""

    num_lost = 0

    def create_run(
        self, experiment_id: str, name: str, started_ms: int, tags: Mapping[str, str]
    ) -> StoredRun:
        stored = super().create_run(experiment_id, name, started_ms, tags)
        self.num_lost += 1
        if self.num_lost <= 2:
            raise TimeoutError("timed out")
        return stored


def test_a_lost_answer_makes_no_second_run(uri: str) -> None:
    story = small_sweep()
    mirror = Mirror(LossyStore(uri), Ids().append_run)
    mirror.load(story.events)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            mirror.flush()
    mirror.flush()
    assert mirror.num_pending == 0
    assert Stored(uri).num_runs == 5


KILLED_BEFORE_JOURNALLING = """
import json, os, signal, sys
from kdsearch.mlflow_mirror import Mirror
from kdsearch.tracking import MlflowStore

def append(trial_id, *, run_id, experiment_id):
    if trial_id == "t0001":
        os.kill(os.getpid(), signal.SIGKILL)

mirror = Mirror(MlflowStore(sys.argv[1]), append)
mirror.load(json.loads(line) for line in open(sys.argv[2]))
mirror.flush()
"""


@pytest.mark.slow
def test_a_kill_between_making_a_run_and_journalling_it(uri: str, tmp_path: Path) -> None:
    story = Tale().teacher()
    story.trial(0, [0.3, 0.5])
    story.trial(1, [0.4], status="running")
    events = story.write(tmp_path / "sweep") / "events.jsonl"
    killed = subprocess.run([sys.executable, "-c", KILLED_BEFORE_JOURNALLING, uri, events], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert Stored(uri).statuses() == {"t0000": "FINISHED", "t0001": "RUNNING"}
    track(resumed(story).events, uri, story.write(tmp_path / "sweep"))
    assert_whole(uri)


# --- a store that fails ------------------------------------------------------------------------------


def test_a_store_that_cannot_be_opened_gets_everything_once_it_can(
    uri: str, tmp_path: Path, warnings: Callable[[], list[str]]
) -> None:
    (tmp_path / "mlflow.db").unlink()
    (tmp_path / "mlflow.db").mkdir()
    story = small_sweep()
    tracker = Tracker(Ids().append_run, uri, retry_s=RETRY_S)
    tracker.put(story.events[:5])
    for _ in range(3):
        tracker.flush()
    assert len(warnings()) == 1
    assert "unable to open database file" in warnings()[0]
    (tmp_path / "mlflow.db").rmdir()
    new_store(tmp_path)
    assert tracker.finish(story.write(tmp_path / "sweep")).is_complete
    assert Stored(uri).num_runs == 5


def test_after_a_failure_it_comes_again_ever_later(uri: str, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").unlink()
    (tmp_path / "mlflow.db").mkdir()
    tracker = Tracker(Ids().append_run, uri, retry_s=5.0)
    tracker.put(small_sweep().events)
    assert [tracker.flush() for _ in range(6)] == [5, 10, 20, 40, 60, 60]
    (tmp_path / "mlflow.db").rmdir()
    new_store(tmp_path)
    assert tracker.flush() == FLUSH_S


def test_a_store_that_fails_at_the_end_is_asked_again(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story, create, failures = small_sweep(), MlflowStore.create_run, [OSError("once"), OSError("twice")]

    def fails_twice(*args: Any) -> StoredRun:
        if failures:
            raise failures.pop()
        return create(*args)

    monkeypatch.setattr(MlflowStore, "create_run", fails_twice)
    tracker = Tracker(Ids().append_run, uri, retry_s=RETRY_S)
    assert tracker.finish(story.write(tmp_path / "sweep")).is_complete
    assert Stored(uri).num_runs == 5


def test_what_is_not_sent_by_the_deadline_is_said(
    uri: str, tmp_path: Path, warnings: Callable[[], list[str]]
) -> None:
    folder = small_sweep().write(tmp_path / "sweep")
    result = Tracker(Ids().append_run, uri).finish(folder, deadline_s=0.0)
    assert (result.runs, result.pending, result.error) == (5, 5, "no answer in time")
    assert f"5 of 5 runs: no answer in time; `kdsearch sync {folder}`" in warnings()[0]


def test_a_locked_store_is_reported_and_synced_later(
    uri: str, tmp_path: Path, warnings: Callable[[], list[str]]
) -> None:
    story = small_sweep()
    folder = story.write(tmp_path / "sweep")
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("BEGIN EXCLUSIVE")
        result = track(story.events, uri, folder)
    assert (result.pending, result.error) == (5, "database is locked")
    assert "`kdsearch sync" in warnings()[-1]
    assert sync(folder, uri).is_complete
    assert Stored(uri).num_runs == 5


def test_a_store_replaced_during_the_sweep_is_filled_in_full(uri: str, tmp_path: Path) -> None:
    story = small_sweep()
    ids = Ids()
    tracker = Tracker(ids.append_run, uri, retry_s=RETRY_S)
    tracker.put(story.events[:-1])
    tracker.flush()
    new_store(tmp_path)
    tracker.put(story.events[-1:])
    assert tracker.finish(story.write(tmp_path / "sweep")).is_complete
    stored = Stored(f"sqlite:///{tmp_path}//mlflow.db")
    assert stored.num_runs == 5
    assert stored.history("t0000") == [(1, 0.3), (2, 0.5)]


@pytest.mark.slow
def test_a_store_deleted_during_the_sweep_is_made_again_and_filled(uri: str, tmp_path: Path) -> None:
    story = small_sweep()
    ids = Ids()
    tracker = Tracker(ids.append_run, uri, retry_s=RETRY_S)
    tracker.put(story.events[:-1])
    tracker.flush()
    (tmp_path / "mlflow.db").unlink()
    assert tracker.finish(story.write(tmp_path / "sweep")).is_complete
    assert Stored(f"sqlite:///{tmp_path}//mlflow.db").num_runs == 5


def test_a_broken_store_costs_nothing_but_a_warning(
    uri: str, tmp_path: Path, warnings: Callable[[], list[str]]
) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("DROP TABLE runs")
        database.execute("UPDATE alembic_version SET version_num = 'unknown'")
        database.commit()
    story = small_sweep()
    result = track(story.events, uri, story.write(tmp_path / "sweep"))
    assert result.pending == 5
    assert result.error
    assert len(warnings()) == 2  # when it began, and what is missing at the end


def test_a_deleted_experiment_is_explained(uri: str, tmp_path: Path) -> None:
    story, _ = cut_off(uri, tmp_path)
    stored = Stored(uri)
    stored.client.delete_experiment(stored.experiment.experiment_id)
    result = sync(resumed(story).write(tmp_path / "sweep"), uri)
    assert "mlflow experiments restore --experiment-id 1" in result.error
    stored.client.restore_experiment(stored.experiment.experiment_id)
    assert sync(tmp_path / "sweep", uri).is_complete
    assert_whole(uri)


def test_a_journal_that_fails_does_not_stop_tracking(uri: str, tmp_path: Path) -> None:
    def append(trial_id: str | None, *, run_id: str, experiment_id: str) -> None:
        raise OSError("No space left on device")

    story = small_sweep()
    tracker = Tracker(append, uri, retry_s=RETRY_S)
    tracker.put(story.events)
    for _ in range(5):
        tracker.flush()
    assert tracker.finish(story.write(tmp_path / "sweep")).is_complete
    assert Stored(uri).num_runs == 5


def test_one_broken_trial_does_not_hold_up_the_others(uri: str, tmp_path: Path) -> None:
    story = small_sweep()
    started = next(event for event in story.events if event["trial_id"] == "t0001")
    del started["config"]
    mirror = Mirror(MlflowStore(uri), Ids().append_run)
    mirror.load(story.events)
    with pytest.raises(KeyError):
        mirror.flush()
    assert sorted(Stored(uri).children) == ["t0000", "t0002", "t0003"]
    assert mirror.num_pending == 1


def test_a_dead_server_is_given_up_soon_and_its_password_never_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="kdsearch")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        uri = f"http://me:s3cret@127.0.0.1:{taken.getsockname()[1]}"
        story = small_sweep()
        result = track(story.events, uri, story.write(tmp_path / "sweep"))
    assert "Connection refused" in result.error
    assert result.pending == 5
    assert "s3cret" not in caplog.text + repr(result)
    assert "http://***@127.0.0.1" in caplog.text


# --- sync --------------------------------------------------------------------------------------------


def test_syncing_twice_changes_nothing_the_second_time(uri: str, tmp_path: Path) -> None:
    folder = small_sweep().write(tmp_path / "sweep")
    (folder / "report.md").write_text("# report")
    first, second = sync(folder, uri), sync(folder, uri)
    assert (first.created, first.changed, first.is_complete) == (5, 5, True)
    assert (second.created, second.changed, second.is_complete) == (0, 0, True)
    assert Stored(uri).history("t0000") == [(1, 0.3), (2, 0.5)]


def test_syncing_after_tracking_changes_nothing(uri: str, tmp_path: Path) -> None:
    story = small_sweep()
    folder = story.write(tmp_path / "sweep")
    track(story.events, uri, folder)
    assert sync(folder, uri).changed == 0


def test_syncing_into_another_store_copies_the_sweep(uri: str, tmp_path: Path) -> None:
    story, ids = cut_off(uri, tmp_path)
    journalled_into(resumed(story), ids)
    (tmp_path / "elsewhere").mkdir()
    other = new_store(tmp_path / "elsewhere")
    assert sync(story.write(tmp_path / "sweep"), other).created == 3
    assert_whole(other)


def test_a_newer_front_replaces_the_old_one(uri: str, tmp_path: Path) -> None:
    story = small_sweep()
    sync(story.write(tmp_path / "sweep"), uri)
    story.add("sweep_started", **(story.header | {"resumed": True}))
    story.trial(4, [0.9], params=10_000)
    result = sync(story.ended().write(tmp_path / "sweep"), uri)
    assert (result.created, result.changed) == (1, 3)  # the new trial, the old front, the parent
    assert Stored(uri).children["t0001"].data.tags["kdsearch.on_front"] == "false"
    assert Stored(uri).children["t0004"].data.tags["kdsearch.on_front"] == "true"


# --- addresses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:s3cret@host:5000/x", "http://***@host:5000/x"),
        ("postgresql+psycopg2://me:p@ss@db/mlflow", "postgresql+psycopg2://***@db/mlflow"),
        ("API request to https://token@host/api failed", "API request to https://***@host/api failed"),
        ("mssql://db/x?password=s3cret&driver=y", "mssql://db/x?password=***&driver=y"),
        ("sqlite:////home/me/mlflow.db", "sqlite:////home/me/mlflow.db"),
    ],
)
def test_credentials_are_not_shown(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_the_default_store_is_in_the_working_directory(uri: str, tmp_path: Path) -> None:
    assert resolve_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert ui_command() == "mlflow ui --host 127.0.0.1"


def test_an_old_file_store_does_not_hide_the_sweep(uri: str, tmp_path: Path) -> None:
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").touch()
    assert ui_command() == f"mlflow ui --host 127.0.0.1 --backend-store-uri sqlite:///{tmp_path}/mlflow.db"


def test_the_environment_names_the_store(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert resolve_uri() == f"sqlite:///{tmp_path}/other.db"
    assert resolve_uri("sqlite:///given.db") == f"sqlite:///{tmp_path}/given.db"


@pytest.mark.parametrize(
    ("uri", "command"),
    [
        ("sqlite:////a b/x.db", "mlflow ui --host 127.0.0.1 --backend-store-uri 'sqlite:////a b/x.db'"),
        ("http://me:pw@host:5000", "http://***@host:5000"),
        ("mysql://me:pw@db/x", 'mlflow ui --host 127.0.0.1 --backend-store-uri "$MLFLOW_TRACKING_URI"'),
    ],
)
def test_how_to_look_at_another_store(uri: str, command: str) -> None:
    assert ui_command(uri) == command


# --- several processes, and a real server ------------------------------------------------------------

SYNC = """
import pathlib, sys
from kdsearch.tracking import sync

sys.exit(0 if sync(pathlib.Path(sys.argv[1])).is_complete else sync(pathlib.Path(sys.argv[1])).error)
"""


@pytest.mark.slow
def test_two_sweeps_may_begin_in_a_directory_without_a_store(tmp_path: Path) -> None:
    folders = [Tale(sweep_id=name).ended().write(tmp_path / "sweeps" / name) for name in ("one", "two")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    running = [
        subprocess.Popen([sys.executable, "-c", SYNC, folder], cwd=tmp_path, env=environment)
        for folder in folders
    ]
    assert [process.wait(timeout=300) for process in running] == [0, 0]
    assert len(Stored(f"sqlite:///{tmp_path}/mlflow.db").parents) == 2
    assert not (tmp_path / "mlflow.db.lock").exists()


@contextlib.contextmanager
def server(folder: Path, port: int) -> Iterator[None]:
    """A real tracking server, killed at the end."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(lambda: is_listening(port), deadline_s=120)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_a_server_killed_in_the_middle_has_everything_in_the_end(uri: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    story = small_sweep()
    folder = story.write(tmp_path / "sweep")
    (folder / "report.md").write_text("# report")
    with server(tmp_path, port):
        tracker = Tracker(Ids().append_run, f"http://me:s3cret@127.0.0.1:{port}", retry_s=RETRY_S)
        tracker.put(story.events[:5])
        tracker.flush()
    tracker.put(story.events[5:])
    for _ in range(2):
        tracker.flush()
    with server(tmp_path, port):
        assert tracker.finish(folder).is_complete
    stored = Stored(uri)
    assert stored.num_runs == 5
    assert stored.history("t0000") == [(1, 0.3), (2, 0.5)]
    assert (tmp_path / "mlartifacts").is_dir()


def test_a_folder_that_is_no_sweeps_is_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(cli.UsageError, match=r"no events\.jsonl in it; give the folder of a sweep"):
        kdsearch.sync.command([str(tmp_path)])
    assert list(tmp_path.iterdir()) == []
