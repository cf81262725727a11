"""MLflow's tracker in a process of its own: a sweep's driver neither imports MLflow nor computes for it.

Goes in: the folder of a running sweep, and how many of its journal's events are on disk. Comes out: the ids
of new runs, for the journal, and what the log should say. Both ways it is one JSON object a line, over pipes.
The process, `python -m kdsearch.tracking_process DIR FD`, ends with the one that started it, however that
ends; what it has not sent by then, a resume or `kdsearch sync` makes good.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from kdsearch import journal
from kdsearch.journal import Journal, JournalError
from kdsearch.records import Event
from kdsearch.tracking import Tracker

logger = logging.getLogger("kdsearch.tracking_process")  # in the process itself, too, which is __main__

Message = dict[str, Any]
Messages = queue.SimpleQueue[Message]
ENDED: Message = {"done": "ended"}
ANSWER_S = 2.0  # for an answer to arrive, beyond the time that the process itself may take
RESTART_S = 60.0  # from one start to the next, of a process that ended by itself


class TrackingProcess:
    """Sends a running sweep's journal to MLflow: a `Tracker` elsewhere. Nothing here ever raises."""

    def __init__(self, sweep: Journal) -> None:
        self._journal = sweep
        self._process: subprocess.Popen[bytes] | None = None
        self._is_over = False
        self._said = ""
        self._starting = threading.Lock()
        self._start()
        sweep.listeners.append(self._put)

    def catch_up(self, deadline_s: float = 20.0) -> None:
        """Wait until the store has what is in the journal, or refused it: then that has every run's id."""
        self._ask("catch_up", deadline_s)

    def finish(self, deadline_s: float = 60.0) -> None:
        """`Tracker.finish`, and the end of the process."""
        self._is_over = True
        if not self._ask("finish", deadline_s):
            logger.warning(
                "MLflow may lack something, its process did not answer; `kdsearch sync %s` completes it",
                self._journal.path.parent,
            )
        if self._process:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(ANSWER_S)

    def _start(self) -> None:
        """In place of a process that has ended, if there was one."""
        with self._starting:
            if self._is_alive():
                return
            self._answers: Messages = queue.SimpleQueue()
            self._process, self._pipe, self._started = None, -1, time.monotonic()
            try:
                self._process, answers = _spawned(self._journal.path.parent)
            except OSError as error:
                self._say(f"MLflow gets nothing for now, as no process starts for it: {error}")
                return
            assert self._process.stdin
            self._pipe = self._process.stdin.fileno()
            os.set_blocking(self._pipe, False)
            about = [self._process, answers, self._answers]
            threading.Thread(target=self._listen, args=about, name="mlflow", daemon=True).start()
            self._tell({})

    def _put(self, event: Event) -> None:
        """Of the event, as of all before it, the number is enough."""
        if not self._tell({}) and not self._is_over and time.monotonic() - self._started > RESTART_S:
            self._start()

    def _tell(self, message: Message) -> bool:
        """Whether it was taken. A full pipe takes nothing: the next message has the journal's length, too."""
        line = json.dumps({"events": len(self._journal.events), **message}) + "\n"
        try:
            return os.write(self._pipe, line.encode()) > 0  # so short a line is written whole, or not at all
        except OSError:
            return False

    def _ask(self, what: str, deadline_s: float) -> bool:
        """Whether it was done in time. A process that ended is started once more for it."""
        until = time.monotonic() + deadline_s
        self._start()
        while not self._tell({"ask": what, "deadline_s": until - time.monotonic()}):
            if not self._is_alive() or time.monotonic() > until:
                return False
            time.sleep(0.01)
        answer: Message = {}
        try:
            while answer not in ({"done": what}, ENDED):
                answer = self._answers.get(timeout=max(0.0, until + ANSWER_S - time.monotonic()))
        except queue.Empty:
            return False
        return answer != ENDED

    def _is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _listen(self, process: subprocess.Popen[bytes], lines: BinaryIO, answers: Messages) -> None:
        try:
            with lines:
                for line in lines:
                    self._hear(json.loads(line) if line.endswith(b"\n") else {}, answers)  # {}: cut by a kill
        finally:
            answers.put(ENDED)
        if not self._is_over:
            self._say(f"the process that sends to MLflow ended ({process.wait()}); another takes its place")

    def _hear(self, message: Message, answers: Messages) -> None:
        if "run_id" in message:
            with contextlib.suppress(OSError, ValueError):  # a full disk: runs are found by their tags, too
                self._journal.append("mlflow_run", **message)
        elif "text" in message:
            logger.log(message["level"], message["text"])
        elif message:
            answers.put(message)

    def _say(self, text: str) -> None:
        """Each warning once, not once a minute."""
        if text != self._said:
            logger.warning("%s", text)
        self._said = text


def _spawned(folder: Path) -> tuple[subprocess.Popen[bytes], BinaryIO]:
    """The process, and the pipe of its answers: what libraries print does not get into that."""
    # Without the working directory's modules where this process has none of them either.
    options = [] if {"", os.getcwd()} & set(sys.path) else ["-P"]
    answers, end = os.pipe()
    try:  # in a group of its own: Ctrl-C is for the sweep, which then asks this process to finish
        process = subprocess.Popen(
            [sys.executable, *options, "-m", "kdsearch.tracking_process", str(folder), str(end)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[end],
            process_group=0,
        )
    except OSError:
        os.close(answers)
        raise
    finally:
        os.close(end)
    return process, open(answers, "rb")


def serve(folder: Path, heard: Messages, say: Callable[[Message], None]) -> None:
    """Track the sweep in `folder` until asked to finish."""

    def append(trial_id: str | None, *, run_id: str, experiment_id: str) -> None:
        say({"trial_id": trial_id, "run_id": run_id, "experiment_id": experiment_id})

    tracker, tail, trouble = Tracker(append), journal.Tail(folder / journal.FILE), ""
    message, due = heard.get(), time.monotonic()
    while True:
        try:
            tracker.put(tail.up_to(message.get("events", 0)))
        except (JournalError, OSError) as error:
            if str(error) != trouble:
                logger.warning("MLflow does not get what is new: %s", error)
            trouble = str(error)
        asked = message.get("ask")
        if asked == "finish":
            tracker.finish(folder, message["deadline_s"])
        elif asked or time.monotonic() >= due:
            due = time.monotonic() + tracker.flush()
        if asked:
            say({"done": asked})
        if asked == "finish":
            return
        try:
            message = heard.get(timeout=max(0.0, due - time.monotonic()))
        except queue.Empty:
            message = {}


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to all of a job: the sweep still has to finish
    heard: Messages = queue.SimpleQueue()
    answers = int(sys.argv[2])

    def listen() -> None:
        try:
            for line in sys.stdin:
                heard.put(json.loads(line))
        finally:  # whoever listens is gone, and may be resumed: two must not write to one store
            os._exit(1)

    def say(message: Message) -> None:
        try:
            os.write(answers, (json.dumps(message) + "\n").encode())
        except OSError:
            os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    package = logging.getLogger("kdsearch")
    package.addHandler(_Forwarding(say))
    package.setLevel(logging.INFO)
    package.propagate = False
    try:
        serve(Path(sys.argv[1]), heard, say)
    except Exception as error:
        logger.warning("MLflow gets nothing more from this process: %r", error)
        os._exit(1)
    os._exit(0)  # a thread still reads, and Python does not end in good order then


class _Forwarding(logging.Handler):
    def __init__(self, say: Callable[[Message], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say({"level": record.levelno, "text": record.getMessage()})


if __name__ == "__main__":
    main()
