"""What repeats and paired controls say of a front, on journals whose truth is written out."""

from __future__ import annotations

import confirmed_journals
import journals
import pytest
from confirmed_journals import Sequel

from kdsearch import confirmation, pairing, results
from kdsearch.confirmation import front_of_record
from kdsearch.records import Choice, replay

SIZES = {"small": 10_000, "large": 40_000}


def searched(small=0.50, large=0.70, **more):
    """A search that found two students, t0000 the small one and t0001; more of them by params."""
    story = journals.Story(data={"num_validation": 5000}).teacher()
    story.trial(0, [0.1, small], SIZES["small"], trial_config=of(0.25))
    story.trial(1, [0.1, large], SIZES["large"], trial_config=of(0.5))
    return story


def of(width, temperature=2.0):
    return journals.config(options={"depth": 20, "width": width}, temperature=temperature)


def repeated(story, values, arm=None, test_below=None):
    """Each trial's repeats (values by trial id), or with `arm` the paired controls of these repeats."""
    sequel, sweep = Sequel(story), replay(story.events)
    for name, own in values.items():
        trial = sweep.trials[name]
        for number, value in enumerate(own, start=1):
            config = pairing.repeat(sweep, trial, number)
            config = config if arm is None else pairing.plain(sweep, config, arm)
            test = None if test_below is None else value - test_below
            sequel.add("control" if arm else "confirm", config, trial, value, arm or "", test)
    return story


def one_of_each_architecture(trials):
    """Students that share no control, so that each one's gain is its own."""
    return list({repr(trial.config.student): trial for trial in trials}.values())


def found_in(story):
    return confirmation.confirmation(replay(story.events))


def test_before_the_first_repeat_there_is_no_confirmation():
    assert found_in(searched()) is None


def test_accuracy_is_the_mean_of_the_repeats_without_the_run_that_was_chosen():
    story = repeated(searched(), {"t0000": [0.48, 0.49], "t0001": [0.69, 0.70]})
    small, large = found_in(story).students
    assert (small.validation.n, small.validation.mean) == (2, pytest.approx(0.485))
    assert (large.validation.n, large.validation.mean) == (2, pytest.approx(0.695))


def test_the_interval_is_by_the_spread_of_all_students_together():
    # Squares around the means: 2 * 0.01**2 and 2 * 0.02**2, by two degrees; t(2) at 95 % is 4.303.
    story = repeated(searched(), {"t0000": [0.48, 0.50], "t0001": [0.68, 0.72]})
    small, large = found_in(story).students
    half = 4.3027 * (0.0005 / 2) ** 0.5
    assert small.validation.high - small.validation.mean == pytest.approx(half, rel=1e-4)
    assert large.validation.high - large.validation.mean == pytest.approx(half, rel=1e-4)


def test_bias_is_how_much_the_search_promised_too_much():
    story = repeated(searched(), {"t0000": [0.48, 0.49], "t0001": [0.69, 0.70]})
    assert found_in(story).bias == pytest.approx((0.015 + 0.005) / 2)


def test_the_gain_is_paired_by_seed_on_the_test_split():
    story = repeated(searched(), {"t0000": [0.50, 0.52, 0.54], "t0001": [0.7, 0.7, 0.7]}, test_below=0.01)
    repeated(story, {"t0000": [0.48, 0.51, 0.52]}, "no_kd", test_below=0.02)
    repeated(story, {"t0000": [0.50, 0.53, 0.53]}, "kd", test_below=0.01)
    found = found_in(story)
    small, large = found.students
    assert found.split == "test"
    assert (small.gain.n, small.gain.mean) == (3, pytest.approx((0.03 + 0.02 + 0.03) / 3))
    assert small.gain_over_kd.mean == pytest.approx((0.0 - 0.01 + 0.01) / 3)
    assert (small.no_kd.mean, large.gain, large.verdict) == (pytest.approx(0.4833, abs=1e-4), None, "")


