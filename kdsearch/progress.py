"""What a user sees while a sweep runs and when it ends.

Goes in: epochs of the teacher, the state of the sweep. Comes out: a live panel on a terminal, one line a
minute elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from kdsearch import results, words
from kdsearch.confirmation import Student, confirmation, front_of_record
from kdsearch.pairing import Left
from kdsearch.records import EpochResult, Status, SweepRecord, TrialRecord

LINE_EVERY_S = 60.0
WIDTH_IN_LOGS = 160
STATUSES: tuple[Status, ...] = ("completed", "running", "stopped", "failed")


def duration(seconds: float) -> str:
    """`45s`, `3m 20s`, `2h 05m`."""
    seconds = int(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m {seconds % 60:02d}s"
    return f"{seconds // 3600}h {seconds % 3600 // 60:02d}m"


def count(number: float) -> str:
    """`812`, `3.1k`, `1.46M`."""
    for divisor, unit in ((1, ""), (1e3, "k"), (1e6, "M"), (1e9, "G")):
        text = f"{number / divisor:.3g}"
        if float(text) < 1000:  # 999,600 is 1M
            return text + unit
    return f"{number:.3g}"


def num_expected(sweep: SweepRecord, num_trials: int, left: Left) -> int:
    """Trials of all roles, as far as they are known: what follows the search shows when it begins."""
    num_search = len(sweep.of_role("search"))
    is_over = left.total or len(sweep.of_role("confirm"))  # a budget may have ended it early
    return len(sweep.trials) + left.total + (0 if is_over else max(0, num_trials - num_search))


def time_left(num_expected: int, num_ended: int, elapsed_s: float, done_before: int) -> float | None:
    """Seconds until all have ended, from the rate of this session; None before the first trial ended."""
    here = num_ended - done_before
    return elapsed_s / here * (num_expected - num_ended) if here > 0 else None


def stage(left: Left) -> str:
    """What follows the search and how much of it is still to start; '' while nothing is known of it."""
    parts = (
        (left.tuning, "tuning controls"),
        (left.repeats, "repeats of the front"),
        (left.pairs, "paired controls"),
    )
    words = ", ".join(f"{number} {name}" for number, name in parts if number)
    return f"still to start: {words}" if words else ""


def all_failed(sweep: SweepRecord, num_trials: int) -> str:
    """What to say of a search of which nothing came."""
    errors = sorted({trial.error for trial in sweep.trials.values() if trial.error})
    lines = ["every search trial failed:", *(f"  {error}" for error in errors[:3])]
    if len(sweep.of_role("search")) >= num_trials:
        lines.append("  all were started: --resume with more search.trials, or another recipe and --output")
    elif sweep.budget_reached is not None:
        budget = sweep.budget_reached["budget"]
        lines.append(f"  --resume with a larger search.{budget}, or another recipe and --output")
    else:
        lines.append("  --resume tries those that were not started; another recipe needs another --output")
    return "\n".join(lines)


def best_by_band(sweep: SweepRecord) -> list[TrialRecord | None]:
    """The completed student with the best validation accuracy in each size band, smallest band first."""
    bands: list[TrialRecord | None] = [None] * (len(sweep.header["bands"]["edges"]) - 1)
    for trial in results.students(sweep, "search"):
        best = bands[trial.band]
        if trial.status == "completed" and (
            best is None or (trial.val_accuracy or 0) > (best.val_accuracy or 0)
        ):
            bands[trial.band] = trial
    return bands


class _Console(Console):
    """Falls silent where nobody reads any more: rich would end the program, and the sweep with it."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with contextlib.suppress(OSError):  # what Python writes when it ends must go somewhere
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.file.fileno())
            os.close(nowhere)


