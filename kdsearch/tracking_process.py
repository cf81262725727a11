"""MLflow's tracker in a process of its own: a sweep's driver neither imports MLflow nor computes for it.

Goes in: the folder of a running sweep, and how many of its journal's events are on disk. Comes out: the ids
of new runs, for the journal, and what the log should say. Both ways it is one JSON object a line, over pipes.
The process, `python -m kdsearch.tracking_process DIR`, ends with the one that started it, however that ends;
what it has not sent by then, a resume or `kdsearch sync` makes good.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdsearch import journal
from kdsearch.journal import Journal, JournalError
from kdsearch.records import Event
from kdsearch.tracking import Tracker

logger = logging.getLogger("kdsearch.tracking_process")  # in the process itself, too, which is __main__

Message = dict[str, Any]
Messages = queue.SimpleQueue[Message]
ENDED: Message = {"done": "ended"}
ANSWER_S = 2.0  # for an answer to arrive, beyond the time that the process itself may take


class TrackingProcess:
    """Sends a running sweep's journal to MLflow: a `Tracker` elsewhere. Nothing here ever raises."""

    def __init__(self, sweep: Journal) -> None:
        self._journal = sweep
        self._start()
        sweep.listeners.append(self._put)

    def catch_up(self, deadline_s: float = 20.0) -> None:
        """Wait until the store has what is in the journal, or refused it: then that has every run's id."""
        self._ask("catch_up", deadline_s)

    def finish(self, deadline_s: float = 60.0) -> None:
        """`Tracker.finish`, and the end of the process."""
        if not self._ask("finish", deadline_s):
            logger.warning(
                "MLflow may lack something, its process did not answer; `kdsearch sync %s` completes it",
                self._journal.path.parent,
            )
        if self._process:
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        self._answers: Messages = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        command = [sys.executable, "-m", "kdsearch.tracking_process", str(self._journal.path.parent)]
        pipe = subprocess.PIPE
        try:  # in a group of its own: Ctrl-C is for the sweep, which then asks this process to finish
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, process_group=0)
        except OSError as error:
            logger.warning("MLflow gets nothing while the sweep runs, as no process starts: %s", error)
            return
        assert self._process.stdin
        self._pipe = self._process.stdin.fileno()
        os.set_blocking(self._pipe, False)
        about = [self._process, self._answers]
        threading.Thread(target=self._listen, args=about, name="mlflow", daemon=True).start()
        self._tell({})

    def _put(self, event: Event) -> None:
        self._tell({})  # of the event, as of all before, its number is enough

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
        if not self._is_alive():
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

    def _listen(self, process: subprocess.Popen[bytes], answers: Messages) -> None:
        assert process.stdout
        for line in process.stdout:
            message = json.loads(line)
            if "run_id" in message:
                with contextlib.suppress(OSError, ValueError):  # a full disk: runs have tags to be found by
                    self._journal.append("mlflow_run", **message)
            elif "text" in message:
                logger.log(message["level"], message["text"])
            else:
                answers.put(message)
        answers.put(ENDED)


def serve(folder: Path, heard: Messages, say: Callable[[Message], None]) -> None:
    """Track the sweep in `folder` until asked to finish."""

    def append(trial_id: str | None, *, run_id: str, experiment_id: str) -> None:
        say({"trial_id": trial_id, "run_id": run_id, "experiment_id": experiment_id})

    tracker, tail = Tracker(append), journal.Tail(folder / journal.FILE)
    message, due = heard.get(), time.monotonic()
    while True:
        tracker.put(tail.up_to(message.get("events", 0)))
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
    heard: Messages = queue.SimpleQueue()
    answers = os.dup(1)
    os.dup2(2, 1)  # for what libraries print

    def listen() -> None:
        for line in sys.stdin:
            heard.put(json.loads(line))
        os._exit(1)  # whoever listens is gone, and may be resumed: two must not write to one store

    def say(message: Message) -> None:
        os.write(answers, (json.dumps(message) + "\n").encode())

    threading.Thread(target=listen, daemon=True).start()
    package = logging.getLogger("kdsearch")
    package.addHandler(_Forwarding(say))
    package.setLevel(logging.INFO)
    package.propagate = False
    try:
        serve(Path(sys.argv[1]), heard, say)
    except (JournalError, OSError) as error:
        logger.warning("MLflow gets nothing more of this sweep: %s", error)
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
