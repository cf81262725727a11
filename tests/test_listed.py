"""Searches that list their configurations: which trials there are, in which order, with which seeds."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from test_conductor import Sweep, outcome

from kdsearch import data as datasets
from kdsearch import spec
from kdsearch.data.views import Views
from kdsearch.listing import listed
from kdsearch.models.build import build
from kdsearch.records import Choice, replay
from kdsearch.training import Training

RESPONSES = {"none": None, "kd": None, "dkd": None}
TEMPERATURES = {"type": "categorical", "choices": [2.0, 4.0]}
NCKD_WEIGHTS = {"type": "categorical", "choices": [2.0, 8.0]}
WIDTHS = {"type": "categorical", "choices": [0.25, 0.5]}


def listing(sampler, search=None, **sections):
    return spec.from_dict(
        {
            "name": "listed",
            "data": "digits",
            "teacher": {"resnet": {"depth": 8}},
            "student": {"resnet": {"depth": 8, "width": 0.25}},
            "train": {"epochs": 2},
            **sections,
            "search": {"sampler": sampler, **(search or {})},
        }
    )


def said(spec, role="search"):
    """What each listed trial is: its methods, temperature and width."""
    return [
        (
            "+".join(choice.name for choice in trial.config.distill.values()),
            trial.config.temperature,
            trial.config.student.options["width"],
        )
        for trial in listed(spec, 3)
        if trial.role == role
    ]


def test_a_grid_is_every_combination_and_what_distils_nothing_is_a_control():
    grid = listing("grid", distill={"response": RESPONSES, "feature": {"none": None, "fitnet": None}})

    assert said(grid) == [
        ("fitnet", None, 0.25),
        ("dkd", 4.0, 0.25),
        ("dkd+fitnet", 4.0, 0.25),
        ("kd", 4.0, 0.25),
        ("kd+fitnet", 4.0, 0.25),
    ]
    assert said(grid, "control") == [("", None, 0.25)]


def test_one_at_a_time_changes_one_thing_of_the_first_configuration():
    distill = {
        "response": {"none": None, "kd": None, "dkd": {"nckd_weight": NCKD_WEIGHTS}},
        "feature": {"at": {"weight": {"type": "categorical", "choices": [10.0, 100.0]}}, "fitnet": None},
        "relation": {"none": None, "rkd": None},
    }
    one_at_a_time = listing(
        "one_at_a_time", distill=distill, student={"resnet": {"depth": 8, "width": WIDTHS}}
    )

    assert said(one_at_a_time) == [
        ("at", None, 0.25),
        ("at", None, 0.5),
        ("dkd+at", 4.0, 0.25),
        ("kd+at", 4.0, 0.25),
        ("fitnet", None, 0.25),
        ("at", None, 0.25),
        ("at+rkd", None, 0.25),
    ]
    trials = [trial.config.distill for trial in listed(one_at_a_time, 3) if trial.role == "search"]
    assert trials[2]["response"].options["nckd_weight"] == 2.0
    assert [trials[0]["feature"].options["weight"], trials[5]["feature"].options["weight"]] == [10.0, 100.0]


def test_every_student_and_recipe_has_a_control_before_its_partners():
    grid = listing("grid", distill={"response": RESPONSES}, student={"resnet": {"depth": 8, "width": WIDTHS}})

    trials = [(trial.role, trial.number, trial.config.student) for trial in listed(grid, 3)]

    narrow, wide = (
        Choice("resnet", {"depth": 8, "width": width, "stem_ratio": 1.0}) for width in (0.25, 0.5)
    )
    assert trials == [
        ("control", 0, narrow),
        ("search", 0, narrow),
        ("search", 1, narrow),
        ("control", 1, wide),
        ("search", 2, wide),
        ("search", 3, wide),
    ]


def test_every_seed_is_the_same_for_all_configurations_and_seeds_are_outermost():
    trials = listed(listing("grid", {"seeds": 3}, distill={"response": RESPONSES}), 3)

    seeds = [trial.config.seed for trial in trials]

    assert seeds == [0] * 3 + [1] * 3 + [2] * 3
    assert Counter(trial.role for trial in trials) == {"control": 3, "search": 6}
    assert {trial.config.stream for trial in trials} == {0}


def test_another_search_seed_gives_other_seeds():
    def seeds(seed):
        trials = listed(listing("grid", {"seeds": 3, "seed": seed}, distill={"response": "kd"}), 3)
        return {trial.config.seed for trial in trials}

    assert not seeds(0) & seeds(1)


@pytest.mark.parametrize("sampler", ["grid", "one_at_a_time"])
def test_fewer_trials_are_a_prefix(sampler):
    distill = {"response": RESPONSES, "temperature": TEMPERATURES}
    whole = listed(listing(sampler, {"seeds": 2}, distill=distill), 3)
    cut = listed(listing(sampler, {"seeds": 2, "trials": 3}, distill=distill), 3)

    assert cut == whole[: len(cut)]
    assert sum(trial.role == "search" for trial in cut) == 3


def test_without_any_distillation_the_configurations_are_the_search():
    grid = listing("grid", student={"resnet": {"depth": 8, "width": WIDTHS}})

    assert said(grid) == [("", None, 0.25), ("", None, 0.5)]
    assert said(grid, "control") == []


def test_equal_layer_maps_are_run_once():
    maps = {"type": "categorical", "choices": ["last", "stage3>stage3"]}

    assert len(said(listing("grid", distill={"feature": {"fitnet": {"layer_map": maps}}}))) == 1


def test_a_grid_that_nobody_can_have_meant_is_refused():
    batch_size = {"type": "int", "low": 1, "high": 20_000}

    with pytest.raises(ValueError, match="more than 10,000 configurations"):
        listed(listing("grid", train={"epochs": 1, "batch_size": batch_size}), 3)


def test_a_listed_trial_is_journalled_with_its_values_and_their_distributions(tmp_path):
    record = Sweep(tmp_path, *GRID).run()

    trial = record.trials["t0001"]
    assert trial.params == {"distill.feature": "none", "distill.temperature": 4.0, "student.mlp.width": 0.25}
    assert trial.distributions.keys() == trial.params.keys()
    assert trial.config.temperature == 4.0


# The small spec of the conductor's tests, as a grid of 2 * 2 * 2 configurations.
GRID = (
    "search={sampler: grid, seeds: 2}",
    "student={mlp: {width: {type: categorical, choices: [0.25, 0.5]}}}",
    "distill={temperature: {type: categorical, choices: [2, 4]}, response: kd, feature: {fitnet: , none: }}",
    "train.lr=0.1",
)


def test_a_listed_sweep_runs_controls_and_trials_seed_by_seed(tmp_path):
    record = Sweep(tmp_path, *GRID).run()

    names = list(record.trials)
    assert names[:10] == [
        "c0000",
        *(f"t{n:04d}" for n in range(4)),
        "c0001",
        *(f"t{n:04d}" for n in range(4, 8)),
    ]
    assert len(record.of_role("search")) == 16
    assert len(record.of_role("control")) == 4
    assert {trial.status for trial in record.trials.values()} == {"completed"}


def test_every_partner_has_exactly_one_control(tmp_path):
    record = Sweep(tmp_path, *GRID).run()

    controls = [trial.config for trial in record.of_role("control")]

    assert all(controls.count(trial.config.control) == 1 for trial in record.of_role("search"))


@pytest.mark.parametrize("cut", [3, 8, 21, 60, 1000])
def test_a_listed_sweep_cut_anywhere_and_resumed_equals_an_uninterrupted_one(tmp_path, cut):
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = Sweep(tmp_path / "whole", *GRID).run()
    Sweep(tmp_path / "cut", *GRID).run()
    journal = tmp_path / "cut" / "events.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:cut]))

    resumed = Sweep(tmp_path / "cut", *GRID).run()

    assert outcome(resumed) == outcome(whole)


@pytest.mark.parametrize("smaller", ["search.trials=5", "search.seeds=1"])
def test_more_trials_or_seeds_extend_a_finished_listed_sweep(tmp_path, smaller):
    first = Sweep(tmp_path, *GRID, smaller).run()
    extended = Sweep(tmp_path, *GRID).run()
    (tmp_path / "new").mkdir()
    at_once = Sweep(tmp_path / "new", *GRID).run()

    assert outcome(extended)[: len(outcome(first))] == outcome(first)
    assert outcome(extended) == outcome(at_once)


def test_a_listed_sweep_out_of_time_starts_no_control_without_a_partner(tmp_path):
    sweep = Sweep(tmp_path, *GRID, "search.time_s=60")
    for _ in range(5):
        sweep.train(sweep.conductor.next_task())
    sweep.conductor._clock = lambda: sweep.conductor.sweep.last_time + 61

    assert sweep.conductor.next_task() is None
    assert sweep.conductor.finished
    assert [trial.trial_id for trial in replay(sweep.journal.events).of_role("control")] == ["c0000"]


def test_a_control_and_its_partner_share_initial_weights_order_and_views(monkeypatch):
    data = datasets.load(spec.DataSpec("digits"))
    grid = listing("grid", {"seeds": 2}, distill={"response": "kd", "feature": "fitnet"}, train={"epochs": 1})
    seen = []
    take = Views.batch

    def batch(views, indices, epoch, stream):
        taken = take(views, indices, epoch, stream)
        seen.append((taken.indices, taken.images))
        return taken

    monkeypatch.setattr(Views, "batch", batch)
    teacher = build("resnet", {"depth": 8}, data.num_classes, data.in_channels, data.image_size)

    def start_and_batches(trial):
        seen.clear()
        training = Training(trial.config, data, (("crop", {"padding": 1}),), teacher)
        start = torch.cat([value.flatten().float() for value in training.student.state_dict().values()])
        training.run_epoch()
        return start, *(torch.cat(part) for part in zip(*seen, strict=True))

    (first, partner, second, _) = (start_and_batches(trial) for trial in listed(grid, 3))

    assert all(torch.equal(one, other) for one, other in zip(first, partner, strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(first, second, strict=True))
