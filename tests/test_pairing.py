"""Who is near the front, and which trials are whose, on journals that a test wrote."""

from __future__ import annotations

from dataclasses import replace

import pytest
from journals import Story, config

from kdsearch import pairing
from kdsearch.records import Choice, TrialConfig, replay

DATA = {"num_validation": 1000}


def story() -> Story:
    return Story(data=DATA).teacher()


def of(width: float, lr: float = 0.05, seed: int = 0, stream: int = 0, **more: object) -> TrialConfig:
    made = config("resnet", {"depth": 20, "width": width}, lr=lr, seed=seed, **more)
    return replace(made, stream=stream)


def ids(trials: list[pairing.TrialRecord]) -> list[str]:
    return [trial.student_id for trial in trials]


def test_what_noise_may_have_kept_off_the_front_is_near_it() -> None:
    made = story()
    made.trial(0, [0.80], params=10_000, trial_config=of(0.25))
    made.trial(1, [0.79], params=10_500, trial_config=of(0.3))  # 1 point below, noise 2.9 points
    made.trial(2, [0.90], params=40_000, trial_config=of(0.5))
    made.trial(3, [0.86], params=41_000, trial_config=of(0.6))  # 4 points below, noise 2.2
    sweep = replay(made.events)

    assert ids(pairing.near_front(sweep)) == ["t0000", "t0001", "t0002"]


def test_each_place_of_the_front_has_one_contender_the_nearest() -> None:
    made = story()
    made.trial(0, [0.80], params=10_000)
    for number, value in enumerate([0.785, 0.795, 0.795], start=1):
        made.trial(number, [value], params=10_000 + number, trial_config=of(0.25, lr=number / 100))

    assert ids(pairing.near_front(replay(made.events))) == ["t0000", "t0002"]


def test_a_contender_is_measured_against_students_no_more_costly_in_anything() -> None:
    made = Story(data=DATA, objectives=["val_accuracy", "params", "macs"])
    made.trial(0, [0.80], params=10_000, macs=900, trial_config=of(0.25))
    made.trial(1, [0.95], params=12_000, macs=5_000, trial_config=of(0.3))
    made.trial(2, [0.79], params=13_000, macs=1_000, trial_config=of(0.35))

    assert ids(pairing.near_front(replay(made.events))) == ["t0000", "t0001", "t0002"]


def test_stopped_and_failed_trials_and_controls_are_never_near_the_front() -> None:
    made = story()
    made.trial(0, [0.80], params=10_000)
    made.trial(1, [0.80], params=10_000, status="stopped")
    made.trial(2, [0.80], params=10_000, status="failed")
    made.trial(0, [0.99], params=9_000, role="control")

    assert ids(pairing.near_front(replay(made.events))) == ["t0000"]


def test_trials_that_differ_in_their_seed_alone_are_one_student_and_repeated_once() -> None:
    made = story()
    for number, value in enumerate([0.79, 0.80, 0.795]):
        made.trial(number, [value], params=10_000, trial_config=of(0.25, seed=number))
    sweep = replay(made.events)
    again = pairing.repeat(sweep, sweep.trials["t0001"], 1)
    made.trial(0, [0.78], role="confirm", trial_config=again, partner="t0001")
    sweep = replay(made.events)

    assert ids(pairing.near_front(sweep)) == ["t0001"]
    assert [one.student.trial_id for one in pairing.confirmed(sweep)] == ["t0001"]
    assert ids(pairing.repeats(sweep, sweep.trials["t0002"])) == ["r0000"]


def test_noise_is_what_the_split_leaves_open_until_repeats_show_more() -> None:
    made = story()
    binomial = pairing.noise(replay(made.events), 0.8)
    made.trial(0, [0.7], role="control", trial_config=of(0.25, distill={}))
    made.trial(1, [0.8], role="control", trial_config=of(0.25, distill={}, seed=7))
    made.trial(2, [0.1], role="control", trial_config=of(0.5, distill={}))

    assert binomial == pytest.approx((0.8 * 0.2 / 1000) ** 0.5)
    assert pairing.noise(replay(made.events), 0.8) == pytest.approx(0.1 / 2**0.5)


