"""Students are validated at rungs and in the end: the same trainings, the same front, fewer points."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import journals
import pytest
import torch
from few_images import few_digits
from test_conductor import Sweep

from kdsearch import curve, report
from kdsearch.mlflow_runs import trial_run
from kdsearch.mutual import training_for
from kdsearch.records import Choice, Event, SweepRecord, TrainConfig, TrialConfig, replay
from kdsearch.search import fidelity
from kdsearch.search.messages import Task

RUNGS = (3, 9, 27)  # of the simulated sweep
PEERS = TrialConfig(Choice("mlp", {"width": 0.25}), TrainConfig(4, 24, lr=0.1), online=Choice("dml"))
RESNET = TrialConfig(Choice("resnet", {"depth": 8, "width": 0.25}), TrainConfig(4, 24, lr=0.1))


def validated_at(events: list[Event], epochs: tuple[int, ...]) -> list[Event]:
    """The events of the same sweep, had its search trials been validated in these epochs and their last."""
    last = {event["trial_id"]: event["max_epochs"] for event in events if event["kind"] == "trial_started"}
    found = []
    for event in events:
        name = event["trial_id"]
        if event["kind"] == "epoch" and name[0] == "t" and event["epoch"] not in (*epochs, last[name]):
            metrics = {key: value for key, value in event["metrics"].items() if "val_accuracy" not in key}
            found.append({**event, "metrics": metrics})
        else:
            found.append(event)
    return found


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("config", [RESNET, PEERS], ids=["one student", "peers"])
def test_validation_leaves_no_trace_in_the_training(config: TrialConfig) -> None:
    every, last = (training_for(config, few_digits(96, 48)) for _ in range(2))
    validated = [every.run_epoch() for _ in range(4)]
    alone = [last.run_epoch(evaluate=epoch == 4) for epoch in range(1, 5)]

    assert [sum("val_accuracy" in name for name in one.metrics) for one in alone[:3]] == [0, 0, 0]
    assert alone[3].metrics == validated[3].metrics
    assert [one.terms for one in alone] == [one.terms for one in validated]
    for one, other in zip(every.students, last.students, strict=True):
        weights = other.state_dict()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "floor", "search"),
    [
        ([], None, (1, 2)),
        (["search.early_stopping.scheduler=pareto"], None, (1, 2)),
        (["search.early_stopping.scheduler=none"], (), ()),
        (["train.evaluate=every_epoch"], None, None),
    ],
)
def test_the_ruler_is_validated_always_and_a_search_trial_at_rungs(
    tmp_path: Path, changes: list[str], floor: tuple[int, ...] | None, search: tuple[int, ...] | None
) -> None:
    conductor = Sweep(tmp_path, *changes).conductor
    tasks = [Task.from_json(task.to_json()) for _ in range(6) if (task := conductor.next_task())]

    assert {task.evaluated_epochs for task in tasks if task.trial_id[0] == "c"} == {floor}
    assert {task.evaluated_epochs for task in tasks if task.trial_id[0] == "t"} == {search}


def test_the_last_epoch_is_always_validated() -> None:
    task = Task("t0000", 1, RESNET, (), evaluated_epochs=(1,))
    assert [epoch for epoch in range(1, 5) if task.evaluates(epoch)] == [1, 4]


@pytest.mark.parametrize("scheduler", ["asha", "pareto"])
def test_the_search_stops_the_same_trials_at_the_same_rungs(tmp_path: Path, scheduler: str) -> None:
    def verdicts(evaluate: str) -> list[tuple[str, str, int]]:
        folder = tmp_path / evaluate
        folder.mkdir()
        changes = [f"train.evaluate={evaluate}", f"search.early_stopping.scheduler={scheduler}"]
        swept = Sweep(folder, *changes, "search.trials=20", accuracy=uneven).run()
        return [(trial.trial_id, trial.rule, trial.num_epochs) for trial in swept.of_role("search")]

    at_rungs = verdicts("rungs")
    assert len({num_epochs for _, _, num_epochs in at_rungs}) > 1
    assert at_rungs == verdicts("every_epoch")


def uneven(name: str, epoch: int) -> float:
    """Accuracies without an order, of which some stop and some go on."""
    return 0.1 * epoch + 0.5 * ((int(name[1:]) * 0.618) % 1)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, report.Report]:
    """A simulated sweep as a sweep that looked at every epoch has it, and as one that looked at rungs."""
    events = journals.realistic().events
    versions = {"every epoch": events, "rungs": validated_at(events, RUNGS)}
    folder = tmp_path_factory.mktemp("reports")
    return {name: report.write(journals.write(folder / name, one)) for name, one in versions.items()}


def test_the_front_and_every_trial_that_came_to_a_rung_are_reported_alike(
    reports: dict[str, report.Report],
) -> None:
    every, at_rungs = (reports[name].folder for name in ("every epoch", "rungs"))
    assert (at_rungs / "pareto.csv").read_bytes() == (every / "pareto.csv").read_bytes()
    for one, other in zip(rows(every / "trials.csv"), rows(at_rungs / "trials.csv"), strict=True):
        assert one == other or one["status"] == "failed"


def test_curves_csv_is_blank_where_nobody_looked(reports: dict[str, report.Report]) -> None:
    found = [row for row in rows(reports["rungs"].folder / "curves.csv") if row["trial_id"] == "t0001"]
    assert [int(row["epoch"]) for row in found if row["val_accuracy"]] == [
        epoch for epoch in (*RUNGS, 60) if epoch <= len(found)
    ]
    assert all(row["train_loss"] for row in found)


def test_the_figures_are_drawn_of_what_there_is(reports: dict[str, report.Report]) -> None:
    assert {path.name for path in reports["rungs"].files} == {
        path.name for path in reports["every epoch"].files
    }


def test_without_a_second_point_a_sentence_stands_for_the_curves(tmp_path: Path) -> None:
    events = journals.Story()
    events.trial(0, [0.1, 0.2, 0.3, 0.4])
    written = report.write(journals.write(tmp_path, validated_at(events.events, ())))
    assert "curves.png" not in {path.name for path in written.files}
    assert "train.evaluate: every_epoch" in (tmp_path / "report.md").read_text()


def sparse(*trials: tuple[float, ...], at: tuple[int, ...]) -> SweepRecord:
    story = journals.Story().teacher()
    for number, accuracies in enumerate(trials):
        status = "completed" if len(accuracies) == 4 else "stopped"
        story.trial(number, accuracies, status=status)
    return replay(validated_at(story.events, at))


def test_a_trials_accuracy_is_the_last_that_was_seen() -> None:
    trial = sparse((0.3, 0.4, 0.5), at=(2,)).trials["t0000"]
    assert (trial.val_accuracy, curve.points(trial), curve.last_evaluated(trial)) == (0.4, [(2, 0.4)], 2)
    assert curve.last_evaluated(trial, 1) == 0
    assert dataclasses.replace(trial, epochs=trial.epochs[:1]).val_accuracy is None


def test_a_stopped_trial_is_carried_on_from_where_it_was_last_seen() -> None:
    stopped, *finished = sparse((0.3, 0.4, 0.9), (0.1, 0.2, 0.9, 0.3), at=(2,)).of_role("search")
    assert fidelity.final_accuracy(stopped, finished) == pytest.approx(0.4 + 0.1)


def test_mlflow_gets_the_accuracies_that_there_are_and_every_loss() -> None:
    sweep = sparse((0.2, 0.4, 0.5, 0.6), at=(2,))
    points = trial_run(sweep, sweep.trials["t0000"]).points
    assert [p.step for p in points if p.name == "val_accuracy"] == [2, 4]
    assert [p.step for p in points if p.name == "retention"] == [2, 4]
    assert [p.step for p in points if p.name == "train_loss"] == [1, 2, 3, 4]
