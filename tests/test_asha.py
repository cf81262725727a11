"""The stopping rule agrees with Ray's own, and with what its docstring says."""

from types import SimpleNamespace

import numpy as np
import pytest

from kdsearch.search import asha


def test_rungs_grow_by_the_reduction_factor_and_stay_below_the_budget() -> None:
    assert asha.rungs(3, 3, 60) == [3, 9, 27]
    assert asha.rungs(5, 2, 20) == [5, 10]
    assert asha.rungs(5, 2, 5) == []


def test_the_first_arrival_goes_on() -> None:
    assert not asha.is_stopped(0.0, [], 3)


def test_only_the_better_half_goes_on_at_a_reduction_of_two() -> None:
    recorded = [0.1, 0.2, 0.5, 0.6, 0.9]

    assert [accuracy for accuracy in recorded if not asha.is_stopped(accuracy, recorded, 2)] == [
        0.5,
        0.6,
        0.9,
    ]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_every_decision_is_the_one_of_rays_asha_scheduler(seed: int) -> None:
    from ray.tune.schedulers import ASHAScheduler

    accuracies = np.random.default_rng(seed).uniform(size=(60, 27)).round(2)
    theirs = ASHAScheduler(
        time_attr="epoch", metric="accuracy", mode="max", max_t=27, grace_period=3, reduction_factor=3
    )
    seen: dict[int, list[float]] = {3: [], 9: []}
    for number, curve in enumerate(accuracies):
        trial = SimpleNamespace(trial_id=str(number))
        theirs.on_trial_add(None, trial)
        for rung in asha.rungs(3, 3, 27):
            ours = asha.is_stopped(curve[rung - 1], seen[rung], 3)
            seen[rung].append(curve[rung - 1])
            their = theirs.on_trial_result(None, trial, {"epoch": rung, "accuracy": curve[rung - 1]})
            assert ours == (their == "STOP")
            if ours:
                break
