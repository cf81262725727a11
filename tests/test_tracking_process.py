"""A sweep's results reach MLflow through a process of their own, whatever happens to it or to the sweep."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from journals import Story
from mlflow_stores import Stored, new_store

from kdsearch import tracking_process
from kdsearch.journal import Journal
from kdsearch.records import Event
from kdsearch.tracking_process import TrackingProcess

pytestmark = pytest.mark.slow  # each test starts a process that imports mlflow


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    uri = new_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Journal]:
    folder = tmp_path / "sweep"
    folder.mkdir()
    with Journal(folder) as journal:
        write(journal, small_sweep()[:4])
        yield journal


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A server that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(60)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{listening.getsockname()[1]}")
        yield listening


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    return lambda: [record.getMessage() for record in caplog.records]


def small_sweep() -> list[Event]:
    story = Story().teacher(accuracy=0.8)
    story.trial(0, [0.3, 0.5])
    story.trial(1, [0.4, 0.6], params=10_000)
    story.ended()
    return [event for event in story.events if event["kind"] != "mlflow_run"]


def write(journal: Journal, events: list[Event]) -> None:
    for event in events:
        data = {name: value for name, value in event.items() if name not in ("v", "seq", "time")}
        journal.append(data.pop("kind"), data.pop("trial_id"), **data)


def process_of(tracker: TrackingProcess) -> subprocess.Popen[bytes]:
    assert tracker._process
    return tracker._process


def ids(journal: Journal) -> dict[str | None, str]:
    return {e["trial_id"]: e["run_id"] for e in journal.events if e["kind"] == "mlflow_run"}


def test_the_store_gets_the_sweep_and_the_journal_the_runs_ids(uri: str, sweep: Journal) -> None:
    tracker = TrackingProcess(sweep)
    write(sweep, small_sweep()[4:])
    tracker.catch_up()
    journalled = ids(sweep)
    tracker.finish()

    stored = Stored(uri)
    assert journalled == {
        None: stored.parent.info.run_id,
        **{trial_id: run.info.run_id for trial_id, run in stored.children.items()},
    }
    assert stored.statuses() == {"t0000": "FINISHED", "t0001": "FINISHED"}
    assert stored.history("t0001") == [(1, 0.4), (2, 0.6)]
    assert process_of(tracker).poll() is not None


def test_a_killed_process_is_replaced_at_the_end(uri: str, sweep: Journal) -> None:
    tracker = TrackingProcess(sweep)
    tracker.catch_up()
    process_of(tracker).kill()
    process_of(tracker).wait()
    write(sweep, small_sweep()[4:])
    tracker.finish()

    stored = Stored(uri)
    assert stored.num_runs == 3
    assert stored.statuses() == {"t0000": "FINISHED", "t0001": "FINISHED"}


def test_a_killed_process_is_replaced_while_the_sweep_goes_on(
    uri: str, sweep: Journal, warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking_process, "RESTART_S", 0.0)
    tracker = TrackingProcess(sweep)
    tracker.catch_up()
    killed = process_of(tracker)
    killed.kill()
    killed.wait()
    write(sweep, small_sweep()[4:])
    assert process_of(tracker).pid != killed.pid
    tracker.catch_up()
    assert Stored(uri).num_runs == 3
    tracker.finish()
    assert warnings() == ["the process that sends to MLflow ended (-9); another takes its place"]


def test_a_process_that_hears_nothing_delays_nothing(
    uri: str, sweep: Journal, warnings: Callable[[], list[str]]
) -> None:
    tracker = TrackingProcess(sweep)
    tracker.catch_up()
    write(sweep, small_sweep()[4:])
    process_of(tracker).send_signal(signal.SIGSTOP)
    telling = threading.Thread(target=lambda: [tracker._put(sweep.events[-1]) for _ in range(20_000)])
    telling.start()  # a pipe takes some 4,000 of these
    telling.join(timeout=60)
    was_held_up = telling.is_alive()
    process_of(tracker).send_signal(signal.SIGCONT)
    tracker.finish()

    assert not was_held_up
    assert Stored(uri).statuses() == {"t0000": "FINISHED", "t0001": "FINISHED"}
    assert warnings() == []


def test_a_process_that_answers_no_more_is_given_up_in_time(
    uri: str, sweep: Journal, warnings: Callable[[], list[str]]
) -> None:
    tracker = TrackingProcess(sweep)
    tracker.catch_up()
    process_of(tracker).send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    tracker.finish(deadline_s=1.0)

    assert time.monotonic() - begun < 10
    assert process_of(tracker).poll() == -signal.SIGKILL
    assert warnings() == [
        "MLflow may lack something, its process did not answer;"
        f" `kdsearch sync {sweep.path.parent}` completes it"
    ]


def test_a_server_that_hangs_does_not_keep_the_sweep(
    hanging: socket.socket, sweep: Journal, warnings: Callable[[], list[str]]
) -> None:
    tracker = TrackingProcess(sweep)
    with hanging.accept()[0]:  # now it waits for an answer
        begun = time.monotonic()
        write(sweep, small_sweep()[4:] * 20)
        tracker.finish(deadline_s=1.0)

    assert time.monotonic() - begun < 10  # it would have waited for 15 s
    assert process_of(tracker).poll() == -signal.SIGKILL
    assert "its process did not answer" in warnings()[-1]


def test_what_the_tracker_warns_of_is_in_the_sweeps_log(
    tmp_path: Path, sweep: Journal, monkeypatch: pytest.MonkeyPatch, warnings: Callable[[], list[str]]
) -> None:
    with socket.socket() as bound:  # not listening: connections are refused
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:s3cret@127.0.0.1:{bound.getsockname()[1]}")
        tracker = TrackingProcess(sweep)
        tracker.finish()

    assert any("Connection refused" in text and "kdsearch sync" in text for text in warnings())
    assert "http://***@127.0.0.1" in " ".join(warnings())
    assert "s3cret" not in " ".join(warnings())


def test_a_journal_that_takes_no_ids_does_not_end_it(
    uri: str, sweep: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, refused = sweep.append, threading.Event()

    def on_a_full_disk(kind: str, trial_id: str | None = None, **data: object) -> Event:
        if kind == "mlflow_run":
            refused.set()
            raise OSError(28, "No space left on device")
        return append(kind, trial_id, **data)

    monkeypatch.setattr(sweep, "append", on_a_full_disk)
    tracker = TrackingProcess(sweep)
    write(sweep, small_sweep()[4:])
    tracker.finish()

    assert refused.is_set()
    assert Stored(uri).statuses() == {"t0000": "FINISHED", "t0001": "FINISHED"}


def test_where_no_process_starts_the_sweep_goes_on(
    sweep: Journal, monkeypatch: pytest.MonkeyPatch, warnings: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    tracker = TrackingProcess(sweep)
    write(sweep, small_sweep()[4:])
    tracker.catch_up()
    tracker.finish()

    assert "No such file" in warnings()[0]
    assert "kdsearch sync" in warnings()[-1]


SWEEP = """
import sys, time
from pathlib import Path
from kdsearch.journal import Journal
from kdsearch.tracking_process import TrackingProcess