def test_a_repeat_differs_in_seed_and_stream_alone() -> None:
    made = story()
    made.trial(0, [0.8], trial_config=of(0.25, seed=3))
    sweep = replay(made.events)
    trial = sweep.trials["t0000"]

    first, second = (pairing.repeat(sweep, trial, number) for number in (1, 2))

    assert replace(first, seed=3, stream=0) == replace(second, seed=3, stream=0) == trial.config
    assert (first.stream, second.stream) == (1, 2)
    assert len({first.seed, second.seed, trial.seed}) == 3


def test_a_pair_shares_all_but_distillation_and_a_tuned_recipe() -> None:
    made = story()
    partner = of(0.25, distill={"response": Choice("dkd"), "feature": Choice("at")}, lr=0.02)
    made.trial(0, [0.8], trial_config=partner)
    for number, (arm, lr, value) in enumerate(
        [("no_kd", 0.02, 0.6), ("no_kd", 0.1, 0.7), ("kd", 0.02, 0.75), ("kd", 0.1, 0.7)]
    ):
        made.trial(
            number,
            [value],
            role="control",
            trial_config=of(0.25, lr=lr),
            purpose=f"tune_{arm}",
            partner="t0000",
        )
    sweep = replay(made.events)
    trial = sweep.trials["t0000"]

    no_kd, kd = (pairing.expected_pair(sweep, trial, arm) for arm in pairing.ARMS)

    assert pairing.tuned_recipe(sweep, trial.band, "no_kd") == (0.1, 5e-4, 2)
    assert pairing.tuned_recipe(sweep, trial.band, "kd") == (0.02, 5e-4, 2)
    assert no_kd == replace(partner.control, train=replace(partner.train, lr=0.1))
    assert (kd.student, kd.train, kd.seed, kd.stream) == (partner.student, partner.train, 0, 0)
    assert kd.distill == {"response": Choice("kd")}
    assert (kd.alpha, kd.temperature, kd.label_weight) == (0.9, 4.0, None)


def test_without_tuning_a_control_has_its_partners_recipe() -> None:
    made = story()
    made.trial(0, [0.8], trial_config=of(0.25, lr=0.123))
    sweep = replay(made.events)

    assert pairing.tuned_recipe(sweep, 0, "kd") is None
    assert pairing.expected_pair(sweep, sweep.trials["t0000"], "no_kd").train.lr == 0.123


def test_another_optimizer_has_a_recipe_of_its_own() -> None:
    made = story()
    made.trial(0, [0.8], trial_config=of(0.25))
    made.trial(0, [0.7], role="control", trial_config=of(0.25, lr=0.3), purpose="tune_kd", partner="t0000")
    sweep = replay(made.events)

    assert pairing.tuned_recipe(sweep, sweep.trials["t0000"].band, "kd", "sgd") == (0.3, 5e-4, 1)
    assert pairing.tuned_recipe(sweep, sweep.trials["t0000"].band, "kd", "adam") is None


def test_plain_kd_of_a_student_without_a_teacher_has_the_most_accurate_one() -> None:
    made = Story(data=DATA)
    for name, value in (("small", 0.7), ("large", 0.9)):
        made.add("teacher_ready", name=name, accuracy=value, params=1, family="resnet", options={})
    made.trial(0, [0.8], trial_config=of(0.25, distill={}))
    taught = replace(of(0.25), teacher=Choice("small"))
    made.trial(1, [0.8], trial_config=taught)
    sweep = replay(made.events)

    alone, other = (
        pairing.expected_pair(sweep, sweep.trials[name], "kd").teacher for name in ("t0000", "t0001")
    )

    assert alone == Choice("large")
    assert other == Choice("small")


