"""Proposals by expected hypervolume improvement: drawn, encoded, weighed, chosen."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from test_sampler import SPEC, cost_of, record, sampler, sweep

from kdsearch import space
from kdsearch import spec as specs
from kdsearch.records import TrialRecord
from kdsearch.search import features, improvement
from kdsearch.search.drawing import Draw
from kdsearch.search.ehvi import EhviSampler
from kdsearch.search.sampler import Sampler
from kdsearch.spec import SweepSpec

SEARCHED = specs.from_dict(SPEC)


def ehvi_sampler(spec: SweepSpec = SEARCHED, floor: float = 0.2) -> EhviSampler:
    return EhviSampler(spec, 3, lambda: floor, sampler())


def drawn(count: int, **more: object) -> list[Draw]:
    rng = np.random.default_rng(0)
    draws = [Draw(rng, **more) for _ in range(count)]  # type: ignore[arg-type]
    for draw in draws:
        space.suggest(draw, SEARCHED, 3, seed=0)
    return draws


def test_draws_cover_a_logarithmic_range_evenly() -> None:
    exponents = [math.log10(float(draw.params["train.lr"])) for draw in drawn(400)]

    low, high = math.log10(0.01), math.log10(0.3)
    assert min(exponents) >= low
    assert max(exponents) <= high
    assert np.histogram(exponents, bins=4, range=(low, high))[0].min() > 60


def test_steps_are_drawn_as_the_spec_writes_them() -> None:
    rng = np.random.default_rng(0)
    values = Counter(Draw(rng).suggest_float("a", 0.1, 0.9, step=0.2) for _ in range(300))

    assert set(values) == {0.1, 0.3, 0.5, 0.7, 0.9}


def test_whole_numbers_are_drawn_with_both_ends() -> None:
    rng = np.random.default_rng(0)
    stepped = Counter(Draw(rng).suggest_int("a", 8, 20, step=6) for _ in range(300))
    logarithmic = Counter(Draw(rng).suggest_int("a", 1, 4, log=True) for _ in range(600))

    assert set(stepped) == {8, 14, 20}
    assert set(logarithmic) == {1, 2, 3, 4}
    assert logarithmic[1] > logarithmic[4]


def test_a_variation_keeps_most_of_its_parent() -> None:
    parent = drawn(1)[0].params
    kept = [draw.params["train.lr"] == parent["train.lr"] for draw in drawn(300, parent=parent, change=0.3)]

    assert 0.6 < np.mean(kept) < 0.8


def test_numbers_are_places_in_their_range_and_choices_are_apart() -> None:
    distributions = {
        "lr": FloatDistribution(0.01, 1.0, log=True),
        "depth": IntDistribution(8, 20, step=6),
        "method": CategoricalDistribution(["kd", "dist"]),
        "width": CategoricalDistribution([1.0, 0.25, 0.5]),
    }
    params = {"lr": 0.1, "depth": 8, "method": "dist", "width": 0.5}

    assert features.features(params, distributions) == {
        ("lr", None): pytest.approx(0.5),
        ("depth", None): 0.0,
        ("method", "kd"): 0.0,
        ("method", "dist"): pytest.approx(math.sqrt(0.5)),
        ("width", None): 0.5,
    }


def test_what_does_not_apply_is_in_the_middle_and_what_never_differs_is_left_out() -> None:
    rows = [{("lr", None): 0.1, ("t", None): 0.9, ("e", None): 1.0}, {("lr", None): 0.4, ("e", None): 1.0}]

    x, parameters = features.matrix(rows)

    assert parameters == ["lr", "t"]
    assert x.tolist() == [[0.1, 0.9], [0.4, 0.5]]


def test_the_improvement_of_a_certain_student_is_the_area_that_it_adds() -> None:
    front = improvement.staircase([(0.2, 0.5), (0.6, 0.8), (0.9, 0.7)], floor=0.1, start=0.0, end=1.0)

    found = improvement.expected(front, np.array([0.0, 0.4, 0.7]), np.array([[0.3], [0.9], [0.5]]))

    # 0.2 wide above the floor; 0.2 above 0.5 and 0.4 above 0.8; nothing.
    assert found == pytest.approx([0.2 * 0.2, 0.2 * 0.4 + 0.4 * 0.1, 0.0])


def test_an_uncertain_student_is_worth_the_mean_of_what_it_may_add() -> None:
    front = improvement.staircase([(0.0, 0.5)], floor=0.0, start=0.0, end=1.0)

    assert improvement.expected(front, np.array([0.5]), np.array([[0.3, 0.7]])) == pytest.approx([0.5 * 0.1])


def test_a_proposal_is_a_function_of_the_trials_and_the_number_alone() -> None:
    used, trials = ehvi_sampler(), sweep(40)
    earlier = [used.ask(number, trials[:number]) for number in (15, 25, 40)]

    assert [ehvi_sampler().ask(number, trials[:number]) for number in (15, 25, 40)] == earlier


def test_before_anything_is_known_proposals_are_those_of_the_first_sampler() -> None:
    assert ehvi_sampler().ask(3, sweep(3)) == sampler().ask(3, sweep(3))


def test_the_best_rate_is_found_and_cheap_students_come_first() -> None:
    """Accuracy grows with size and peaks at a rate of 0.05, of which only the trials tell."""
    asked = ehvi_sampler()
    trials: list[TrialRecord] = []
    for number in range(40):
        made = asked.ask(number, trials)
        width, lr = float(made.params["student.mlp.width"]), float(made.params["train.lr"])
        end = 0.5 + 0.1 * math.log10(width / 0.01) - 0.3 * abs(math.log10(lr / 0.05))
        ended = record(number, [0.3, 0.3, 0.3, end], width)
        trials.append(dataclasses.replace(ended, params=made.params, distributions=made.distributions))
    rates = [float(trial.params["train.lr"]) for trial in trials[20:]]
    costs = [trial.cost["macs"] for trial in trials]
    drawn_evenly = 10 * 100_000 * (1 - 0.01) / math.log(100)

    assert np.median(np.abs(np.log10(np.array(rates) / 0.05))) < 0.1
    assert np.mean(costs[12:]) < 0.5 * drawn_evenly


def test_beside_a_running_trial_something_else_is_proposed() -> None:
    """The same candidates, but one of them runs: its neighbours promise less now."""
    asked, trials = ehvi_sampler(), sweep(30)
    first = asked.ask(30, trials)
    size, rate = float(first.params["student.mlp.width"]), float(first.params["train.lr"])
    running = dataclasses.replace(
        record(30, [], size, "running"), params=first.params, distributions=first.distributions
    )

    second = asked.ask(30, [*trials, running])

    apart = abs(math.log10(float(second.params["student.mlp.width"]) / size)) / 2
    apart += abs(math.log(float(second.params["train.lr"]) / rate)) / math.log(30)
    assert apart > 0.1


def test_rates_that_diverge_are_not_proposed_again() -> None:
    """Above a rate of 0.05 every training diverges; nothing else is known to differ."""
    asked = ehvi_sampler()
    trials: list[TrialRecord] = []
    for number in range(30):
        made = asked.ask(number, trials)
        width, lr = float(made.params["student.mlp.width"]), float(made.params["train.lr"])
        ended = record(number, [0.3, 0.4, 0.5, 0.5 + 0.1 * math.log10(width / 0.01)], width)
        if lr > 0.05:
            ended = dataclasses.replace(ended, epochs=[], status="failed", reason="diverged")
        trials.append(dataclasses.replace(ended, params=made.params, distributions=made.distributions))

    assert sum(trial.status == "failed" for trial in trials[:10]) >= 3
    assert sum(trial.status == "failed" for trial in trials[15:]) <= 2


def test_in_a_space_of_which_everything_was_tried_a_proposal_still_comes() -> None:
    spec = specs.from_dict(
        {
            **SPEC,
            "student": {"mlp": {"width": {"type": "categorical", "choices": [0.1, 1.0]}}},
            "distill": {"alpha": 0.5, "response": "kd"},
            "train": {"epochs": 4, "lr": 0.1},
        }
    )
    first = Sampler(spec, 3, cost_of)
    trials: list[TrialRecord] = []
    for number in range(20):
        made = first.ask(number, [])
        ended = record(number, [0.3, 0.4, 0.5, 0.6], float(made.params["student.mlp.width"]))
        trials.append(dataclasses.replace(ended, params=made.params, distributions=made.distributions))

    made = EhviSampler(spec, 3, lambda: 0.2, first).ask(20, trials)

    assert made.params["student.mlp.width"] in (0.1, 1.0)
