"""What follows the search: tuned controls, repeats with fresh seeds, their pairs, the sealed test split."""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from journals import Story, config
from kill import Killable

from kdsearch import data as datasets
from kdsearch import pairing, plan, progress
from kdsearch import spec as specs
from kdsearch.data.views import Views
from kdsearch.journal import Journal
from kdsearch.models.build import build
from kdsearch.records import Choice, SweepRecord, TrainConfig, TrialConfig, TrialRecord, replay
from kdsearch.search.afterwards import Afterwards, first_seeds, most_trainings
from kdsearch.search.conductor import Conductor
from kdsearch.search.messages import Report, Task
from kdsearch.search.sealed import SealedError, SealedTest
from kdsearch.search.tuning import points
from kdsearch.session import begin
from kdsearch.spec import DataSpec
from kdsearch.training import Training

SPEC = """
name: small
data: {dataset: digits}
teacher: {resnet: {depth: 8, train: {epochs: 2}}}
student:
  resnet: {depth: 8, width: {type: float, low: 0.25, high: 1.0, step: 0.25}}
distill:
  temperature: {type: float, low: 1, high: 16, log: true}
  alpha: 0.5
  response: kd
train: {epochs: 2, lr: {type: float, low: 0.01, high: 0.3, log: true}}
search: {trials: 6, early_stopping: {scheduler: none}}
confirm: {seeds: 3, tuning: 3}
"""
NUM_TEST = 359


def cost_of(student: Choice) -> dict[str, float]:
    params = 4000 * float(student.options["width"])
    return {"params": params, "macs": 10 * params, "size_mb": params / 250_000}


class Sweep:
    """A sweep whose trainings are made up: accuracy by width, recipe and luck, all epochs in one report."""

    def __init__(self, folder: Path, *changes: str, num_test: int = NUM_TEST, luck: float = 0.01) -> None:
        folder.mkdir(exist_ok=True)
        path = folder / "small.yaml"
        path.write_text(SPEC)
        self.spec = specs.load(path, list(changes))
        self.journal = Journal(folder)
        begin(self.spec, self.journal, cost_of, data={"num_validation": 1000})
        self.conductor = Conductor(self.spec, self.journal, 3, cost_of, num_test=num_test)
        self.luck = luck

    @property
    def sweep(self) -> SweepRecord:
        return self.conductor.sweep

    def accuracy(self, config: TrialConfig) -> float:
        gain = 0.02 * config.is_distilled - 0.02 * abs(config.train.lr - 0.1)
        chance = random.Random(pairing.key(config))
        return 0.9 + 0.05 * float(config.student.options["width"]) + gain + chance.uniform(0, self.luck)

    def report(self, task: Task, tested: bool = True) -> None:
        metrics = {"train_loss": 1.0, "val_accuracy": self.accuracy(task.config), "lr": 0.1}
        about = {"metrics": metrics, "terms": {"label": 1.0}, "time_s": 0.1, "cpu_s": 0.1}
        report = Report(
            [{"epoch": epoch, **about} for epoch in (1, 2)],
            finished=True,
            student=f"students/{task.trial_id}",
            test_accuracies=[self.accuracy(task.config) - 0.01] if task.opens_test else [],
        )
        self.conductor.on_report(task.trial_id, task.attempt, Report.from_json(report.to_json()))

    def next(self) -> Task | None:
        task = self.conductor.next_task()
        return task and Task.from_json(task.to_json())

    def search(self) -> None:
        """Run floors and search trials: what is started while some are left to start."""
        while len(self.sweep.of_role("search")) < self.conductor.num_trials:
            self.report(self.next())

    def run(self) -> SweepRecord:
        while (task := self.next()) is not None:
            self.report(task)
        assert self.conductor.finished
        self.journal.close()
        return replay(self.journal.events)


def purposes(record: SweepRecord) -> Counter[str]:
    return Counter(trial.purpose for trial in record.of_role("control"))


def started(record: SweepRecord) -> list[str]:
    return [
        json.dumps([t.trial_id, t.purpose, t.partner, t.config.to_json()]) for t in record.trials.values()
    ]