def confirmed_story() -> Story:
    """Two students of one architecture, whose controls are shared; r0003 failed, its seed's kd is missing."""
    made = story()
    first, second = of(0.25, temperature=2.0), of(0.25, distill={"response": Choice("dkd")})
    made.trial(0, [0.8], trial_config=first)
    made.trial(1, [0.8], trial_config=second)
    sweep = replay(made.events)
    for number, (partner, seed, status) in enumerate(
        [
            ("t0000", 2, "completed"),
            ("t0000", 1, "completed"),
            ("t0001", 1, "completed"),
            ("t0001", 2, "failed"),
        ]
    ):
        again = pairing.repeat(sweep, sweep.trials[partner], seed)
        made.trial(number, [0.81], role="confirm", status=status, trial_config=again, partner=partner)
    no_kd = [pairing.repeat(sweep, sweep.trials["t0000"], seed).control for seed in (1, 2)]
    made.trial(0, [0.7], role="control", trial_config=no_kd[0], purpose="no_kd", partner="r0001")
    made.trial(1, [0.7], role="control", trial_config=no_kd[1], purpose="no_kd", partner="r0000")
    kd = pairing.plain(sweep, pairing.repeat(sweep, sweep.trials["t0000"], 1), "kd")
    made.trial(2, [0.75], role="control", trial_config=kd, purpose="kd", partner="r0001")
    return made


def test_confirmed_students_have_their_runs_and_controls_seed_by_seed() -> None:
    first, _ = pairing.confirmed(replay(confirmed_story().events))

    def names(trials: tuple[pairing.TrialRecord | None, ...]) -> list[str | None]:
        return [trial and trial.trial_id for trial in trials]

    assert first.student.trial_id == "t0000"
    assert names(first.runs) == ["r0001", "r0000"]
    assert names(first.no_kd) == ["c0000", "c0001"]
    assert names(first.kd) == ["c0002", None]


def test_controls_are_found_by_configuration_and_not_by_partner_alone() -> None:
    _, second = pairing.confirmed(replay(confirmed_story().events))

    assert [trial.trial_id for trial in second.runs] == ["r0002"]
    assert [trial and trial.trial_id for trial in second.no_kd + second.kd] == ["c0000", "c0002"]


def test_a_repeat_that_is_plain_kd_itself_is_its_own_control() -> None:
    made = story()
    made.trial(0, [0.8], trial_config=of(0.25))
    sweep = replay(made.events)
    again = pairing.repeat(sweep, sweep.trials["t0000"], 1)
    made.trial(0, [0.81], role="confirm", trial_config=again, partner="t0000")

    (only,) = pairing.confirmed(replay(made.events))

    assert only.kd == only.runs
    assert only.no_kd == (None,)


def test_of_students_trained_together_the_first_alone_has_controls() -> None:
    made = story()
    mutual = replace(of(0.5), online=Choice("dml", {"peers": 2, "peer_width": 0.5}))
    made.trial(0, [0.8], params=40_000, trial_config=mutual, peers={10_000: [0.7]})
    sweep = replay(made.events)
    again = pairing.repeat(sweep, sweep.trials["t0000"], 1)
    made.trial(
        0, [0.82], params=40_000, role="confirm", trial_config=again, peers={10_000: [0.72]}, partner="t0000"
    )
    made.trial(
        0, [0.6], params=40_000, role="control", trial_config=again.control, purpose="no_kd", partner="r0000"
    )

    small, large = pairing.confirmed(replay(made.events))

    assert (small.student.student_id, small.runs[0].student_id) == ("t0000.s2", "r0000.s2")
    assert [run.val_accuracy for run in (*small.runs, *large.runs)] == [0.72, 0.82]
    assert small.no_kd == small.kd == large.kd == (None,)
    assert [control and control.trial_id for control in large.no_kd] == ["c0000"]
