"""What the conductor decides, with workers played by the test: no Ray, no training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from journals import Story

from kdsearch import spec as specs
from kdsearch.cli import UsageError
from kdsearch.journal import Journal
from kdsearch.records import Choice, SweepRecord, replay
from kdsearch.search.bands import band_of
from kdsearch.search.conductor import Conductor
from kdsearch.search.messages import Report, Task
from kdsearch.search.slots import slots_on
from kdsearch.session import begin

SPEC = """
name: small
data: {dataset: digits}
teacher: {resnet: {depth: 8, train: {epochs: 2}}}
student:
  resnet: {width: {type: float, low: 0.25, high: 1.0, step: 0.25}}
  mlp: {width: {type: float, low: 0.25, high: 1.0, step: 0.25}}
distill:
  alpha: {type: float, low: 0.1, high: 0.9}
  temperature: {type: float, low: 1, high: 16, log: true}
  response: kd
  feature: {none: , fitnet: {weight: {type: float, low: 1, high: 100, log: true}}}
train: {epochs: 4, lr: {type: float, low: 0.01, high: 0.3, log: true}}
search: {trials: 6, early_stopping: {scheduler: asha, grace_epochs: 1, reduction_factor: 2}}
confirm: {seeds: 0}
"""


def cost_of(student: Choice) -> dict[str, float]:
    params = 1000 * float(student.options["width"]) * (4 if student.name == "resnet" else 1)
    return {"params": params, "macs": 10 * params, "size_mb": params / 250_000}


class Sweep:
    """A sweep in a folder whose trainings are made up: accuracy by trial number, one epoch a report."""

    def __init__(
        self,
        folder: Path,
        *changes: str,
        accuracy: Callable[[str, int], float] | None = None,
        data: Mapping[str, object] | None = None,
        gpus: float | None = None,
    ) -> None:
        path = folder / "small.yaml"
        path.write_text(SPEC)
        self.spec = specs.load(path, list(changes))
        self.journal = Journal(folder)
        begin(self.spec, self.journal, cost_of, data=data or {})
        self.conductor = Conductor(self.spec, self.journal, 3, cost_of)
        self.gpus = gpus
        self.accuracy = accuracy or (lambda name, epoch: 0.5 + 0.1 * epoch + 0.01 * int(name[1:]))

    def epoch(self, task: Task, epoch: int) -> dict[str, object]:
        metrics = {"train_loss": 1.0, "lr": 0.1}
        if task.evaluates(epoch):
            metrics["val_accuracy"] = self.accuracy(task.trial_id, epoch)
        return {"epoch": epoch, "metrics": metrics, "terms": {"label": 1.0}, "time_s": 0.1, "cpu_s": 0.1}

    def report(self, task: Task, epoch: int) -> bool:
        finished = epoch == task.config.train.epochs
        student = f"students/{task.trial_id}" if finished else ""
        epochs = [self.epoch(task, epoch)]
        return self.tell(task, Report(epochs, finished=finished, student=student, gpus=self.gpus))

    def tell(self, task: Task, report: Report) -> bool:
        return self.conductor.on_report(task.trial_id, task.attempt, Report.from_json(report.to_json()))

    def train(self, task: Task) -> None:
        epoch = 1
        while self.report(task, epoch):
            epoch += 1

    def run(self) -> SweepRecord:
        while (task := self.conductor.next_task()) is not None:
            self.train(Task.from_json(task.to_json()))
        self.journal.close()
        return replay(self.journal.events)


def test_the_smallest_and_the_largest_student_are_controlled_first(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)

    first, second = sweep.conductor.next_task(), sweep.conductor.next_task()

    assert first is not None
    assert second is not None
    assert (first.trial_id, first.config.student) == ("c0000", Choice("mlp", {"depth": 2, "width": 0.25}))
    assert (second.trial_id, second.config.student) == (
        "c0001",
        Choice("resnet", {"depth": 20, "stem_ratio": 1.0, "width": 1.0}),
    )
    assert first.config.distill == second.config.distill == {}


@pytest.mark.parametrize(
    ("scheduler", "sizes"),
    [("none", [250, 4000, 1000]), ("asha", [250, 4000, 1000]), ("pareto", [250, 4000, 1000, 250, 1000])],
)
def test_every_size_band_has_a_control_and_the_front_needs_second_seeds_of_all_but_the_largest(
    tmp_path: Path, scheduler: str, sizes: list[float]
) -> None:
    sweep = Sweep(tmp_path, f"search.early_stopping.scheduler={scheduler}")

    tasks = [sweep.conductor.next_task() for _ in sizes]

    assert [task.trial_id for task in tasks] == [f"c{number:04d}" for number in range(len(sizes))]
    assert [cost_of(task.config.student)["params"] for task in tasks] == sizes
    assert len({task.config.seed for task in tasks}) == len(tasks)
    assert sweep.conductor.next_task().trial_id == "t0000"


def test_exactly_the_requested_search_trials_run_and_controls_are_extra(tmp_path: Path) -> None:
    record = Sweep(tmp_path).run()

    assert [trial.trial_id for trial in record.of_role("search")] == [f"t{i:04d}" for i in range(6)]
    assert len(record.of_role("control")) == 3
    assert all(trial.status == "completed" for trial in record.of_role("control"))


def test_controls_enter_no_rung_and_are_never_stopped(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, accuracy=lambda name, epoch: 0.9 if name[0] == "t" else 0.01)

    record = sweep.run()

    assert {trial.status for trial in record.of_role("control")} == {"completed"}
    assert {trial.status for trial in record.of_role("search")} == {"completed"}


def test_a_trial_below_the_better_half_of_a_rung_is_stopped_and_the_rule_named(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, accuracy=lambda name, epoch: 0.9 - 0.1 * int(name[1:]))

    trials = sweep.run().of_role("search")

    assert trials[0].status == "completed"
    assert [trial.status for trial in trials[1:]] == ["stopped"] * 5
    assert {trial.rule for trial in trials[1:]} == {"asha rung 1"}
    assert {trial.num_epochs for trial in trials[1:]} == {1}


def test_a_failed_training_is_failed_and_counts_as_a_trial(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "search.early_stopping={scheduler: none}")
    tasks = [sweep.conductor.next_task() for _ in range(4)]
    goes_on = sweep.tell(
        tasks[3], Report(error="not finite in epoch 1, batch 3: kd = nan", reason="diverged")
    )

    assert not goes_on
    trial = sweep.conductor.sweep.trials["t0000"]
    assert (trial.status, trial.reason) == ("failed", "diverged")
    assert "batch 3" in trial.error


def test_a_lost_worker_is_replaced_once_and_then_the_trial_failed(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    first = sweep.conductor.next_task()
    sweep.conductor.on_lost_worker(first.trial_id, "killed by signal 9")
    second = sweep.conductor.next_task()
    late = sweep.report(first, 1)
    sweep.conductor.on_lost_worker(second.trial_id, "killed by signal 9")

    trial = sweep.conductor.sweep.trials[first.trial_id]
    assert (second.trial_id, second.attempt, second.folder) == ("c0000", 2, "work/c0000/attempt-2")
    assert not late
    assert trial.num_epochs == 0
    assert trial.status == "failed"
    assert "died 2 times: killed by signal 9" in trial.error


def test_a_trial_that_ended_after_its_worker_was_given_up_is_not_run_again(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    task = sweep.conductor.next_task()
    sweep.conductor.on_lost_worker(task.trial_id, "node preempted")
    sweep.train(task)

    assert sweep.conductor.next_task().trial_id == "c0001"
    assert sweep.conductor.sweep.trials["c0000"].status == "completed"


def lost_after_a_checkpoint(sweep: Sweep) -> Task:
    """The first trial's second attempt, from the checkpoint of epoch 1."""
    task = sweep.conductor.next_task()
    checkpoint = {"epoch": 1, "path": f"{task.folder}/epoch-1.pt", "sha256": "abc"}
    sweep.tell(task, Report([sweep.epoch(task, 1)], checkpoint=checkpoint))
    sweep.conductor.on_lost_worker(task.trial_id, "node lost")
    return sweep.conductor.next_task()