class Progress:
    """Speaks to a person: `say` for a line, `teacher_epoch` and `tick` while long work goes on."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or _Console(highlight=False)
        if not self.console.is_terminal:
            self.console.width = WIDTH_IN_LOGS
        self._live: Live | None = None
        self._last = time.monotonic()
        self._started = self._last
        self._sweep: SweepRecord | None = None
        self._num_trials = 0
        self._left: Callable[[], Left] = Left
        self._done_before = 0

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def show(self, table: Table) -> None:
        self.console.print(table)

    def _due(self, every_s: float) -> bool:
        now = time.monotonic()
        if now - self._last < every_s:
            return False
        self._last = now
        return True

    def teacher_epoch(self, result: EpochResult, num_epochs: int) -> None:
        """One line at a time: on a terminal every two seconds, else each minute, and the last epoch."""
        if self._due(2.0 if self.console.is_terminal else LINE_EVERY_S) or result.epoch == num_epochs:
            left = duration((num_epochs - result.epoch) * result.time_s)
            accuracy = result.metrics["val_accuracy"]
            self.say(f"  teacher epoch {result.epoch}/{num_epochs}  accuracy {accuracy:.4f}  {left} left")

    def start_search(self, sweep: SweepRecord, num_trials: int, left: Callable[[], Left]) -> None:
        """`left` says what still follows the search."""
        self._sweep, self._num_trials, self._left = sweep, num_trials, left
        self._done_before = sum(trial.status != "running" for trial in sweep.trials.values())
        self._started = self._last = time.monotonic()
        if self.console.is_terminal:
            self._live = Live(self._panel(), console=self.console, refresh_per_second=2, transient=True)
            self._live.start()

    def tick(self) -> None:
        if self._live is not None:
            if self._due(0.5):
                self._live.update(self._panel())
        elif self._due(LINE_EVERY_S):
            self.say(self.line())

    def end_search(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif self._sweep is not None:
            self.say(self.line())

    def _parts(self) -> tuple[Counter[Status], int, float, str]:
        assert self._sweep is not None
        counts = Counter(trial.status for trial in self._sweep.trials.values())
        elapsed = time.monotonic() - self._started
        total = num_expected(self._sweep, self._num_trials, self._left())
        left = time_left(total, sum(counts.values()) - counts["running"], elapsed, self._done_before)
        return counts, total, elapsed, "?" if left is None else duration(left)

    def line(self) -> str:
        """One line for logs: counts, best of each size band, elapsed and estimated time left."""
        assert self._sweep is not None
        counts, _, elapsed, left = self._parts()
        states = ", ".join(f"{counts[status]} {status}" for status in STATUSES)
        bests = "/".join(f"{t.val_accuracy:.3f}" if t else "-" for t in best_by_band(self._sweep))
        clock = f"{duration(elapsed)} elapsed, about {left} left"
        return "; ".join(
            filter(None, [f"  {states}", f"best small/medium/large {bests}", stage(self._left()), clock])
        )

    def _panel(self) -> Group:
        assert self._sweep is not None
        counts, total, elapsed, left = self._parts()
        ended = sum(counts.values()) - counts["running"]
        head = Table.grid(padding=(0, 2))
        head.add_row(
            ProgressBar(total=total, completed=ended, width=30),
            f"{ended}/{total} trials",
            *(f"{counts[status]} {status}" for status in STATUSES),
            f"{duration(elapsed)} elapsed, about {left} left",
        )
        edges = self._sweep.header["bands"]["edges"]
        bests = Table.grid(padding=(0, 2))
        for i, trial in enumerate(best_by_band(self._sweep)):
            size = f"{count(edges[i])} to {count(edges[i + 1])} params"
            best = f"{trial.val_accuracy:.4f} ({trial.student_id})" if trial else "-"
            bests.add_row("best of" if i == 0 else "", size, best)
        return Group(head, *filter(None, [stage(self._left())]), bests)


def front_table(sweep: SweepRecord) -> Table:
    """The front of record for the terminal, smallest student first; confirmed values where there are any."""
    teacher, found = results.teacher_accuracy(sweep), confirmation(sweep)
    known = {student.record.student_id: student for student in found.students} if found else {}
    title = "Pareto front" + (f" (teacher: {teacher:.4f} accuracy)" if teacher is not None else "")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    confirmed = ("confirmed", "p on front") if known else ()
    for name in ("trial", "accuracy", *confirmed, "retention", "params", "smaller", "MACs"):
        table.add_column(name, justify="left" if name == "trial" else "right", no_wrap=True)
    table.add_column("student")
    table.add_column("recipe")
    for trial in front_of_record(sweep):
        table.add_row(
            trial.student_id,
            f"{results.accuracy(trial):.4f}",
            *(_confirmed(known.get(trial.student_id)) if known else ()),
            words.percent(results.retention(sweep, trial)),
            count(trial.cost["params"]),
            words.times(results.compression(sweep, trial)),
            count(trial.cost["macs"]),
            words.student(trial.config.student),
            words.recipe(trial.config),
        )
    return table


def _confirmed(student: Student | None) -> tuple[str, str]:
    """Mean of the repeats ± their standard deviation, and the probability to be on the true front."""
    if student is None:
        return "", ""
    known, share = student.validation, student.p_on_front
    spread = "" if known.std is None else f" ± {known.std:.4f}"
    return f"{known.mean:.4f}{spread}", "" if share is None else f"{share:.2f}"
