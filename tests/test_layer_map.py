"""Layer maps: texts, names and searched choices become the same canonical pairs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdsearch import layer_map

COUNTS = st.integers(1, 9)


def crosses(pairs):
    return any(a[0] < b[0] and a[1] > b[1] for a in pairs for b in pairs)


@pytest.mark.parametrize(
    ("name", "num_student", "num_teacher", "text"),
    [
        ("last", 3, 4, "stage3>stage4"),
        ("uniform", 3, 3, "stage1>stage1,stage2>stage2,stage3>stage3"),
        ("uniform", 2, 4, "stage1>stage2,stage2>stage4"),
        ("uniform", 4, 3, "stage1>stage1,stage2>stage2,stage3>stage3,stage4>stage3"),
        ("skip", 3, 3, "stage1>stage1,stage3>stage3"),
        ("skip", 4, 3, "stage2>stage2,stage4>stage3"),
        ("one_to_one", 3, 4, "stage1>stage2,stage2>stage3,stage3>stage4"),
        ("one_to_one", 4, 3, "stage2>stage1,stage3>stage2,stage4>stage3"),
        ("all", 2, 3, "stage1>stage1,stage1>stage2,stage2>stage2,stage2>stage3"),
        ("all", 1, 3, "stage1>stage1,stage1>stage2,stage1>stage3"),
    ],
)
def test_a_named_map_is_the_pairs_worked_out_by_hand(name, num_student, num_teacher, text):
    assert layer_map.to_text(layer_map.parse(name, num_student, num_teacher)) == text


@given(st.sampled_from(layer_map.NAMES), COUNTS, COUNTS)
def test_no_named_map_crosses_and_all_end_in_the_last_pair(name, num_student, num_teacher):
    pairs = layer_map.named(name, num_student, num_teacher)
    assert not crosses(pairs)
    assert pairs[-1] == (num_student, num_teacher)


@given(COUNTS, COUNTS)
def test_all_uses_every_stage_of_both(num_student, num_teacher):
    students, teachers = zip(*layer_map.named("all", num_student, num_teacher), strict=True)
    assert set(students) == set(range(1, num_student + 1))
    assert set(teachers) == set(range(1, num_teacher + 1))


def test_order_spaces_and_repetition_do_not_matter():
    tidy = layer_map.parse("stage1>stage1,stage3>stage2", 3, 3)
    assert layer_map.parse(" stage3 > stage2, stage1>stage1,stage3>stage2 ", 3, 3) == tidy


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_any_searched_choice_is_a_valid_map_that_reads_back(targets):
    pairs = layer_map.from_choices(targets, 5)
    assert not crosses(pairs)
    assert layer_map.parse(layer_map.to_text(pairs), len(targets), 5) == pairs


def test_a_searched_target_below_an_earlier_one_is_raised_to_it():
    assert layer_map.from_choices([2, 0, 1], 3) == ((1, 2), (3, 2))


def test_a_searched_map_of_zeros_is_the_last_pair():
    assert layer_map.from_choices([0, 0], 4) == ((2, 4),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stage4>stage3", "the student has no stage4, it has stage1 to stage3; nearest: stage3"),
        ("stage1>stage0", "the teacher has no stage0, it has stage1 to stage3; nearest: stage1"),
        ("stage2>stage1,stage1>stage3", "stage1>stage3 and stage2>stage1 cross"),
        ("lats", "'lats' is not a pair of stages"),
        ("stage1>stage1,", "is not a pair of stages"),
        ("stage1-stage2", "write student>teacher"),
        ("", "is not a pair of stages"),
        (layer_map.SEARCHED, "is not a pair of stages"),
    ],
)
def test_a_bad_map_is_refused_in_words(text, words):
    with pytest.raises(ValueError, match=words):
        layer_map.parse(text, 3, 3)
