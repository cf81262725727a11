"""What is proposed: from which trials, of which size, and what Optuna hears of a stopped one."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import pytest
from optuna.trial import TrialState

from kdsearch import spec as specs
from kdsearch.records import Choice, Event, TrialRecord, trial_id
from kdsearch.search import fidelity
from kdsearch.search.sampler import Policy, Sampler

SPEC = {
    "name": "small",
    "data": {"dataset": "digits"},
    "teacher": {"resnet": {"depth": 8, "train": {"epochs": 2}}},
    "student": {"mlp": {"width": {"type": "float", "low": 0.01, "high": 1.0, "log": True}}},
    "distill": {
        "alpha": {"type": "float", "low": 0.1, "high": 0.9},
        "response": "kd",
    },
    "train": {"epochs": 4, "lr": {"type": "float", "low": 0.01, "high": 0.3, "log": True}},
    "search": {"trials": 200, "early_stopping": "none"},
}


def cost_of(student: Choice) -> dict[str, float]:
    params = 100_000 * float(student.options["width"])
    return {"params": params, "macs": 10 * params, "size_mb": params / 250_000}


def sampler(**policy: object) -> Sampler:
    return Sampler(specs.from_dict(SPEC), 3, cost_of, Policy(**policy))  # type: ignore[arg-type]


def record(number: int, accuracies: Sequence[float], width: float, status: str = "completed") -> TrialRecord:
    """A search trial of this width, with the proposal's own params beside it."""
    made = sampler(first_draws=1).ask(number, [])
    config = dataclasses.replace(made.config, student=Choice("mlp", {"depth": 2, "width": width}))
    epochs: list[Event] = [{"epoch": e, "metrics": {"val_accuracy": a}} for e, a in enumerate(accuracies, 1)]
    return TrialRecord(
        trial_id=trial_id("search", number),
        number=number,
        role="search",
        seed=number,
        config=config,
        cost=cost_of(config.student),
        band=0,
        params={**made.params, "student.mlp.width": width},
        distributions=made.distributions,
        max_epochs=4,
        status=status,  # type: ignore[arg-type]
        epochs=epochs,
    )


def sweep(count: int) -> list[TrialRecord]:
    """Trials spread over the sizes, every third of them stopped."""
    widths = [0.01 * 100 ** (((number * 7) % count) / count) for number in range(count)]
    return [
        record(n, [0.3, 0.4 + 0.1 * math.sin(n)], w, "stopped")
        if n % 3
        else record(n, [0.3, 0.5, 0.6, 0.7 + 0.1 * math.sin(n)], w)
        for n, w in enumerate(widths)
    ]


def test_a_stopped_trial_is_carried_on_by_the_median_gain_of_the_finished_ones() -> None:
    stopped = record(0, [0.3, 0.5], 0.1, "stopped")
    finished = [record(n, [0.2, 0.6, 0.7, 0.6 + gain], 0.1) for n, gain in enumerate([0.1, 0.3, 0.2], 1)]

    assert fidelity.final_accuracy(stopped, finished) == pytest.approx(0.7)


def test_the_gain_is_that_of_the_sizes_nearest() -> None:
    stopped = record(0, [0.3], 0.1, "stopped")
    near = [record(n, [0.2, 0.3, 0.3, 0.4], 0.1) for n in range(fidelity.NEAREST)]
    far = [record(n, [0.2, 0.3, 0.3, 0.9], 1.0) for n in range(100)]

    assert fidelity.final_accuracy(stopped, [*far, *near]) == pytest.approx(0.5)


def test_nobody_is_carried_on_by_one_that_had_not_begun_to_learn_the_labels() -> None:
    stopped = record(0, [0.3], 0.1, "stopped")
    usual = record(1, [0.2, 0.3, 0.3, 0.4], 0.1)
    late = [
        dataclasses.replace(one, config=dataclasses.replace(one.config, distill={"feature": Choice("fsp")}))
        for one in (record(number, [0.1, 0.5, 0.7, 0.9], 0.1) for number in range(2, 6))
    ]
    assert fidelity.final_accuracy(stopped, [usual, *late]) == pytest.approx(0.5)
    assert fidelity.final_accuracy(stopped, late) is None


def test_a_carried_on_accuracy_is_one_at_most() -> None:
    stopped = record(0, [0.9], 0.1, "stopped")

    assert fidelity.final_accuracy(stopped, [record(1, [0.1, 0.2, 0.3, 0.9], 0.1)]) == 1.0


