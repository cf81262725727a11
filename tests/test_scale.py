"""The benchmarks of the driver count what they say they count; none of them is run here."""

from __future__ import annotations

from pathlib import Path

import pytest
from journals import Story, config

from benchmarks import mlflow_cost, overhead, scale, waits
from kdsearch.mlflow_mirror import StoredRun
from kdsearch.records import SweepRecord, replay


def slept(*trials: tuple[str, float, float, float], ended: float) -> SweepRecord:
    """A sweep of trials by actor, its birth, the trial's begin and end; the last report came at `ended`."""
    story = Story()
    for number, (actor, born, began, awake) in enumerate(trials):
        story.trial(number, [0.5])
        epoch = next(event for event in reversed(story.events) if event["kind"] == "epoch")
        epoch |= {"node": actor, "terms": {"born": born, "began": began, "ended": awake}}
        story.events[-1]["time"] = ended
    return replay(story.events)


def test_a_driver_that_loses_no_time_is_ideal() -> None:
    found = scale.share_of_ideal(
        slept(("a", 0, 0, 10), ("b", 4, 4, 14), ("a", 0, 10, 20), ("b", 4, 14, 24), ended=24), slots=2
    )
    assert found["ideal_s"] == found["took_s"] == 20
    assert found["of_ideal"] == 1
    assert found["busy"] == pytest.approx(36 / 40)


def test_what_a_slot_waits_between_two_trials_is_missing_from_the_ideal() -> None:
    found = scale.share_of_ideal(
        slept(("a", 0, 0, 10), ("b", 4, 4, 14), ("a", 0, 12, 22), ("b", 4, 19, 29), ended=29), slots=2
    )
    assert (found["ideal_s"], found["took_s"]) == (20, 25)


def test_a_run_that_ended_before_all_slots_were_there_is_refused() -> None:
    with pytest.raises(SystemExit, match="only 1 of 2 slots"):
        scale.share_of_ideal(slept(("a", 0, 0, 10), ended=10), slots=2)


@pytest.mark.parametrize(("scheduler", "sampler"), [("none", "grid"), ("none", "tpe"), ("pareto", "ehvi")])
def test_every_trial_that_is_played_has_its_cost(tmp_path: Path, scheduler: str, sampler: str) -> None:
    _, conductor = scale.begun(tmp_path, 80, scheduler, sampler)
    costs = list(scale.played(conductor, 80))
    assert conductor.num_trials >= 80
    assert len(costs) == len(conductor.sweep.trials) == 80
    assert all(ask > 0 and tell > 0 for ask, tell in costs)
    assert not conductor.running()


def test_costs_are_summed_up_thousand_by_thousand() -> None:
    found = scale.stretches([(0.001, 0.002)] * 1000 + [(0.003, 0.004)] * 500)
    assert [line["to"] for line in found] == [1000, 1500]
    assert [(line["ask_ms"], line["tell_ms"]) for line in found] == [
        pytest.approx((1, 2)),
        pytest.approx((3, 4)),
    ]


def test_slot_seconds_leave_out_each_slots_first_and_last_trial_wherever_it_ran() -> None:
    ends = [9.0, 3.0, 4.0, 8.0, 16.0, 14.0]
    assert overhead.between_ends(ends, 1) == 14 - 3
    assert overhead.between_ends(ends, 2) == (8 + 9) - (3 + 4)


def test_the_bare_trainings_come_in_the_order_in_which_the_sweeps_ended() -> None:
    story = Story()
    for number, ended in enumerate([8.0, 3.0, 4.0]):
        story.trial(number, [0.5], trial_config=config(seed=number))
        story.events[-1]["time"] = ended
    assert [one.seed for one in overhead.in_order(replay(story.events))] == [1, 2, 0]


def test_a_slot_waits_while_no_epoch_of_the_counted_trials_runs() -> None:
    story = Story()
    for number, ended in enumerate([2.0, 3.0, 8.0, 9.0, 15.0, 16.0]):
        story.trial(number, [0.5])
        story.events[-1]["time"] = ended
        story.events[-2] |= {"time_s": 5.5, "cpu_s": 5.0} if number in (2, 3) else {"time_s": 100.0}
    trainings = [waits.of_trial(trial) for trial in replay(story.events).trials.values()]
    assert waits.accounted(trainings, 2) == {"slot_s": (8 + 9) - (2 + 3), "time_s": 11.0, "cpu_s": 10.0}


def test_what_no_training_computes_is_the_sweeps_less_that_of_plain_processes() -> None:
    sweep = {"slot_s": 12.0, "time_s": 11.0, "cpu_s": 10.0}
    alone = {"slot_s": 11.0, "time_s": 10.75, "cpu_s": 10.5}
    tune = {"slot_s": 11.5, "time_s": 11.0, "cpu_s": 10.5}
    text = waits.report([{"a": sweep, "b": alone, "c": tune, "counted": 2, "slots": 2}])
    assert "sweep: a slot waits 0.500 (0.500 to 0.500) s a trial, no training computes 1.000" in text
    assert "processes: a slot waits 0.125 (0.125 to 0.125) s a trial, no training computes 0.250" in text
    assert "less that of plain processes 0.750 (0.750 to 0.750) s a trial; of Ray Tune alone 0.250" in text
    assert "sweep / plain processes 0.952" in text
    assert "beyond plain processes 0.500" in text
    assert "goal 0.1 or less; of Ray Tune alone 0.250" in text


class CountingStore:
    """A store that takes everything and counts how often."""

    def __init__(self) -> None:
        self.points = 0
        self.logs = 0
        self.statuses: list[str] = []

    def connect(self) -> bool:
        return False

    def experiment(self, name: str) -> str:
        return name

    def run(self, run_id: str) -> StoredRun | None:
        return None

    def runs_tagged(self, *about: str) -> list[StoredRun]:
        return []

    def create_run(self, experiment_id: str, name: str, started_ms: int, tags: dict[str, str]) -> StoredRun:
        return StoredRun(name, experiment_id, "RUNNING", 0, {}, tags)

    def log(self, run_id: str, points: list[object], params: dict[str, str], tags: dict[str, str]) -> None:
        self.points, self.logs = self.points + len(points), self.logs + 1

    def set_status(self, run_id: str, status: str, ended_ms: int) -> None:
        self.statuses.append(status)


def test_the_mirror_sends_every_number_but_not_at_every_event(monkeypatch: pytest.MonkeyPatch) -> None:
    store = CountingStore()
    monkeypatch.setattr(mlflow_cost, "MlflowStore", lambda uri: store)
    mlflow_cost.mirrored("", mlflow_cost.events(trials=2, epochs=30, seconds=30.0))
    per_epoch = len(mlflow_cost.metrics(1)) + len(mlflow_cost.TERMS)
    assert store.points == 2 * (30 * per_epoch + 5)  # and three sizes and two times
    assert store.statuses.count("FINISHED") == 3  # two trials and the sweep
    assert store.logs < 20