def test_a_restart_continues_from_the_last_checkpoint(tmp_path: Path) -> None:
    again = lost_after_a_checkpoint(Sweep(tmp_path))

    assert (again.from_checkpoint, again.from_sha256) == ("work/c0000/attempt-1/epoch-1.pt", "abc")


@pytest.mark.parametrize("fits", [True, False])
def test_a_checkpoint_that_did_not_fit_is_said_where_the_sweep_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fits: bool
) -> None:
    """The worker that finds it out logs where nobody looks."""
    sweep = Sweep(tmp_path)
    again = lost_after_a_checkpoint(sweep)
    for epoch in (2, 3) if fits else (1, 2, 3):
        sweep.report(again, epoch)
    said = [record.getMessage() for record in caplog.records if "begins again" in record.getMessage()]
    assert said == ([] if fits else ["c0000 begins again: its checkpoint is damaged or of another version"])
    assert sweep.conductor.sweep.trials["c0000"].num_epochs == 3


def test_five_failures_in_a_row_end_the_sweep(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "search.trials=20")
    while (task := sweep.conductor.next_task()) is not None:
        sweep.tell(task, Report(error="no", reason="error"))

    assert sweep.conductor.mass_failure
    assert sweep.conductor.finished
    assert len(sweep.conductor.sweep.of_role("search")) == 5