tracker = TrackingProcess(Journal(Path(sys.argv[1])))
if sys.argv[2] == "later":
    tracker.catch_up()
print(tracker._process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("when", ["at once", "later"])
def test_it_ends_with_a_sweep_that_is_killed(uri: str, sweep: Journal, when: str) -> None:
    killed, process = sweep_with_process(sweep, when)
    assert_both_end(killed, process)


def test_it_ends_with_a_sweep_that_is_killed_while_a_server_hangs(
    hanging: socket.socket, sweep: Journal
) -> None:
    killed, process = sweep_with_process(sweep, "at once")
    with hanging.accept()[0]:
        assert_both_end(killed, process)


def sweep_with_process(sweep: Journal, when: str) -> tuple[subprocess.Popen[bytes], psutil.Process]:
    folder = sweep.path.parent
    sweep.close()  # its lock
    running = subprocess.Popen([sys.executable, "-c", SWEEP, folder, when], stdout=subprocess.PIPE)
    assert running.stdout
    return running, psutil.Process(int(running.stdout.readline()))


def assert_both_end(killed: subprocess.Popen[bytes], process: psutil.Process) -> None:
    killed.kill()
    killed.wait()
    psutil.wait_procs([process], timeout=10)
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_module_that_lies_in_the_working_directory_is_not_its_own(
    uri: str, sweep: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlflow.py").write_text("raise RuntimeError('of the working directory')")
    monkeypatch.chdir(tmp_path)
    TrackingProcess(sweep).finish()
    assert Stored(uri).num_runs == 2


def test_ctrl_c_is_for_the_sweep_alone(uri: str, sweep: Journal) -> None:
    tracker = TrackingProcess(sweep)
    assert os.getpgid(process_of(tracker).pid) != os.getpgid(0)
    tracker.finish()


def test_a_damaged_journal_is_said_in_words(
    uri: str, sweep: Journal, warnings: Callable[[], list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    tracker = TrackingProcess(sweep)
    tracker.catch_up()
    process_of(tracker).send_signal(signal.SIGSTOP)  # or it has read them before they are damaged
    size = sweep.path.stat().st_size
    write(sweep, small_sweep()[4:])
    content = sweep.path.read_bytes()
    sweep.path.write_bytes(content[:size] + b"#" + content[size + 1 :])
    process_of(tracker).send_signal(signal.SIGCONT)
    tracker.finish()

    number = len(sweep.path.read_bytes()[:size].splitlines()) + 1
    assert f"{sweep.path}:{number}: not a journal line" in warnings()[0]
    assert "MLflow gets no report" in warnings()[1]
    assert "Traceback" not in capfd.readouterr().err