def test_nothing_is_carried_on_before_a_trial_has_finished() -> None:
    assert fidelity.final_accuracy(record(0, [0.9], 0.1, "stopped"), []) is None


@pytest.mark.parametrize(
    ("stopped", "state", "accuracy", "constraints"),
    [
        ("pruned", TrialState.PRUNED, None, {}),
        ("constrained", TrialState.COMPLETE, 0.5, {"epochs left": 2.0}),
        ("extrapolated", TrialState.COMPLETE, 0.8, {}),
    ],
)
def test_what_optuna_hears_of_a_stopped_trial(
    stopped: str, state: TrialState, accuracy: float | None, constraints: dict[str, float]
) -> None:
    trials = [record(0, [0.3, 0.5], 0.1, "stopped"), record(1, [0.3, 0.5, 0.6, 0.8], 0.1)]

    heard, finished = sampler(stopped=stopped).told(trials)

    assert (heard.state, heard.values and heard.values[0], heard.constraints) == (
        state,
        accuracy,
        constraints,
    )
    assert finished.values == [0.8, pytest.approx(4.0)]


def test_a_stopped_trial_is_pruned_until_there_is_a_gain_to_add() -> None:
    only = sampler()
    trials = [record(0, [0.3, 0.5], 0.1, "stopped"), record(1, [0.3], 0.1, "running")]

    assert [trial.state for trial in only.told(trials)] == [TrialState.PRUNED, TrialState.RUNNING]
    trials[1] = record(1, [0.3, 0.5, 0.6, 0.8], 0.1)
    assert [trial.state for trial in only.told(trials)] == [TrialState.COMPLETE, TrialState.COMPLETE]
    assert only.told(trials)[0].values == [pytest.approx(0.8), pytest.approx(4.0)]


def test_failed_trials_are_not_told() -> None:
    assert sampler().told([record(0, [0.3], 0.1, "failed")]) == []


def test_a_proposal_is_a_function_of_the_trials_and_the_number_alone() -> None:
    used, trials = sampler(), sweep(40)
    earlier = [used.ask(number, trials[:number]) for number in (12, 25, 40)]

    assert [sampler().ask(number, trials[:number]) for number in (12, 25, 40)] == earlier


def test_the_sizes_asked_for_cover_the_axis_evenly_however_many_there_are() -> None:
    asked = sampler()
    for count in (5, 20, 100):
        targets = sorted(asked.target(number) for number in range(count))
        gaps = [b - a for a, b in itertools.pairwise([3.0, *targets, 5.0])]
        assert max(gaps) <= 2 * 2.0 / count


def test_the_first_proposals_cover_the_sizes() -> None:
    asked = sampler()
    sizes = sorted(math.log10(cost_of(asked.ask(n, []).config.student)["params"]) for n in range(9))

    assert max(b - a for a, b in itertools.pairwise([3.0, *sizes, 5.0])) < 0.8


def test_a_proposal_learns_from_the_trials_nearest_to_its_size() -> None:
    asked, trials = sampler(window=40), sweep(90)
    target = asked.target(90)
    by_distance = sorted(trials, key=lambda t: abs(math.log10(t.cost["params"]) - target))
    far = {trial.trial_id for trial in by_distance[40:]}
    changed = [
        record(t.number, [0.1, 0.1, 0.1, 0.99], 0.01 if target > 4 else 1.0) if t.trial_id in far else t
        for t in trials
    ]

    assert asked.ask(90, changed) == asked.ask(90, trials)
    assert sampler(window=None).ask(90, changed) != sampler(window=None).ask(90, trials)


def test_what_was_tried_is_not_proposed_again_while_there_is_something_else() -> None:
    spec = specs.from_dict(
        {
            **SPEC,
            "student": {"mlp": {"width": {"type": "categorical", "choices": [0.1, 0.5, 1.0]}}},
            "distill": {"response": "kd"},
            "train": {
                "epochs": 4,
                "lr": {"type": "categorical", "choices": [0.01 * n for n in range(1, 31)]},
            },
        }
    )
    asked = Sampler(spec, 3, cost_of)
    trials: list[TrialRecord] = []
    for number in range(60):
        made = asked.ask(number, trials)
        width = made.config.student.options["width"]
        ended = record(number, [0.3, 0.4, 0.5, 0.6 + 0.1 * width], width)
        trials.append(dataclasses.replace(ended, params=made.params, distributions=made.distributions))

    assert len({tuple(sorted(trial.params.items())) for trial in trials}) == 60