def test_after_five_failures_nothing_waits_for_a_lost_worker(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "search.trials=20")
    for _ in range(3):
        sweep.train(sweep.conductor.next_task())
    tasks = [sweep.conductor.next_task() for _ in range(6)]
    for task in tasks[:4]:
        sweep.tell(task, Report(error="no", reason="error"))
    sweep.conductor.on_lost_worker(tasks[4].trial_id, "killed")
    sweep.tell(tasks[5], Report(error="no", reason="error"))

    assert sweep.conductor.next_task() is None
    assert sweep.conductor.finished
    assert sweep.conductor.sweep.trials[tasks[4].trial_id].status == "running"


def test_a_full_disk_at_the_worker_ends_the_sweep_and_leaves_the_trial_to_a_resume(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    task = sweep.conductor.next_task()

    with pytest.raises(OSError, match="c0000: No space left"):
        sweep.tell(task, Report(error="No space left on device", reason="storage"))

    assert sweep.conductor.sweep.trials["c0000"].status == "running"


def test_the_teachers_training_and_late_mlflow_runs_use_no_search_time(tmp_path: Path) -> None:
    def event(kind: str, time: float) -> dict[str, object]:
        return {"kind": kind, "time": time, "trial_id": None, "run_id": "r"}

    record = replay(
        [
            event("sweep_started", 0),
            event("sweep_ended", 800),  # interrupted in the teacher's training
            event("sweep_started", 1000),
            event("teacher_ready", 1900),
            event("sweep_ended", 1960),
            event("mlflow_run", 9999),
        ]
    )

    assert record.spent_s == 0


def test_search_time_is_that_of_an_open_search(tmp_path: Path) -> None:
    story = Story()
    story.add("teacher_ready", after_s=500).trial(0, [0.5] * 2)
    story.add("budget_reached", after_s=90, budget="trials", limit=1).trial(0, [0.5] * 4, role="confirm")
    at_the_end = replay(story.events).spent_s
    longer = {**story.header["spec"], "search": {**story.header["spec"]["search"], "trials": 2}}
    story.add("sweep_started", after_s=7000, **{**story.header, "spec": longer}).trial(1, [0.5] * 2)

    # A trial of two epochs: 1 s from its start to its run, 3 s of training, 0.1 s to its end.
    assert at_the_end == pytest.approx(4.1 + 90)
    assert replay(story.events).spent_s == pytest.approx(4.1 + 90 + 4.1)


def test_a_session_after_the_search_uses_no_search_time(tmp_path: Path) -> None:
    story = Story()
    story.trial(0, [0.5] * 2)
    story.add("budget_reached", after_s=90, budget="trials", limit=60)
    story.add("sweep_started", **story.header).trial(0, [0.5] * 4, role="confirm")

    assert replay(story.events).spent_s == pytest.approx(4.1 + 90)


def test_the_time_before_a_sessions_first_trial_is_not_the_searchs(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "search.time_s=60")
    sweep.conductor._clock = lambda: sweep.conductor.sweep.last_time + 61

    assert sweep.conductor.next_task() is not None
    assert not sweep.conductor.search_is_over


def test_a_time_budget_starts_nothing_new_when_it_is_spent(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "search.time_s=60")
    sweep.conductor._clock = lambda: sweep.conductor.sweep.last_time + 61
    controls = [sweep.conductor.next_task() for _ in range(3)]

    assert None not in controls
    assert sweep.conductor.next_task() is None


@pytest.mark.parametrize("cut", [3, 5, 8, 13, 21, 30, 100])
def test_a_sweep_cut_anywhere_and_resumed_equals_an_uninterrupted_one(tmp_path: Path, cut: int) -> None:
    whole_folder, cut_folder = tmp_path / "whole", tmp_path / "cut"
    whole_folder.mkdir()
    cut_folder.mkdir()
    whole = Sweep(whole_folder).run()
    Sweep(cut_folder).run()
    journal = cut_folder / "events.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:cut]))

    resumed = Sweep(cut_folder).run()

    assert outcome(resumed) == outcome(whole)


def test_a_verdict_that_a_crash_cut_off_is_given_on_resume(tmp_path: Path) -> None:
    worse_and_worse = {"accuracy": lambda name, epoch: 0.9 - 0.1 * int(name[1:])}
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = Sweep(tmp_path / "whole", **worse_and_worse).run()
    Sweep(tmp_path / "cut", **worse_and_worse).run()
    journal = tmp_path / "cut" / "events.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    verdict = next(i for i, line in enumerate(lines) if '"stopped"' in line)
    journal.write_text("".join(lines[:verdict]))

    assert outcome(Sweep(tmp_path / "cut", **worse_and_worse).run()) == outcome(whole)


def test_who_was_let_through_a_rung_on_arrival_goes_on_after_its_worker_is_lost(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, accuracy=lambda name, epoch: 0.5 + 0.1 * int(name[1:]))
    first, *others = running_search_trials(sweep, 4)
    sweep.report(first, 1)
    for other in others:
        sweep.report(other, 1)

    sweep.conductor.on_lost_worker(first.trial_id, "killed by signal 9")

    again = sweep.conductor.next_task()
    assert (again.trial_id, again.attempt) == (first.trial_id, 2)


@pytest.mark.parametrize("num_epochs", [2, 3])
@pytest.mark.parametrize(
    ("late", "status"),
    [({"t0000": 0.1, "t0001": 0.5, "t0002": 0.9}, "stopped"), ({"t0001": 0.5, "t0000": 0.9}, "running")],
)
def test_a_verdict_after_a_crash_leaves_out_who_came_to_the_rung_later(
    tmp_path: Path, late: dict[str, float], status: str, num_epochs: int
) -> None:
    """t0002, where there is one, comes first, then t0001, and t0000 after the crash."""
    sweep = Sweep(tmp_path, accuracy=lambda name, epoch: late[name])
    first, second, *before = running_search_trials(sweep, len(late))
    for task in before:
        sweep.tell(task, Report([sweep.epoch(task, epoch) for epoch in (1, 2)]))
    sweep.tell(second, Report([sweep.epoch(second, epoch) for epoch in range(1, num_epochs + 1)]))
    sweep.journal.close()
    journal = tmp_path / "events.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if '"stopped"' not in line))

    resumed = Sweep(tmp_path, accuracy=lambda name, epoch: late[name])
    again = resumed.conductor.next_task()
    resumed.tell(again, Report([resumed.epoch(again, epoch) for epoch in (1, 2)]))
    resumed.conductor.next_task()

    assert again.trial_id == first.trial_id
    assert resumed.conductor.sweep.trials[second.trial_id].status == status


def running_search_trials(sweep: Sweep, number: int) -> list[Task]:
    """The first search trials, all started, after the floors have ended."""
    while (task := sweep.conductor.next_task()).trial_id[0] == "c":
        sweep.tell(task, Report(finished=True, student=f"students/{task.trial_id}"))
    return [task, *(sweep.conductor.next_task() for _ in range(number - 1))]


PARETO = "search.early_stopping={scheduler: pareto, grace_epochs: 1, reduction_factor: 3}"
ONE_SIZE = ("student={mlp: {width: 1.0, depth: 2}}", "search.trials=12", PARETO)


def test_a_trial_that_was_let_through_its_rung_is_stopped_when_the_rung_has_filled(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, *ONE_SIZE, accuracy=lambda name, epoch: 0.5 + 0.01 * int(name[1:]))
    for _ in range(2):
        sweep.train(sweep.conductor.next_task())
    first, *others = [sweep.conductor.next_task() for _ in range(6)]

    goes_on_alone = sweep.report(first, 1)
    for other in others:
        sweep.train(other)
    goes_on_among_six = sweep.report(first, 2)

    trial = sweep.conductor.sweep.trials[first.trial_id]
    assert (goes_on_alone, goes_on_among_six) == (True, False)
    assert (trial.num_epochs, trial.status) == (2, "stopped")
    assert trial.rule.startswith(f"pareto rung 1: dominated by {others[-1].trial_id} even at 0.")


def ups_and_downs(name: str, epoch: int) -> float:
    return 0.5 + 0.1 * epoch * (1 + math.sin(7 * int(name[1:]))) / 2 + (0.05 if name[0] == "t" else 0)


@pytest.mark.parametrize("cut", range(1, 70, 3))
def test_a_resumed_sweep_stops_by_the_front_what_an_uninterrupted_one_stops(tmp_path: Path, cut: int) -> None:
    changes = (PARETO, "search.trials=8")
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = Sweep(tmp_path / "whole", *changes, accuracy=ups_and_downs).run()
    journal = tmp_path / "cut" / "events.jsonl"
    lines = (tmp_path / "whole" / "events.jsonl").read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:cut]))

    resumed = Sweep(tmp_path / "cut", *changes, accuracy=ups_and_downs).run()

    assert {trial.status for trial in whole.of_role("search")} == {"completed", "stopped"}
    assert outcome(resumed) == outcome(whole)


