"""The report's chapter on teachers: silent about a single one, complete about several."""

import dataclasses

import journals
import pytest

from kdsearch import chapters_teachers, document, results
from kdsearch.records import Choice, replay


def text(story):
    return document.to_markdown(chapters_teachers.teachers(replay(story.events)))


def taught_by(name, **options):
    return dataclasses.replace(journals.config(), teacher=Choice(name, options))


def test_a_single_teacher_needs_no_chapter():
    story = journals.Story().teacher()
    sweep = replay(story.events)
    assert chapters_teachers.teachers(sweep) == []
    assert chapters_teachers.introduced(sweep) == "teacher resnet depth 56 (trained)"
    assert chapters_teachers.introduced(replay(journals.Story().events)) == "no teacher yet"


def two_teachers():
    story = journals.Story().teacher(name="big", accuracy=0.9, params=1_000_000)
    story.teacher(name="small", accuracy=0.8, params=100_000)
    story.trial(0, [0.5, 0.6], trial_config=taught_by("big"))
    story.trial(1, [0.5, 0.7], trial_config=taught_by("small"))
    return story


def test_students_are_compared_with_the_most_accurate_teacher_whoever_taught_them():
    sweep = replay(two_teachers().events)
    assert sweep.teacher["name"] == "big"
    assert results.retention(sweep, sweep.trials["t0001"]) == pytest.approx(0.7 / 0.9)
    assert results.trial_rows(sweep)[1]["teacher"] == "small"
    assert "teacher" in results.trial_columns(results.trial_rows(sweep))


def test_every_teacher_and_what_its_students_reached_are_in_the_chapter():
    found = text(two_teachers())
    assert "whole teacher, big, whoever taught it" in found
    assert "| small | teacher | resnet depth 56 |  | 100,000 |" in found
    assert "| small | 0.8000 | 1 | 0.7000 | 0.7000 |" in found


def test_generations_and_their_mean_are_parts_and_not_compared_with():
    story = journals.Story()
    story.teacher(name="generation 0", role="generation", accuracy=0.7)
    lesson = {"temperature": 2.0, "alpha": 1.0, "label_weight": 0.0}
    generation = {"role": "generation", "learns_from": "generation 0", "lesson": lesson}
    story.teacher(name="generation 1", accuracy=0.75, **generation)
    both = ["generation 0", "generation 1"]
    story.teacher(name="all generations", role="average", accuracy=0.8, source="combined", of=both)
    story.teacher(accuracy=0.75, of=["generation 1"])
    sweep = replay(story.events)
    assert results.teacher_accuracy(sweep) == 0.75
    found = text(story)
    assert (
        "| generation 1 | generation | resnet depth 56 | generation 0, temperature 2 | 1,000,000 | 1.0"
        in found
    )
    assert "| all generations | mean of them | mean of generation 0 and generation 1 |" in found
    assert "| the teacher | generation 1 |" in found


def test_an_assistants_step_is_shown_beside_whom_it_learned_from():
    story = journals.Story().teacher(params=1_000_000)
    lesson = {"temperature": 4.0, "alpha": 0.9, "label_weight": 0.1}
    assistant = {"role": "assistant", "learns_from": "", "lesson": lesson}
    story.teacher(name="0.5", params=250_000, accuracy=0.78, **assistant)
    story.trial(0, [0.6], trial_config=taught_by("", assistants="0.5"))
    story.trial(1, [0.5], trial_config=taught_by(""))
    found = text(story)
    assert "| 0.5 | assistant | resnet depth 56 | the teacher, temperature 4 | 250,000 | 4.0" in found
    assert "| the teacher | 0.8000 | 1 | 0.5000 |" in found
