"""When a search ends: each budget alone, on resume, and where it is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from journals import EDGES, Story
from test_afterwards import Sweep as Confirmed
from test_conductor import Sweep, outcome

from kdsearch import chapters, journal, spec, summary, volume
from kdsearch.document import Paragraph
from kdsearch.records import SweepRecord, replay
from kdsearch.search import budgets

SMALLEST = {
    "name": "small",
    "data": {"dataset": "digits"},
    "teacher": {"resnet": {"train": {"epochs": 1}}},
    "student": {"mlp": {}},
    "distill": {"response": "kd"},
    "train": {"epochs": 4},
}


NEVER_STOPPED = "search.early_stopping={scheduler: none}"


def finished(folder: Path, *changes: str, accuracy: Callable[[str, int], float] | None = None) -> SweepRecord:
    """A sweep of up to 20 trials that are never stopped, run to its end."""
    folder.mkdir(exist_ok=True)
    return Sweep(folder, "search.trials=20", NEVER_STOPPED, *changes, accuracy=accuracy).run()


def improving_until(last: int) -> Callable[[str, int], float]:
    """Accuracy that grows with every search trial up to number `last`, and is poor from then on."""

    def accuracy(name: str, epoch: int) -> float:
        number = int(name[1:])
        return 0.4 if name[0] == "c" else 0.5 + 0.01 * number * (number <= last)

    return accuracy


def reached(record: SweepRecord) -> tuple[str, float]:
    assert record.budget_reached is not None
    return record.budget_reached["budget"], record.budget_reached["limit"]


def events_of(folder: Path, kind: str) -> int:
    return sum(event["kind"] == kind for event in journal.read(folder / "events.jsonl"))


def test_a_search_that_started_all_its_trials_says_so_once(tmp_path: Path) -> None:
    record = finished(tmp_path, "search.trials=3")

    assert reached(record) == ("trials", 3)
    assert events_of(tmp_path, "budget_reached") == 1


def test_device_seconds_count_the_epochs_of_floors_and_search_trials(tmp_path: Path) -> None:
    # Each trial has four epochs of 0.1 s: three controls and two search trials have 2 s.
    record = finished(tmp_path, "search.device_s=2")

    assert reached(record) == ("device_s", 2)
    assert (len(record.of_role("control")), len(record.of_role("search"))) == (3, 2)


def test_a_trial_on_half_a_gpu_spends_half_a_second_in_one(tmp_path: Path) -> None:
    record = finished(tmp_path, "search.device_s=2", "resources={gpus_per_trial: 0.5}")

    assert sum(map(len, (record.of_role("control"), record.of_role("search")))) == 10


def test_a_gpu_that_was_asked_for_and_is_not_there_spends_cpu_seconds(tmp_path: Path) -> None:
    changes = "search.device_s=2", "resources={gpus_per_trial: 0.25}"
    sweep = Sweep(tmp_path, "search.trials=20", NEVER_STOPPED, *changes, gpus=0.0)

    assert len(sweep.run().trials) == 5


def test_a_sweep_that_goes_on_on_a_gpu_adds_up_what_each_session_had(tmp_path: Path) -> None:
    changes = "search.trials=20", NEVER_STOPPED, "search.device_s=1.95", "resources={gpus_per_trial: 0.25}"
    without = Sweep(tmp_path, *changes, gpus=0.0)
    for _ in range(3):
        without.train(without.conductor.next_task())
    without.journal.close()

    # 1.2 CPU-seconds, and 0.1 GPU-seconds for each trial: eight more.
    record = Sweep(tmp_path, *changes, gpus=0.25).run()

    assert len(record.trials) == 3 + 8
    assert record.device_s == pytest.approx(2.0)


def test_a_search_ends_at_the_hypervolume_that_was_asked_for(tmp_path: Path) -> None:
    whole = finished(tmp_path / "whole")
    goal = volume.hypervolume(whole)["value"] / 2
    record = finished(tmp_path / "cut", f"search.hypervolume={goal}")

    assert reached(record) == ("hypervolume", goal)
    assert len(record.of_role("search")) < 20
    assert volume.hypervolume(record)["value"] >= goal


def test_a_volume_above_no_floor_yet_ends_nothing() -> None:
    asked = spec.from_dict({**SMALLEST, "search": {"trials": 20, "hypervolume": 0.05}})
    story = Story()
    story.trial(0, [0.9] * 4)
    without_floor = replay(story.events)
    story.trial(0, [0.5] * 4, role="control")
    with_floor = replay(story.events)

    assert volume.hypervolume(without_floor)["value"] > 0.05
    assert budgets.reached(asked, without_floor, 20, 0.0) is None
    assert budgets.reached(asked, with_floor, 20, 0.0) is not None


def test_patience_ends_a_search_after_so_many_trials_without_gain(tmp_path: Path) -> None:
    record = finished(tmp_path, "search.patience=4", accuracy=improving_until(2))

    assert reached(record) == ("patience", 4)
    assert record.of_role("search")[-1].number <= 2 + 4


def test_patience_counts_from_the_first_completed_trial() -> None:
    story = Story()
    story.trial(0, [0.5] * 4, role="control")
    for number in range(3):
        story.trial(number, [0.4], status="stopped")

    assert budgets.trials_without_gain(replay(story.events), 2) == 0


def test_running_trials_do_not_count_as_without_gain() -> None:
    story = Story()
    story.trial(0, [0.5] * 4, role="control")
    story.trial(0, [0.6] * 4)
    story.trial(1, [0.4] * 4)
    story.trial(2, [0.4], status="running")

    assert budgets.trials_without_gain(replay(story.events), 1) == 1
    assert budgets.trials_without_gain(replay(story.events), 2) == 0


def test_trials_that_run_when_a_budget_is_reached_go_on_to_their_ends(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "search.trials=20", "search.device_s=1")
    tasks = [sweep.conductor.next_task() for _ in range(6)]
    for task in tasks[:3]:
        sweep.train(task)

    assert sweep.conductor.next_task() is None
    assert sweep.conductor.search_is_over
    assert not sweep.conductor.finished
    for task in tasks[3:]:
        sweep.train(task)
    assert sweep.conductor.finished


def test_a_budget_that_ended_the_search_stays_used_up_on_resume(tmp_path: Path) -> None:
    first = finished(tmp_path, "search.patience=4", accuracy=improving_until(2))
    resumed = finished(tmp_path, "search.patience=4", "search.trials=30", accuracy=improving_until(2))

    assert outcome(resumed) == outcome(first)
    assert events_of(tmp_path, "budget_reached") == 1


@pytest.mark.parametrize(
    ("budget", "more"),
    [("search.patience=4", "search.patience=8"), ("search.device_s=2", "search.device_s=4")],
)
def test_a_search_goes_on_when_the_budget_that_ended_it_is_raised(
    tmp_path: Path, budget: str, more: str
) -> None:
    first = finished(tmp_path / "first", budget, accuracy=improving_until(2))
    extended = finished(tmp_path / "first", more, accuracy=improving_until(2))
    at_once = finished(tmp_path / "once", more, accuracy=improving_until(2))

    assert len(first.trials) < len(extended.trials)
    assert outcome(extended) == outcome(at_once)
    assert reached(extended) == reached(at_once)


@pytest.mark.parametrize("budget", ["search.time_s=3600", "search.device_s=4"])
def test_confirmation_leaves_the_budgets_to_a_search_that_is_extended(tmp_path: Path, budget: str) -> None:
    Confirmed(tmp_path / "first", budget).run()
    let_confirmation_take_hours(tmp_path / "first" / "events.jsonl")

    extended = Confirmed(tmp_path / "first", budget, "search.trials=9").run()
    at_once = Confirmed(tmp_path / "once", budget, "search.trials=9").run()

    assert reached(extended) == reached(at_once) == ("trials", 9)
    assert [t.config for t in extended.of_role("search")] == [t.config for t in at_once.of_role("search")]
    assert extended.device_s == pytest.approx(at_once.device_s)
    assert sum(epoch["time_s"] for trial in extended.trials.values() for epoch in trial.epochs) > 4


def let_confirmation_take_hours(path: Path) -> None:
    """Rewrite the clock: a second between two events of the search, ten minutes between those after it."""
    events, now = journal.read(path), 1e9
    ended = next(event["seq"] for event in events if event["kind"] == "budget_reached")
    for event in events:
        now += 600 if event["seq"] > ended else 1
        event["time"] = now
    path.write_text("".join(json.dumps(event) + "\n" for event in events))


def test_the_report_and_the_summary_name_the_budget() -> None:
    story = Story(bands={"edges": EDGES, "cost": "params"})
    story.trial(0, [0.5] * 4)
    story.add("budget_reached", budget="trials", limit=60, value=60, text="all 60 trials had started").ended()
    record = replay(story.events)

    introduction = next(b for b in chapters.opening(record, story.events, None) if isinstance(b, Paragraph))
    assert "The search ended when all 60 trials had started (`search.trials`)." in introduction.text
    assert summary.summary(record, story.events)["budget_reached"] == {
        "budget": "trials",
        "limit": 60,
        "value": 60,
        "text": "all 60 trials had started",
    }
