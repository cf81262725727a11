"""How temperature, alpha and weights move: each schedule at its ends and in between."""

from __future__ import annotations

import dataclasses

import pytest

from kdsearch.losses.alone import epochs_alone, slots_in_force
from kdsearch.records import Choice, TrainConfig, TrialConfig
from kdsearch.schedules import SCHEDULES, Now, now


def trial(schedule: str, epochs: int = 11, **options: float) -> TrialConfig:
    return TrialConfig(
        student=Choice("resnet"),
        train=TrainConfig(epochs=epochs),
        distill={"response": Choice("kd")},
        alpha=0.5,
        temperature=4.0,
        schedule=Choice(schedule, options),
    )


@pytest.mark.parametrize("epoch", [1, 6, 11])
def test_constant_is_the_trials_own_throughout(epoch: int) -> None:
    assert now(trial("constant"), epoch) == Now(alpha=0.5, temperature=4.0, factor=1.0)


@pytest.mark.parametrize(
    ("epoch", "expected"), [(1, Now(0.5, 4.0, 1.0)), (6, Now(0.7, 2.5, 0.5)), (11, Now(0.9, 1.0, 0.0))]
)
def test_linear_goes_from_the_trials_values_to_the_ends(epoch: int, expected: Now) -> None:
    moved = now(trial("linear", alpha_to=0.9, temperature_to=1.0, weights_to=0.0), epoch)
    assert moved.alpha == pytest.approx(expected.alpha)
    assert moved.temperature == pytest.approx(expected.temperature)
    assert moved.factor == pytest.approx(expected.factor)


def test_an_end_that_is_not_given_stays() -> None:
    assert now(trial("linear", temperature_to=1.0), 11) == Now(0.5, 1.0, 1.0)


@pytest.mark.parametrize(("epoch", "temperature"), [(1, 4.0), (6, 3.0), (11, 2.0)])
def test_cosine_has_the_ends_and_the_middle_of_linear(epoch: int, temperature: float) -> None:
    assert now(trial("cosine", temperature_to=2.0), epoch).temperature == pytest.approx(temperature)


def test_cosine_leaves_its_start_slowly() -> None:
    cosine, linear = (now(trial(name, temperature_to=1.0), 3).temperature for name in ("cosine", "linear"))
    assert cosine == pytest.approx(4 - 3 * 0.0954915, rel=1e-6)  # (1 - cos(pi / 5)) / 2
    assert linear == pytest.approx(3.4)


@pytest.mark.parametrize(("epoch", "share"), [(1, 0.2), (4, 0.8), (5, 1.0), (11, 1.0)])
def test_warmup_grows_alpha_and_weights_alone(epoch: int, share: float) -> None:
    assert now(trial("warmup", epochs=10, share=0.5), epoch) == Now(0.5 * share, 4.0, share)


@pytest.mark.parametrize(("epoch", "alpha", "temperature"), [(1, 0.1, 10.0), (6, 0.3, 5.5), (11, 0.5, 1.0)])
def test_progressive_falls_from_10_to_1_and_raises_alpha(
    epoch: int, alpha: float, temperature: float
) -> None:
    moved = now(trial("progressive"), epoch)
    assert moved.alpha == pytest.approx(alpha)
    assert moved.temperature == pytest.approx(temperature)


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"constant"}))
def test_one_epoch_is_a_schedules_end(name: str) -> None:
    ends = {"linear": {"temperature_to": 1.0}, "cosine": {"temperature_to": 1.0}}
    expected = {"warmup": Now(0.5, 4.0, 1.0)}.get(name, Now(0.5, 1.0, 1.0))
    assert now(trial(name, epochs=1, **ends.get(name, {})), 1) == expected


@pytest.mark.parametrize(
    ("options", "epochs", "alone"),
    [({}, 60, 8), ({"alone": 0.5}, 5, 3), ({"alone": 1.0}, 4, 3), ({}, 1, 0)],
)
def test_a_term_trains_alone_for_its_share_and_leaves_the_labels_an_epoch(
    options: dict[str, float], epochs: int, alone: int
) -> None:
    distill = {"response": Choice("kd"), "feature": Choice("ab", options)}
    config = dataclasses.replace(trial("constant", epochs), distill=distill)
    assert epochs_alone(config) == alone
    assert [slots_in_force(config, epoch) for epoch in range(1, epochs + 1)] == [
        *[["feature"]] * alone,
        *[["response"] if alone else ["response", "feature"]] * (epochs - alone),
    ]


def test_most_methods_train_beside_the_labels_from_the_first_epoch() -> None:
    assert epochs_alone(trial("constant")) == 0