def test_without_a_test_split_the_gain_is_on_validation():
    story = repeated(searched(), {"t0000": [0.50, 0.52]})
    repeated(story, {"t0000": [0.49, 0.52]}, "no_kd")
    found = found_in(story)
    assert (found.split, found.students[0].gain.mean) == ("validation", pytest.approx(0.005))
    assert (found.students[0].test, found.students[0].no_kd.mean) == (None, pytest.approx(0.505))
    assert results.pareto_rows(replay(story.events))[0]["no_kd_test_accuracy_mean"] is None


def test_a_repeat_without_its_control_is_in_no_gain():
    story = repeated(searched(), {"t0000": [0.50, 0.60, 0.70]})
    repeated(story, {"t0000": [0.49]}, "no_kd")
    assert found_in(story).students[0].gain.n == 1


def test_the_verdict_is_by_the_pooled_interval():
    story = repeated(searched(), {"t0000": [0.50, 0.51, 0.50], "t0001": [0.70, 0.71, 0.70]})
    repeated(story, {"t0000": [0.40, 0.41, 0.40], "t0001": [0.70, 0.71, 0.71]}, "no_kd")
    assert [student.verdict for student in found_in(story).students] == ["helped", "not separated"]


def test_a_lucky_student_leaves_the_front_of_record():
    story = searched(small=0.69)  # better than it is
    story.trial(2, [0.1, 0.65], 9_000, trial_config=of(0.125))
    repeated(story, {"t0000": [0.60, 0.61], "t0001": [0.70, 0.69], "t0002": [0.65, 0.66]})
    found = found_in(story)
    assert [student.record.trial_id for student in found.left] == ["t0000"]
    assert [trial.trial_id for trial in front_of_record(replay(story.events))] == ["t0002", "t0001"]
    assert next(student for student in found.students if student.record.trial_id == "t0000").p_on_front < 0.1


def test_a_contender_joins_the_front_of_record_where_the_lucky_one_leaves():
    story = searched()
    story.trial(2, [0.1, 0.695], SIZES["large"], trial_config=of(0.5, 4.0))  # a contender at t0001's size
    repeated(story, {"t0000": [0.5, 0.5], "t0001": [0.68, 0.69], "t0002": [0.70, 0.71]})
    assert [trial.trial_id for trial in front_of_record(replay(story.events))] == ["t0000", "t0002"]


def test_until_all_of_it_was_repeated_the_front_of_record_is_the_searchs():
    story = repeated(searched(), {"t0001": [0.3, 0.3]})
    found = found_in(story)
    assert (found.is_complete, [trial.trial_id for trial in found.unrepeated]) == (False, ["t0000"])
    assert found.students[0].p_on_front is None
    assert [trial.trial_id for trial in front_of_record(replay(story.events))] == ["t0000", "t0001"]


def test_a_student_whose_repeats_all_failed_leaves_the_front_and_holds_up_nothing():
    story = repeated(searched(), {"t0001": [0.69, 0.70]})
    sweep = replay(story.events)
    config = pairing.repeat(sweep, sweep.trials["t0000"], 1)
    story.trial(9, [], 10_000, "confirm", "failed", config, partner="t0000", error="diverged")
    assert found_in(story).is_complete
    assert [trial.trial_id for trial in front_of_record(replay(story.events))] == ["t0001"]


def test_one_repeat_each_has_a_front_but_no_probability():
    found = found_in(repeated(searched(), {"t0000": [0.50], "t0001": [0.70]}))
    assert [student.p_on_front for student in found.students] == [None, None]
    assert [student.is_on_front for student in found.students] == [True, True]


def test_the_second_student_of_a_trial_is_repeated_with_it():
    story = journals.Story()
    chosen = of(0.5)
    story.trial(0, [0.1, 0.7], 40_000, trial_config=chosen, peers={10_000: [0.1, 0.6]})
    sweep = replay(story.events)
    again = pairing.repeat(sweep, sweep.trials["t0000"], 1)
    story.trial(
        0, [0.1, 0.69], 40_000, "confirm", trial_config=again, partner="t0000", peers={10_000: [0.1, 0.58]}
    )
    means = {student.record.student_id: student.validation.mean for student in found_in(story).students}
    assert means == {"t0000.s1": 0.69, "t0000.s2": 0.58}


