"""Chains of teacher assistants: which sizes stand between a teacher and a student."""

import itertools

import pytest

from kdsearch import assistants
from kdsearch.assistants import Rung

# A network whose parameters grow with the square of its width, the teacher's width being 4.
LADDER = [Rung(width, 1000 * width**2) for width in (3.0, 2.0, 1.5, 1.0, 0.75, 0.5)]
TEACHER = 16_000.0


def widths(student, steps=None, max_compression=4.5):
    return [rung.width for rung in assistants.chain(LADDER, TEACHER, student, steps, max_compression)]


@pytest.mark.parametrize(
    ("student", "expected"),
    [
        (20_000, []),
        (4_000, []),  # exactly 4 times smaller
        (3_000, [3.0]),  # 5.3 times: through 9,000, 1.8 and 3 times
        (1_000, [2.0]),
        (260, [1.5, 0.75]),  # 61 times: 7.1, 4 and 2.2 would be too much in the first step
    ],
)
def test_as_many_assistants_as_the_most_compression_needs(student, expected):
    found = widths(student)
    sizes = [TEACHER, *(1000 * width**2 for width in found), student]
    assert len(found) == len(expected)
    assert all(larger / smaller <= 4.5 for larger, smaller in itertools.pairwise(sizes))


def test_one_assistant_stands_at_the_geometric_middle():
    assert widths(1_000, steps=1) == [2.0]  # 16,000 > 4,000 > 1,000


def test_more_steps_than_needed_are_taken():
    assert len(widths(1_000, steps=2)) == 2


def test_too_few_steps_are_raised():
    assert widths(1_000, steps=0) == [2.0]


def test_a_large_limit_leaves_the_number_of_steps_to_the_spec():
    assert [len(widths(300, steps, max_compression=1e6)) for steps in (0, 1, 2, 3)] == [0, 1, 2, 3]


def test_no_more_assistants_than_the_ladder_has():
    assert widths(8_000, steps=5) == [3.0]


def test_students_are_rounded_down_to_few_sizes():
    assert assistants.rounded_down(20_000, TEACHER) == TEACHER
    sizes = {assistants.rounded_down(student, TEACHER) for student in range(4_000, 16_000, 100)}
    assert len(sizes) == 4
    assert all(assistants.rounded_down(student, TEACHER) <= student for student in range(100, 16_000, 100))


def test_a_chain_is_named_by_its_widths():
    assert assistants.name(LADDER[1:4:2]) == "2>1"