def controls(record: SweepRecord, purpose: str) -> list[TrialRecord]:
    return [trial for trial in record.of_role("control") if trial.purpose == purpose]


def test_every_student_near_the_front_is_repeated_beside_its_controls(tmp_path: Path) -> None:
    record = Sweep(tmp_path).run()

    near, confirmed = pairing.near_front(record), pairing.confirmed(record)
    assert [one.student.trial_id for one in confirmed] == [trial.trial_id for trial in near]
    assert all(len(one.runs) >= 2 for one in confirmed)
    assert all(None not in one.no_kd + one.kd for one in confirmed)


def test_the_budget_is_the_seeds_of_each_front_student_and_two_of_each_contender(tmp_path: Path) -> None:
    record = Sweep(tmp_path).run()

    on_front = {trial.trial_id for trial in pairing.front(record)}
    near = {trial.trial_id for trial in pairing.near_front(record)}
    assert len(near) > len(on_front)
    assert len(record.of_role("confirm")) == 3 * len(on_front) + 2 * len(near - on_front)


def test_repeat_k_has_the_same_seed_and_views_for_every_student(tmp_path: Path) -> None:
    record = Sweep(tmp_path).run()

    by_stream: dict[int, set[int]] = {}
    for run in record.of_role("confirm"):
        by_stream.setdefault(run.config.stream, set()).add(run.seed)
    assert set(by_stream) >= {1, 2}
    assert all(len(seeds) == 1 for seeds in by_stream.values())
    assert len(set.union(*by_stream.values())) == len(by_stream)
    assert not set.union(*by_stream.values()) & {trial.seed for trial in record.of_role("search")}


def test_no_training_is_run_twice(tmp_path: Path) -> None:
    record = Sweep(tmp_path).run()

    paired = [*controls(record, "no_kd"), *controls(record, "kd")]
    assert len({pairing.key(trial.config) for trial in paired}) == len(paired)


def test_both_arms_are_tuned_at_the_same_points_the_partners_own_first(tmp_path: Path) -> None:
    record = Sweep(tmp_path).run()

    tried = {
        purpose: {(t.band, t.config.train.lr, t.config.train.weight_decay) for t in controls(record, purpose)}
        for purpose in ("tune_no_kd", "tune_kd")
    }
    assert tried["tune_no_kd"] == tried["tune_kd"]
    for purpose in tried:
        first = {}
        for trial in controls(record, purpose):
            first.setdefault(trial.band, trial)
        assert {
            trial.config.train == record.trials[trial.partner].config.train for trial in first.values()
        } == {True}
    bands = {trial.band for trial in pairing.near_front(record)}
    assert Counter(t.band for t in controls(record, "tune_kd")) == dict.fromkeys(bands, 3)


def test_a_control_has_the_recipe_that_was_best_on_validation(tmp_path: Path) -> None:
    record = Sweep(tmp_path, luck=0.0).run()

    for trial in controls(record, "no_kd"):
        tried = [one for one in controls(record, "tune_no_kd") if one.band == trial.band]
        nearest = min(tried, key=lambda one: abs(one.config.train.lr - 0.1))
        assert trial.config.train.lr == nearest.config.train.lr


def test_where_neither_lr_nor_weight_decay_is_searched_nothing_is_tuned(tmp_path: Path) -> None:
    record = Sweep(tmp_path, "train.lr=0.1").run()

    assert set(purposes(record)) == {"floor", "no_kd", "kd"}


def test_without_seeds_nothing_follows_the_search(tmp_path: Path) -> None:
    record = Sweep(tmp_path, "confirm.seeds=0").run()

    assert set(purposes(record)) == {"floor"}
    assert record.of_role("confirm") == []