def test_plain_kd_is_never_taken_for_a_control_without_distillation():
    story = journals.Story()
    story.trial(0, [0.6], 10_000)
    plain = journals.config(distill={"response": Choice("kd")})
    story.trial(0, [0.9], 10_000, "control", trial_config=plain, purpose="tune_kd", partner="t0000")
    sweep = replay(story.events)
    assert confirmation.no_kd_controls(sweep) == []
    assert results.beaten_by_controls(sweep) == []


def test_pareto_rows_say_what_confirmation_found():
    story = repeated(searched(), {"t0000": [0.50, 0.52], "t0001": [0.70, 0.71]}, test_below=0.01)
    repeated(story, {"t0000": [0.48, 0.51], "t0001": [0.69, 0.69]}, "no_kd", test_below=0.01)
    row, _ = results.pareto_rows(replay(story.events))
    assert row == row | {
        "trial_id": "t0000",
        "on_front": True,
        "num_seeds": 2,
        "confirmed_val_accuracy_mean": pytest.approx(0.51),
        "confirmed_val_accuracy_std": pytest.approx(0.01 * 2**0.5),
        "test_accuracy_mean": pytest.approx(0.50),
        "test_accuracy_std": pytest.approx(0.01 * 2**0.5),
        "no_kd_test_accuracy_mean": pytest.approx(0.485),
        "gain": pytest.approx(0.015),
        "p_on_front": 1.0,
    }
    assert row["gain_low"] < 0.015 < row["gain_high"]
    assert row["cost_s"] > 0


def test_what_left_the_front_is_in_confirmed_rows_alone():
    story = searched(small=0.69)
    story.trial(2, [0.1, 0.65], 9_000, trial_config=of(0.125))
    repeated(story, {"t0000": [0.60, 0.61], "t0001": [0.70, 0.69], "t0002": [0.65, 0.66]})
    sweep = replay(story.events)
    rows = {row["trial_id"]: row for row in results.confirmed_rows(sweep)}
    assert [row["trial_id"] for row in results.pareto_rows(sweep)] == ["t0002", "t0001"]
    assert (rows["t0000"]["was_on_front"], rows["t0000"]["on_front"]) == (True, False)
    assert {row["trial_id"]: row["on_front"] for row in results.trial_rows(sweep)}["t0000"] is False


def test_a_simulated_confirmation_sees_the_luck_of_the_search_and_the_gains():
    found = found_in(confirmed_journals.confirmed(journals.realistic(60), chosen=one_of_each_architecture))
    assert found.bias == pytest.approx(confirmed_journals.LUCK, abs=0.0015)
    told = {student.record.student_id: student.gain.mean for student in found.students}
    true = dict(zip(told, confirmed_journals.GAINS * 9, strict=False))
    assert told == pytest.approx(true, abs=0.005)


def test_a_student_of_plain_kd_has_no_gain_over_itself():
    story = journals.Story().teacher()
    story.trial(0, [0.1, 0.5], 10_000, trial_config=of(0.25, pairing.PLAIN_TEMPERATURE))
    repeated(story, {"t0000": [0.50, 0.52]})
    assert found_in(story).students[0].gain_over_kd is None


def test_a_student_without_distillation_has_no_gain_over_a_control_with_another_recipe():
    story = journals.Story().teacher()
    story.trial(0, [0.1, 0.5], 10_000, trial_config=journals.config(distill={}))
    sweep = replay(story.events)
    trial, sequel = sweep.trials["t0000"], Sequel(story)
    tuned = pairing.with_recipe(pairing.plain(sweep, trial.config, "no_kd"), 0.2, 0.0)
    sequel.add("control", tuned, trial, 0.6, "tune_no_kd")
    again = pairing.repeat(sweep, trial, 1)
    sequel.add("confirm", again, trial, 0.5)
    sequel.add("control", pairing.with_recipe(again, 0.2, 0.0), trial, 0.45, "no_kd")
    student = found_in(story).students[0]
    assert student.no_kd.mean == 0.45
    assert (student.gain, student.verdict) == (None, "")
