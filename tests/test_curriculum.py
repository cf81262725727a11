"""Curricula: how the share of samples grows, who is in it, and that training follows it and resumes."""

import dataclasses

import pytest
import torch
from test_training import CONTROL, KD, equal_weights, run, teacher_of

from kdsearch import data as datasets
from kdsearch.confidence import confidence, ranks
from kdsearch.curriculum import share_in
from kdsearch.records import Choice, TrainConfig, TrialConfig
from kdsearch.spec import DataSpec
from kdsearch.training import Training, learning_rate


@pytest.fixture(scope="module")
def small():
    """160 training images, 16 a class: two batches of 64 and one of 32."""
    return datasets.load(DataSpec("digits", subset=160))


def trial(epochs, **options):
    return TrialConfig(
        Choice("resnet"), TrainConfig(epochs), curriculum=Choice("confidence", options), alpha=0.9
    )


def following(**options):
    """Distillation with a curriculum over RECIPE's three epochs."""
    return dataclasses.replace(KD, curriculum=Choice("confidence", options))


def samples(training, epoch):
    return torch.cat(training._batches(epoch)).sort().values.tolist()


@pytest.mark.parametrize(
    ("epochs", "options", "shares"),
    [
        (6, {}, [0.5, 0.75, 1.0, 1.0, 1.0, 1.0]),
        (4, {"start": 0.25, "share": 1.0}, [0.25, 0.5, 0.75, 1.0]),
        (3, {"share": 0.0}, [1.0, 1.0, 1.0]),
        (1, {}, [1.0]),
    ],
)
def test_the_share_grows_in_a_straight_line_until_all_are_in(epochs, options, shares):
    config = trial(epochs, **options)
    assert [share_in(config, epoch) for epoch in range(1, epochs + 1)] == pytest.approx(shares)


def test_without_a_curriculum_all_samples_are_in_from_the_start():
    assert share_in(CONTROL, 1) == 1.0


def test_confidence_is_the_largest_probability():
    logits = torch.tensor([[0.0, 0.0], [0.0, 3.0]]).log_softmax(dim=1) - 7.0
    assert confidence(logits).tolist() == pytest.approx([0.5, 1 / (1 + torch.e**-3)])


CONFIDENCES = torch.tensor([0.9, 0.2, 0.9, 0.5, 0.7, 0.6])
LABELS = torch.tensor([0, 0, 0, 0, 1, 1])


def test_ranks_are_within_the_class_and_ties_go_by_position():
    assert ranks(CONFIDENCES, LABELS).tolist() == [0.0, 0.75, 0.25, 0.5, 0.0, 0.5]


def test_hard_first_begins_with_the_least_sure():
    assert ranks(CONFIDENCES, LABELS, easy_first=False).tolist() == [0.5, 0.0, 0.75, 0.25, 0.5, 0.0]


def test_every_class_keeps_its_share_however_unsure_the_teacher_is_of_it():
    kept = ranks(torch.cat([torch.ones(10), torch.zeros(10)]), torch.arange(20) // 10) < 0.3
    assert kept.nonzero().flatten().tolist() == [0, 1, 2, 10, 11, 12]


def test_epochs_take_in_more_samples_until_all_are_there(small):
    training = Training(following(start=0.2, share=1.0), small, teacher=teacher_of(small))
    first, second, last = (samples(training, epoch) for epoch in (1, 2, 3))
    assert set(first) < set(second) < set(last)
    assert 0.2 * 160 <= len(first) < 0.2 * 160 + 10  # every class rounds up
    assert last == list(range(160))


def test_the_first_samples_are_those_the_teacher_is_surest_of(small):
    teacher = teacher_of(small)
    training = Training(following(start=0.2), small, teacher=teacher)
    views, labels = training._views, training._views.labels
    sure = confidence(teacher.eval()(views.plain(torch.arange(160)).images))
    inside = torch.zeros(160, dtype=torch.bool)
    inside[samples(training, 1)] = True
    of_class_3 = labels == 3
    assert sure[inside & of_class_3].min() >= sure[~inside & of_class_3].max()


def test_the_order_can_be_turned_around(small):
    easy, hard = (
        Training(following(start=0.2, order=order), small, teacher=teacher_of(small))
        for order in ("easy_to_hard", "hard_to_easy")
    )
    assert set(samples(easy, 1)).isdisjoint(samples(hard, 1))


def test_a_curriculum_changes_the_training_and_repeats_to_the_last_digit(small):
    config = following(start=0.4, share=1.0)
    once, again = (run(Training(config, small, teacher=teacher_of(small))) for _ in range(2))
    assert once == again
    assert once != run(Training(KD, small, teacher=teacher_of(small)))


def test_a_curriculum_of_all_samples_is_none(small):
    everything = following(start=1.0)
    assert run(Training(everything, small, teacher=teacher_of(small))) == run(
        Training(KD, small, teacher=teacher_of(small))
    )


@pytest.mark.parametrize("finished", [1, 2])
def test_a_training_with_a_curriculum_resumes_bit_for_bit(small, finished):
    config = following(start=0.4, share=1.0)
    whole = Training(config, small, teacher=teacher_of(small))
    expected = run(whole)
    interrupted = Training(config, small, teacher=teacher_of(small))
    for _ in range(finished):
        interrupted.run_epoch()
    resumed = Training(config, small, teacher=teacher_of(small))
    resumed.load_state_dict(interrupted.state_dict())
    assert run(resumed) == expected[finished:]
    assert equal_weights(resumed.student.state_dict(), whole.student.state_dict())


def test_the_learning_rate_keeps_its_course_over_the_epochs(small):
    """160 images are three batches; the first epoch has only one, and yet ends before the second begins."""
    config = following(start=0.2, share=1.0)
    training = Training(config, small, teacher=teacher_of(small))
    rates = [training.run_epoch().metrics["lr"] for _ in range(3)]
    expected = [learning_rate(config.train, step, 3) for step in (0, 3 + 3 / 2, 8)]
    assert [len(training._batches(epoch)) for epoch in (1, 2, 3)] == [1, 2, 3]
    assert rates == expected


def test_a_curriculum_without_a_teacher_is_refused(small):
    config = dataclasses.replace(CONTROL, curriculum=Choice("confidence"))
    with pytest.raises(ValueError, match="curriculum confidence needs a teacher"):
        Training(config, small)