def test_a_student_below_the_floor_of_its_size_is_stopped_though_it_is_the_smallest(tmp_path: Path) -> None:
    smallest = "student={mlp: {width: {type: categorical, choices: [0.25, 1.0]}, depth: 2}}"
    data = {"num_validation": 10_000}
    accuracy = {"c": 0.8, "t": 0.5}
    sweep = Sweep(tmp_path, smallest, PARETO, accuracy=lambda name, epoch: accuracy[name[0]], data=data)

    trials = sweep.run().of_role("search")

    # Three controls and two trials make the five gains that say what is within reach.
    assert [trial.status for trial in trials[:2]] == ["completed", "completed"]
    assert trials[2].rule == "pareto rung 1: below the floor"
    assert trials[2].reason == "below what its size reaches without distillation"


def test_an_accuracy_that_is_no_number_fails_the_trial_before_anyone_is_judged_by_it(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, PARETO, accuracy=lambda name, epoch: math.nan if name == "t0000" else 0.5)

    trials = sweep.run().of_role("search")

    assert (trials[0].status, trials[0].reason, trials[0].num_epochs) == ("failed", "diverged", 0)
    assert trials[0].error == "not finite in epoch 1: val_accuracy = nan"
    assert {trial.status for trial in trials[1:]} <= {"completed", "stopped"}