def test_controls_are_tuned_while_the_last_search_trial_runs_and_repeats_wait_for_it(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    while len(sweep.sweep.of_role("search")) < 5:
        sweep.report(sweep.next())
    last = sweep.next()
    tuning = []
    while (task := sweep.next()) is not None:
        tuning.append(task)
        sweep.report(task)

    assert last.trial_id == "t0005"
    assert not sweep.conductor.finished
    assert {sweep.sweep.trials[task.trial_id].purpose for task in tuning} == {"tune_no_kd", "tune_kd"}
    sweep.report(last)
    sweep.run()
    assert replay(sweep.journal.events).of_role("confirm")


def test_controls_wait_for_the_tuning_of_their_band_and_repeats_do_not(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    sweep.search()
    running = []
    while (task := sweep.next()) is not None:
        running.append(task)
    seen = [sweep.sweep.trials[task.trial_id] for task in running]

    assert {(trial.role, trial.purpose) for trial in seen} == {
        ("control", "tune_no_kd"),
        ("control", "tune_kd"),
        ("confirm", ""),
    }


def test_a_repeat_more_goes_where_membership_is_most_uncertain(tmp_path: Path) -> None:
    spec = Sweep(tmp_path, "train.lr=0.05").spec
    story = Story(data={"num_validation": 1000}).teacher()
    values = {0.25: 0.5, 0.5: 0.9, 0.75: 0.899}  # the last two are as good as equal, the first is far below
    params = {0.25: 5_000, 0.5: 20_000, 0.75: 19_000}

    def trial(number: int, made: TrialConfig, **about: str) -> None:
        width = made.student.options["width"]
        value = values[width] + 0.004 * (made.stream % 2)
        story.trial(number, [value], params[width], trial_config=made, **about)

    for number, width in enumerate(values):
        trial(number, config("resnet", {"depth": 8, "width": width}, temperature=2.0))
    wanted = Afterwards(spec, replay(story.events)).next()
    while (wanted.role, wanted.config.stream) != ("confirm", 3):
        about = {"role": wanted.role, "purpose": wanted.purpose, "partner": wanted.partner}
        trial(wanted.number, wanted.config, **about)
        wanted = Afterwards(spec, replay(story.events)).next()

    assert wanted.partner in ("t0001", "t0002")


def test_the_journal_says_that_the_test_split_is_opened_before_a_worker_hears_of_it(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    while (task := sweep.next()) is not None:
        trial = sweep.sweep.trials[task.trial_id]
        opened = [event for event in sweep.journal.events if event["kind"] == "test_opened"]
        is_for_it = trial.role == "confirm" or trial.purpose in ("no_kd", "kd")
        assert task.opens_test == is_for_it
        assert (task.trial_id in {event["trial_id"] for event in opened}) == is_for_it
        assert {event["num_images"] for event in opened} <= {NUM_TEST}
        sweep.report(task)
    tested = {t.trial_id for t in sweep.sweep.trials.values() if t.test_accuracy is not None}

    assert tested == {event["trial_id"] for event in sweep.sweep.test_openings}
    assert tested


def test_a_retried_attempt_is_one_opening_more(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    while (task := sweep.next()) is not None and not task.opens_test:
        sweep.report(task)
    sweep.conductor.on_lost_worker(task.trial_id, "killed")

    again = sweep.next()

    assert (again.trial_id, again.attempt, again.opens_test) == (task.trial_id, 2, True)
    assert [event["attempt"] for event in sweep.sweep.test_openings] == [1, 2]


def test_without_a_test_split_students_are_confirmed_on_validation_alone(tmp_path: Path) -> None:
    record = Sweep(tmp_path, num_test=0).run()

    assert record.test_openings == []
    assert record.of_role("confirm")
    assert {trial.test_accuracy for trial in record.trials.values()} == {None}


def test_a_sealed_split_opens_for_an_allowed_task_alone() -> None:
    split = datasets.load_test(DataSpec(dataset="digits"))
    sealed = SealedTest(split)
    config = TrialConfig(Choice("mlp"), TrainConfig(epochs=1))
    search = Task("t0000", 1, config, ())

    with pytest.raises(SealedError, match="t0000 may not open the test split"):
        sealed.open(search)
    assert sealed.open(dataclasses.replace(search, opens_test=True)) is split
    assert len(sealed) == NUM_TEST


@pytest.mark.parametrize("share", [0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 0.97])
def test_a_sweep_cut_anywhere_and_resumed_starts_the_same_trials(tmp_path: Path, share: float) -> None:
    whole = Sweep(tmp_path / "whole").run()
    Sweep(tmp_path / "cut").run()
    journal = tmp_path / "cut" / "events.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[: int(share * len(lines))]))

    resumed = Sweep(tmp_path / "cut").run()

    assert started(resumed) == started(whole)


def test_more_seeds_on_resume_add_repeats_and_rerun_nothing(tmp_path: Path) -> None:
    before = Sweep(tmp_path).run()
    after = Sweep(tmp_path, "confirm.seeds=5").run()

    assert started(after)[: len(before.trials)] == started(before)
    assert len(after.of_role("confirm")) == 5 * len(pairing.front(after)) + 2 * (
        len(pairing.near_front(after)) - len(pairing.front(after))
    )
    assert purposes(after)["tune_kd"] == purposes(before)["tune_kd"]


def test_more_search_trials_on_resume_bring_new_students_to_confirmation(tmp_path: Path) -> None:
    before = Sweep(tmp_path).run()
    after = Sweep(tmp_path, "search.trials=20").run()

    assert started(after)[: len(before.trials)] == started(before)
    assert {one.student.trial_id for one in pairing.confirmed(after)} >= {
        trial.trial_id for trial in pairing.near_front(after)
    }


def test_a_search_that_ran_out_of_time_is_still_confirmed(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "search.time_s=60")
    for _ in range(5):
        sweep.report(sweep.next())
    sweep.conductor._clock = lambda: sweep.sweep.last_time + 61

    record = sweep.run()

    assert len(record.of_role("search")) < 6
    assert record.of_role("confirm")


def test_a_failed_repeat_has_no_controls_and_is_not_run_again(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    while (task := sweep.next()) is not None:
        if task.trial_id[0] == "r":
            diverged = Report(error="not finite", reason="diverged")
            sweep.conductor.on_report(task.trial_id, task.attempt, diverged)
        else:
            sweep.report(task)

    near = pairing.near_front(sweep.sweep)
    assert sweep.conductor.finished
    assert len(sweep.sweep.of_role("confirm")) == 2 * len(near)
    assert "kd" not in purposes(sweep.sweep)


def test_what_is_left_is_shown_by_stage_and_reaches_nothing(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    assert progress.stage(sweep.conductor.left) == ""
    sweep.search()
    num_near = len(pairing.near_front(sweep.sweep))
    left = sweep.conductor.left
    num_before = len(sweep.sweep.trials)
    record = sweep.run()

    assert f"{left.repeats} repeats of the front" in progress.stage(left)
    assert left.tuning == purposes(record)["tune_kd"] + purposes(record)["tune_no_kd"]
    assert left.repeats == len(record.of_role("confirm"))
    assert left.total >= len(record.trials) - num_before
    assert sweep.conductor.left.total == 0
    assert num_near > 1


def test_most_trainings_bound_what_a_place_of_the_front_costs() -> None:
    assert [first_seeds(seeds) for seeds in (1, 2, 3, 6)] == [1, 2, 2, 4]
    assert most_trainings(3, 4) == (15, 8)
    assert most_trainings(1, 1) == (6, 0)
    assert most_trainings(0, 4) == (0, 0)


def test_a_dry_run_counts_what_may_follow_the_search(tmp_path: Path) -> None:
    spec = Sweep(tmp_path).spec
    fixed = specs.load(tmp_path / "small.yaml", ["train.lr=0.1"])

    # Five on the front: 5 * 15 trainings, and 2 arms * 3 points * 3 bands.
    assert plan.confirmation(spec, 1.0).endswith(
        "and 18 to tune the controls; with 5 on the front at most 1m 33s"
    )
    assert "at most 15 further trainings for each student" in plan.confirmation(fixed, 1.0)
    assert "tune" not in plan.confirmation(fixed, 1.0)


def test_tuning_points_fill_the_ranges_and_lie_on_their_grids(tmp_path: Path) -> None:
    grid = "train.weight_decay={type: float, low: 0.0, high: 0.5, step: 0.25}"
    spec = Sweep(tmp_path, "confirm.tuning=5", grid).spec
    own = TrainConfig(epochs=2, lr=0.2, weight_decay=0.1)

    found = points(spec, own, band=1)

    assert found[0] == (0.2, 0.1)
    quarters = [0.01 * 30 ** (quarter / 4) for quarter in range(5)]
    rates = sorted(lr for lr, _ in found[1:])
    assert all(low <= lr <= high for lr, low, high in zip(rates, quarters[:-1], quarters[1:], strict=True))
    assert {decay for _, decay in found[1:]} <= {0.0, 0.25, 0.5}
    assert points(spec, own, band=1) == found != points(spec, own, band=2)


def test_a_pair_begins_with_the_same_weights_and_sees_the_same_batches() -> None:
    images = datasets.load(DataSpec(dataset="digits", subset=160))
    torch.manual_seed(0)
    teacher = build("resnet", {"depth": 8, "width": 0.5}, 10, 1, 8)
    fitnet = Choice("fitnet", {"weight": 10.0, "layer_map": "stage2>stage2"})
    partner = TrialConfig(
        Choice("resnet", {"depth": 8, "width": 0.25}),
        TrainConfig(epochs=1, batch_size=64, lr=0.05),
        {"response": Choice("kd"), "feature": fitnet},
        alpha=0.5,
        temperature=8.0,
        seed=11,
        stream=2,
    )
    header = {"kind": "sweep_started", "time": 0.0, "seed": 0}
    sweep = replay([header])

    def seen(config: TrialConfig) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
        training = Training(config, images, (("crop", {"padding": 1}),), teacher)
        weights = {name: tensor.clone() for name, tensor in training.student.state_dict().items()}
        batches: list[torch.Tensor] = []
        outputs = training.student.outputs
        training.student.outputs = lambda x, *more: (batches.append(x.clone()), outputs(x, *more))[1]
        training.run_epoch()
        return weights, batches

    weights, batches = seen(partner)
    for arm in pairing.ARMS:
        tuned = pairing.with_recipe(pairing.plain(sweep, partner, arm), 0.2, 1e-3)
        own_weights, own_batches = seen(tuned)
        assert all(torch.equal(weights[name], own_weights[name]) for name in weights | own_weights)
        assert len(batches) == len(own_batches)
        assert all(torch.equal(a, b) for a, b in zip(batches, own_batches, strict=True))


def test_students_are_measured_on_images_of_another_split() -> None:
    images, test = datasets.load(DataSpec(dataset="digits")), datasets.load_test(DataSpec(dataset="digits"))
    config = TrialConfig(Choice("mlp", {"depth": 1, "width": 0.5}), TrainConfig(epochs=1, lr=0.1))
    training = Training(config, images)
    training.run_epoch()
    views = Views(test, images.mean, images.std, (), torch.device("cpu"))

    (accuracy,) = training.accuracies_on(views, "test")

    with torch.no_grad():
        logits = training.student(views.plain(torch.arange(len(test))).images)
    assert accuracy == (logits.argmax(1) == torch.from_numpy(test.labels.copy())).double().mean().item()


def test_a_sampler_that_lists_is_not_confirmed(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(SPEC)
    listing = [
        "search={sampler: grid}",
        "train.lr=0.1",
        "distill.temperature=4",
    ]

    with pytest.raises(specs.SpecError, match="confirm.seeds: 3: 0 with sampler grid.*give search.seeds"):
        specs.load(path, listing)
    path.write_text(SPEC.replace("confirm: {seeds: 3, tuning: 3}\n", ""))
    assert specs.load(path, listing).confirm.seeds == 0


@pytest.mark.slow
def test_a_sweep_ends_with_test_accuracies_of_its_front_and_controls(tmp_path: Path) -> None:
    sweep = Killable(tmp_path, trials=3, epochs=3)

    assert sweep.run("--set", "confirm.seeds=2", "--set", "confirm.tuning=2") == 0, sweep.log()

    record = sweep.record()
    confirmed = pairing.confirmed(record)
    tested = [run for one in confirmed for run in one.runs + one.no_kd + one.kd]
    assert [one.student.trial_id for one in confirmed] == [t.trial_id for t in pairing.near_front(record)]
    assert all(0.05 < run.test_accuracy <= 1 for run in tested)
    assert {event["num_images"] for event in record.test_openings} == {NUM_TEST}
    assert all((sweep.output / run.student / "student.safetensors").is_file() for run in tested)
    assert sweep.mlflow_problems(record) == []
