"""Deep mutual learning, the loss: a value worked out by hand, its limits, and where gradients go."""

from __future__ import annotations

import math

import pytest
import torch

from kdsearch.losses.dml import dml, mutual_loss


def logits(*rows):
    return torch.tensor(rows, dtype=torch.float64)


EVEN = logits([0.0, 0.0])
THREE_TO_ONE = logits([math.log(3.0), 0.0])
NINE_TO_ONE = logits([math.log(9.0), 0.0])


def test_two_peers_by_hand():
    first, second = dml([EVEN, THREE_TO_ONE])

    assert first.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-12)
    assert second.item() == pytest.approx(0.5 * math.log(4 / 3), rel=1e-12)


def test_three_peers_take_the_mean_over_the_two_others():
    first, *_ = dml([EVEN, THREE_TO_ONE, NINE_TO_ONE])

    to_second = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    to_third = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
    assert first.item() == pytest.approx((to_second + to_third) / 2, rel=1e-12)


def test_the_temperature_softens_both_sides_and_its_square_multiplies():
    softened = mutual_loss(EVEN, [NINE_TO_ONE], temperature=2.0)

    assert softened.item() == pytest.approx(4 * mutual_loss(EVEN, [THREE_TO_ONE]).item(), rel=1e-12)


def test_it_is_the_mean_over_the_batch():
    student, peer = logits([0.0, 0.0], [0.0, 0.0]), logits([math.log(3.0), 0.0], [0.0, 0.0])

    assert mutual_loss(student, [peer]).item() == pytest.approx(
        mutual_loss(EVEN, [THREE_TO_ONE]).item() / 2, rel=1e-12
    )


def test_equal_peers_have_none():
    peer = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    assert [value.item() for value in dml([peer, peer + 3.0, peer - 1.0])] == pytest.approx(
        [0.0] * 3, abs=1e-14
    )


def test_every_peer_learns_from_its_own_term_alone():
    first = THREE_TO_ONE.clone().requires_grad_()
    second = EVEN.clone().requires_grad_()

    dml([first, second])[0].backward()

    assert first.grad is not None
    assert first.grad.abs().sum() > 0
    assert second.grad is None