def test_other_data_than_the_sweep_began_with_are_refused(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)

    with pytest.raises(UsageError, match="not the data that this sweep began with"):
        begin(sweep.spec, sweep.journal, cost_of, data={"key": "another"})


@pytest.mark.parametrize(
    ("node", "asked", "slots"),
    [
        ((8, 0), (1, 0), 8),
        ((3, 0), (2, 0), 1),
        ((1, 0), (2, 0), 0),
        ((16, 2), (1, 0.4), 4),
        ((16, 1), (1, 0.1), 10),
        ((2, 4), (1, 0.25), 2),
        ((8, 4), (1, 2), 2),
        ((8, 1), (0, 0.25), 4),
    ],
)
def test_slots_are_what_fits_on_one_node(
    node: tuple[int, int], asked: tuple[float, float], slots: int
) -> None:
    assert slots_on(*node, *asked) == slots


def outcome(record: SweepRecord) -> list[tuple[object, ...]]:
    return [
        (t.trial_id, json.dumps(t.config.to_json()), t.status, t.rule, [e["metrics"] for e in t.epochs])
        for t in record.trials.values()
    ]


def test_a_finished_sweep_is_extended_by_more_trials(tmp_path: Path) -> None:
    first = Sweep(tmp_path).run()
    extended = Sweep(tmp_path, "search.trials=9").run()
    (tmp_path / "new").mkdir()
    at_once = Sweep(tmp_path / "new", "search.trials=9").run()

    assert outcome(extended)[: len(outcome(first))] == outcome(first)
    assert outcome(extended) == outcome(at_once)


def test_bands_are_counted_from_the_smallest() -> None:
    edges = [10.0, 100.0, 1000.0, 10000.0]

    assert [band_of(size, edges) for size in (5, 10, 99, 100, 999, 1000, 10000, 99999)] == [
        0,
        0,
        0,
        1,
        1,
        2,
        2,
        2,
    ]


def test_a_proposal_is_measured_with_what_its_methods_leave_in_the_student(tmp_path: Path) -> None:
    distill = "distill={alpha: 0.5, response: {kd: {temperature: 4}, deit: }}"
    sweep = Sweep(tmp_path, "student={vit: {width: 0.25}}", distill)
    with_token: list[bool] = []

    def measured(student: Choice) -> dict[str, float]:
        with_token.append(bool(student.options.get("token")))
        return (
            {name: 100 * value for name, value in cost_of(student).items()}
            if with_token[-1]
            else cost_of(student)
        )

    conductor = Conductor(sweep.spec, sweep.journal, 3, measured)
    tasks = [task for _ in range(6) if (task := conductor.next_task()) and task.config.distill]
    proposer = conductor._queue._proposer  # type: ignore[attr-defined]
    for task in tasks:
        own = proposer._sampler.costs_of(task.config)[0]
        assert own == conductor.sweep.trials[task.trial_id].cost
    assert any(with_token)
