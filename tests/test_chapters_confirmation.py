"""What the report says once students were trained again, in words."""

from __future__ import annotations

import confirmed_journals
import journals
import pytest
from rich.console import Console

from kdsearch import chapters_confirmation, chapters_cost, document, figures, pairing
from kdsearch.chapters import chapters
from kdsearch.confirmation import confirmation, front_of_record
from kdsearch.progress import front_table
from kdsearch.records import replay


@pytest.fixture(scope="module")
def story():
    return confirmed_journals.confirmed(journals.realistic(60))


@pytest.fixture(scope="module")
def sweep(story):
    return replay(story.events)


@pytest.fixture(scope="module")
def found(sweep):
    return confirmation(sweep)


@pytest.fixture(scope="module")
def page(story, sweep):
    names = [drawing.name for drawing in figures.DRAWINGS]
    return document.to_markdown(chapters(sweep, story.events, dict.fromkeys(names, "no figure here")))


def section(page, title):
    return page.split(f"## {title}\n")[1].split("\n## ")[0]


def test_both_fronts_are_shown_the_confirmed_one_first(page):
    assert page.index("## The confirmed front") < page.index("## The front as the search saw it")


def test_search_confirmed_and_test_values_stand_side_by_side(page, found):
    student = found.students[0]
    line = next(
        line for line in page.splitlines() if line.startswith(f"| {student.record.student_id} | stayed")
    )
    values = (student.record.val_accuracy, student.validation.mean, student.test.mean)
    assert [line.index(f"{value:.4f}") for value in values] == sorted(line.index(f"{v:.4f}") for v in values)


def test_the_selection_bias_is_said_in_points(page, found):
    assert f"is {100 * found.bias:.2f} points higher on average" in page


def test_a_student_that_distillation_hurt_is_said_to_be_one(page, found):
    hurt = [student for student in found.on_front if student.verdict == "hurt"]
    assert hurt
    said = next(line for line in page.splitlines() if "Distillation hurt, paired by seed, at" in line)
    assert all(chapters_confirmation.named_gain(one) in said for one in hurt)


def test_it_says_against_plain_kd_too(page):
    assert "Against plain KD (T = 4, alpha = 0.9), the recipe that was found is better at" in page


def test_what_left_the_front_is_listed_with_what_it_had_promised():
    story = journals.Story(data={"num_validation": 5000})
    story.trial(0, [0.1, 0.69], 10_000)
    story.trial(1, [0.1, 0.65], 9_000, trial_config=journals.config(temperature=2.0))
    searched = replay(story.events)
    for number, (partner, value) in enumerate(
        [("t0000", 0.61), ("t0000", 0.60), ("t0001", 0.65), ("t0001", 0.64)]
    ):
        config = pairing.repeat(searched, searched.trials[partner], 1 + number % 2)
        story.trial(number, [0.1, value], 10_000, "confirm", trial_config=config, partner=partner)
    sweep = replay(story.events)
    text = document.to_markdown(
        chapters_confirmation.did_not_work(sweep, confirmation(sweep), is_listed=False)
    )
    assert "| t0000 | 0.6900 | 0.6050 ± 0.0071 |" in text


def test_without_repeats_methods_at_the_floor_are_named_and_how_weak_that_is():
    story = journals.Story()
    story.trial(0, [0.6], 10_000, "control")
    for number, value in enumerate([0.50, 0.51, 0.52]):
        story.trial(number, [value], 10_000)
    text = document.to_markdown(
        chapters_confirmation.did_not_work(replay(story.events), None, is_listed=False)
    )
    assert "| kd | 3 | 0 | 0 | -9.00 |" in text
    assert "| hurt |" in text
    assert "A weak comparison" in text


def test_without_repeats_and_without_a_floor_there_is_nothing_to_say():
    story = journals.Story()
    story.trial(0, [0.6], 10_000)
    assert chapters_confirmation.did_not_work(replay(story.events), None, is_listed=False) == []


def test_the_definition_of_a_students_share_is_printed(page):
    assert chapters_cost.SHARE in section(page, "Time and cost")


def test_the_limits_speak_of_what_confirmation_cured_and_what_not(page):
    limits = section(page, "How far to trust this")
    assert "One seed" not in limits
    assert "Unconfirmed" not in limits
    assert "Still a little optimistic on validation" in limits


def test_without_test_accuracies_the_gain_is_said_to_be_on_validation():
    story = confirmed_journals.confirmed(journals.realistic(40), opens_test=False)
    found = confirmation(replay(story.events))
    text = document.to_markdown(
        chapters_confirmation.confirmed(replay(story.events), found, "no figure here")
    )
    assert "Without test accuracies it is on validation" in text
    assert "no KD (validation)" in text


def test_the_terminal_shows_the_front_of_record_with_confirmed_values(sweep, found):
    console = Console(width=200)
    with console.capture() as capture:
        console.print(front_table(sweep))
    text = capture.get()
    student = found.on_front[0]
    assert f"{student.validation.mean:.4f} ± {student.validation.std:.4f}" in text
    assert [line.split()[0] for line in text.splitlines() if line.strip().startswith("t0")] == [
        trial.trial_id for trial in front_of_record(sweep)
    ]


def test_before_confirmation_the_terminal_has_no_blank_columns():
    console = Console(width=200)
    with console.capture() as capture:
        console.print(front_table(replay(journals.realistic(20).events)))
    assert "confirmed" not in capture.get()


def test_a_student_that_was_confirmed_before_the_search_went_on_is_not_called_near_the_front():
    story = journals.Story(data={"num_validation": 5000})
    story.trial(0, [0.1, 0.69], 10_000)
    story.trial(1, [0.1, 0.60], 9_000, trial_config=journals.config(temperature=2.0))
    searched = replay(story.events)
    for number, partner in enumerate(["t0000", "t0001"]):
        config = pairing.repeat(searched, searched.trials[partner], 1)
        story.trial(number, [0.1, 0.6], 10_000, "confirm", trial_config=config, partner=partner)
    story.trial(2, [0.1, 0.68], 8_000, trial_config=journals.config(temperature=3.0))  # better and smaller
    sweep = replay(story.events)
    text = document.to_markdown(chapters_confirmation.confirmed(sweep, confirmation(sweep), "no figure here"))
    assert "| t0001 | earlier |" in text
    assert "1 student of the search's front and 1 that an earlier confirmation had chosen" in text
    assert "within noise" not in text


def test_a_listed_search_over_several_seeds_is_not_called_unconfirmed():
    story = journals.Story(spec={"search": {"seeds": 3}})
    story.trial(0, [0.6], 10_000)
    assert "Unconfirmed" not in " ".join(chapters_confirmation.limits(replay(story.events), None))
