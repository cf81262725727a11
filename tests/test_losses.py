"""Every loss against its reference's value, a value worked out by hand, and its limits.

The reference values were produced by the authors' or the benchmark's code in float64 on the two sequences
below; a change here is a change of the loss.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from sequences import student_sequence, teacher_sequence
from torch import Tensor, nn

from kdsearch.data.views import Batch
from kdsearch.losses import rkd as rkd_module
from kdsearch.losses.ab import ab
from kdsearch.losses.at import at, attention_map
from kdsearch.losses.at import build as build_at
from kdsearch.losses.cc import cc
from kdsearch.losses.dist import dist, dist_inter, dist_intra
from kdsearch.losses.dkd import dkd, nckd, tckd
from kdsearch.losses.fitnet import build as build_fitnet
from kdsearch.losses.fitnet import fitnet
from kdsearch.losses.fsp import fsp
from kdsearch.losses.ft import ft
from kdsearch.losses.infonce import infonce
from kdsearch.losses.kd import kd
from kdsearch.losses.logit_std import logit_std
from kdsearch.losses.logit_std_dkd import logit_std_dkd
from kdsearch.losses.mlkd import batch_correlation, class_correlation
from kdsearch.losses.nst import build as build_nst
from kdsearch.losses.nst import nst
from kdsearch.losses.ofd import negative_mean, ofd
from kdsearch.losses.pkt import pkt
from kdsearch.losses.regressor import Regressor
from kdsearch.losses.reviewkd import hierarchical_context
from kdsearch.losses.rkd import rkd, rkd_angle, rkd_distance
from kdsearch.losses.sp import sp
from kdsearch.losses.tensors import pool_smaller, unit
from kdsearch.losses.terms import TermContext, build_terms, label_loss, label_weight, total_loss
from kdsearch.losses.vid import Predictor, vid
from kdsearch.losses.wsl import wsl, wsl_per_sample
from kdsearch.models.build import Outputs, Stage
from kdsearch.records import Choice, TrainConfig, TrialConfig

RELATIVE = 1e-6


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


Z_S, Z_T = 3 * student_sequence(6, 5), 3 * teacher_sequence(6, 5)
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
M_S, M5, M52 = student_sequence(4, 3, 4, 4), student_sequence(4, 5, 4, 4), student_sequence(4, 5, 2, 2)
M_T, M_T2 = teacher_sequence(4, 5, 4, 4), teacher_sequence(4, 5, 2, 2)
E_S, E_T, E4 = student_sequence(5, 4), teacher_sequence(5, 6), teacher_sequence(5, 4)

REFERENCE = {
    "kd, T=1": (lambda: kd(Z_S, Z_T, 1.0), 2.57755044995),
    "kd, T=4": (lambda: kd(Z_S, Z_T, 4.0), 4.30184610807),
    "at": (lambda: at(M_S, M_T), 0.0148117273379),
    "at, student pooled": (lambda: at(M_S, M_T2), 0.0607617686455),
    "sp": (lambda: sp(M_S, M_T), 0.00784216942553),
    "fitnet, bare": (lambda: fitnet(M5, M_T), 1.07427717326),
    "dkd, TCKD": (lambda: dkd(Z_S, Z_T, LABELS, 4.0, tckd_weight=1, nckd_weight=0), 1.04455687002),
    "dkd, NCKD": (lambda: dkd(Z_S, Z_T, LABELS, 4.0, tckd_weight=0, nckd_weight=1), 3.93790460448),
    "dkd": (lambda: dkd(Z_S, Z_T, LABELS, 4.0), 32.5477937058),
    "dist": (lambda: dist(Z_S, Z_T), 2.11577519251),
    "dist, intra": (lambda: dist_intra(Z_S, Z_T), 0.954298160819),
    "logit_std": (lambda: logit_std(Z_S, Z_T), 0.961870416195),
    # dkd's parts of the standardised logits, evaluated from the formulas alone, without this package
    "logit_std_dkd, TCKD": (lambda: logit_std_dkd(Z_S, Z_T, LABELS, nckd_weight=0), 0.278228950438),
    "logit_std_dkd": (lambda: logit_std_dkd(Z_S, Z_T, LABELS), 6.96839449304),
    "wsl": (lambda: wsl(Z_S, Z_T, LABELS, 2.0), 5.62549621354),
    "wsl, equal logits": (lambda: wsl(Z_S, Z_S, LABELS, 2.0), 3.27837427068),
    "nst": (lambda: nst(M_S, M_T), 0.440695460742),
    "nst, student pooled": (lambda: nst(M_S, M_T2), 0.56348086481),
    "pkt": (lambda: pkt(E_S, E_T), 0.162360035231),
    "cc, without heads": (lambda: cc(E_S, E4), 4.60622047616),
    "ab, two stages": (lambda: 0.5 * ab(M5, M_T) + ab(M52, M_T2), 0.262994485558),
    "ab, equal maps": (lambda: ab(M_T, M_T), 0.0547580908308),
    "fsp": (lambda: fsp(M5, M52, M_T, M_T2), 0.0234472324679),
    "ft": (lambda: ft(M5, M_T), 0.0869464027901),
    "mlkd, classes": (lambda: class_correlation(Z_S, Z_T, 4.0), 0.0505138238922),
    "mlkd, samples": (lambda: batch_correlation(Z_S, Z_T, 4.0), 0.0127535326222),
    "ofd": (lambda: ofd(M5, M_T, torch.full((5,), -0.5)), 67.3669596097),
    "ofd, margin": (lambda: negative_mean(tensor(1), tensor(0)), -0.797884560803),
    "ofd, margin, shifted": (lambda: negative_mean(tensor(-0.5), tensor(0.2)), -0.334378085873),
    "ofd, margin, hardly cut": (lambda: negative_mean(tensor(0.1), tensor(0.5)), -0.3),
    "reviewkd": (lambda: hierarchical_context(M5, M_T) + hierarchical_context(M52, M_T2), 1.44386999036),
    "rkd, distance": (lambda: rkd_distance(E_S, E_T), 0.159967564843),
    "rkd, angle": (lambda: rkd_angle(E_S, E_T), 0.103942002915),
    "rkd": (lambda: rkd(E_S, E_T), 9.19628926681),
}


@pytest.mark.parametrize(("loss", "value"), REFERENCE.values(), ids=REFERENCE.keys())
def test_value_of_the_reference(loss: Any, value: float) -> None:
    assert loss().item() == pytest.approx(value, rel=RELATIVE)


SWAPPED, ALIKE = tensor([1, 3], [3, 1]).log(), tensor([1, 3], [1, 9]).log()
ORTHOGONAL = tensor([2, 0], [0, 1]), tensor([1, 0], [0, 3])

# The arithmetic stands above each: what the inputs become on the way, then the formula.
BY_HAND = {
    # T=2: teacher (1/4, 3/4), student (1/2, 1/2); KL = 1/4 ln(1/2) + 3/4 ln(3/2) = 3/4 ln 3 - ln 2; times 4
    "kd": (lambda: kd(tensor([0, 0]), tensor([0, 2 * math.log(3)]), 2.0), 3 * math.log(3) - 4 * math.log(2)),
    # squares (3, 4) / 5 = (.6, .8) against (1, 0): (.16 + .64) / 2
    "at": (lambda: at(tensor([[[math.sqrt(3), 2]]]), tensor([[[1, 0]]])), 0.4),
    # p=1: (3, 4) / 5 against (1, 0), signs dropped
    "at, p=1": (lambda: at(tensor([[[-3, 4]]]), tensor([[[1, 0]]]), p=1), 0.4),
    # the mean of two pixels, 5/2 and 2, then (5/2 - 2)^2
    "fitnet, teacher pooled": (lambda: fitnet(tensor([[[2.0]]]), tensor([[[1.0, 4.0]]])), 0.25),
    # ((1 - 3)^2 + (2 - 2)^2) / 2
    "fitnet": (lambda: fitnet(tensor([[[1, 2]]]), tensor([[[3, 2]]])), 2.0),
    # rows (1, 0), (0, 1) against twice (1, 1) / sqrt 2: 2 ((1 - 1/sqrt 2)^2 + 1/2) / 4
    "sp": (lambda: sp(tensor([1, 0], [0, 1]), tensor([1, 0], [1, 0])), 1 - 1 / math.sqrt(2)),
    # distances 1, 3, 2 over their mean 2 against 1, 2, 1 over 4/3: off by 1/4, 0, 1/4; 4 ((1/4)^2 / 2) / 9
    "rkd, distance": (lambda: rkd_distance(tensor([0], [1], [3]), tensor([0], [1], [2])), 1 / 72),
    # the student's distances, all 1e-6, over their mean are 1: off by 1/4, 1/2, 1/4; 2 (2/32 + 1/8) / 9
    "rkd, distance, one place": (lambda: rkd_distance(tensor([5], [5], [5]), tensor([0], [1], [2])), 1 / 24),
    # cosines at the three vertices 0, 1/sqrt 2, 1/sqrt 2 against 1, -1, 1:
    # 1/2 + (1/sqrt 2 + 1/2) + (1 - 1/sqrt 2)^2 / 2 = 7/4, each angle counted twice among 27
    "rkd, angle": (lambda: rkd_angle(tensor([0, 0], [1, 0], [0, 1]), tensor([0], [1], [2])), 3.5 / 27),
    # student (1/3, 2/3) and (1/2, 1/2), teacher 2 : 1 : 3, so (1/3, 2/3) and (1/4, 3/4): as kd above
    "dkd, same label": (
        lambda: dkd(tensor([0, 0, 0]), tensor([2, 1, 3]).log(), torch.tensor([0]), 1.0, nckd_weight=1.0),
        0.75 * math.log(3) - math.log(2),
    ),
    # teacher 6 : 1 : 1, so (3/4, 1/4) and (1/2, 1/2): 3/4 ln((3/4) / (1/3)) + 1/4 ln((1/4) / (2/3))
    "dkd, same others": (
        lambda: dkd(tensor([0, 0, 0]), tensor([6, 1, 1]).log(), torch.tensor([0]), 1.0),
        0.75 * math.log(9 / 4) + 0.25 * math.log(3 / 8),
    ),
    # two classes: each row's correlation is 1 or -1, here one each; both columns rise against falling ones
    "dist, inter": (lambda: dist_inter(SWAPPED, ALIKE), 1.0),
    "dist, intra": (lambda: dist_intra(SWAPPED, ALIKE), 2.0),
    "dist, T=2": (lambda: dist(2 * SWAPPED, 2 * ALIKE, 2.0), 2.0**2 * (1.0 + 2.0)),
    # two classes become (-1, 1) / sqrt 2 and (1, -1) / sqrt 2; at T = sqrt 2 the log odds are -1 and 1:
    # T^2 = 2 times (p - q) * 1 with p = 1 / (1 + 1/e), q = 1 - p, so 2 tanh(1/2)
    "logit_std": (lambda: logit_std(tensor([0, 1]), tensor([5, 0]), math.sqrt(2)), 2 * math.tanh(0.5)),
    # rows become (-1, 0, 1) and (-1, 1, 0): the label's share is the same, of the others p = 1 / (1 + 1/e)
    # goes to the other one: (p - q) * 1 = tanh(1/2), times 8
    "logit_std_dkd": (
        lambda: logit_std_dkd(tensor([0, 1, 2]), tensor([3, 9, 6]), torch.tensor([0]), 1.0),
        8 * math.tanh(0.5),
    ),
    # label losses ln 2 and ln(4/3), the cross-entropy with a uniform student is ln 2
    "wsl": (
        lambda: wsl(tensor([0, 0]), tensor([3, 1]).log(), torch.tensor([0]), 1.0),
        (1 - math.exp(-math.log(2) / math.log(4 / 3))) * math.log(2),
    ),
    # k(T,T) = k(S,S) = 1, k(S,T) = 0
    "nst": (lambda: nst(tensor([[[2, 0]]]), tensor([[[0, 3]]])), 2.0),
    # a teacher with both channels: k(T,T) = 1/2, k(S,S) = 1, k(S,T) = 1/2
    "nst, more channels": (lambda: nst(tensor([[[2, 0]]]), tensor([[[1, 0]], [[0, 3]]])), 0.5),
    # student rows (2/3, 1/3), teacher rows (1/2, 1/2): 2 (1/2 ln(3/4) + 1/2 ln(3/2)) / 4
    "pkt": (lambda: pkt(tensor([1e3, 0], [0, 1e3]), tensor([1e3, 0], [1e3, 0])), 0.25 * math.log(9 / 8)),
    # ((1 - 3)^2 / 2 + ln 2) / 2
    "vid": (lambda: vid(tensor([[[1]]]), tensor([[[3]]]), tensor(2)), 1 + 0.5 * math.log(2)),
    # deviations (1, 2), (2, 3), (2, 1): (1*2 + 2*3 + 2*2 + 3*1) / 2
    "cc": (lambda: cc(tensor([1, 2], [3, 4], [0, 0]), tensor([0, 0], [1, 1], [2, -1])), 7.5),
    # partners at cosine 1, the other at 0: log(e + 1) - 1
    "infonce": (lambda: infonce(*ORTHOGONAL, tau=1), math.log1p(1 / math.e)),
    # cosines (1, 0), (1, 0): the student picks at log(e + 1) - 1 and log(e + 1), the teacher twice at log 2
    "infonce, one way": (
        lambda: infonce(tensor([1, 0], [1, 0]), tensor([1, 0], [0, 1]), tau=1),
        (math.log(math.e + 1) - 0.5 + math.log(2)) / 2,
    ),
    # every partner is as good as any other
    "infonce, all alike": (lambda: infonce(torch.ones(3, 2), torch.ones(3, 2)), math.log(3)),
    # off its side, in its band, on its side: (0 + 1)^2, (0.5 - 1)^2, 0
    "ab": (lambda: ab(tensor([[[0, 0.5, 2]]]), tensor([[[-1, 1, 1]]])), 3 / 1000 * 1.25),
    # student's flow (2*1, 2*1); teacher's (2*1, 2*2), 2 being the mean of 1 and 3: (0 + (2 - 4)^2) / 2
    "fsp": (
        lambda: fsp(
            tensor([[[2]]]), tensor([[[1]], [[1]]]), tensor([[[1, 3], [1, 3]]]), tensor([[[1]], [[2]]])
        ),
        2.0,
    ),
    # (3, 4) / 5 against (1, 0): (.4 + .8) / 2
    "ft": (lambda: ft(tensor([[[math.sqrt(3), 2]]]), tensor([[[1, 0]]])), 0.6),
    # student (1/2, 1/2), teacher (1/4, 3/4): (1/16 - 1/4)^2 + 2 (3/16 - 1/4)^2 + (9/16 - 1/4)^2, over 2
    "mlkd, classes": (
        lambda: class_correlation(tensor([0, 0]), tensor([1, 3]).log(), 1.0),
        (9 + 2 + 25) / 512,
    ),
    # |teacher|^2 = 10/16 against 1/2
    "mlkd, samples": (lambda: batch_correlation(tensor([0, 0]), tensor([1, 3]).log(), 1.0), 1 / 64),
    # teacher over 0, in the margin with the student above and below, under the margin: 1^2, 0.5^2, 0, 0.5^2
    "ofd": (
        lambda: ofd(tensor([[[1, 0, -0.75, -0.5]]]), tensor([[[2, -0.5, -0.5, -3]]]), tensor(-1)),
        1.5,
    ),
    # 2x2 maps: (4^2 + 0 + 0 + 0) / 4 in full, 1^2 as one pixel with weight 1/2: 4.5 / 1.5
    "reviewkd": (lambda: hierarchical_context(tensor([[[4, 0], [0, 0]]]), torch.zeros(1, 1, 2, 2)), 3.0),
    # 72 times the 1/72 from above
    "rkd": (
        lambda: rkd(
            tensor([0, 0], [1, 0], [3, 0]), tensor([0], [1], [2]), distance_weight=72, angle_weight=0
        ),
        1.0,
    ),
}


@pytest.mark.parametrize(("loss", "value"), BY_HAND.values(), ids=BY_HAND.keys())
def test_value_worked_out_by_hand(loss: Any, value: float) -> None:
    assert loss().item() == pytest.approx(value, rel=RELATIVE)


WHERE_EQUAL = {
    "kd": lambda: kd(Z_S, Z_S, 4.0),
    "kd, shifted by a constant per sample": lambda: kd(Z_S + torch.arange(6.0)[:, None], Z_S, 4.0),
    "at": lambda: at(M_S, M_S),
    "at, scaled": lambda: at(3 * M_S, M_S),
    "at, one pixel": lambda: at(E_S[:, :, None, None], E4[:, :, None, None]),
    "fitnet": lambda: fitnet(M_T, M_T),
    "sp": lambda: sp(M_S, M_S),
    "sp, scaled and mirrored": lambda: sp(2 * M_S.flip(1), M_S),
    "fsp": lambda: fsp(M_T, M_T2, M_T, M_T2),
    "ft": lambda: ft(M_T, M_T),
    "mlkd, classes": lambda: class_correlation(Z_S, Z_S, 4.0),
    "mlkd, samples": lambda: batch_correlation(Z_S, Z_S, 4.0),
    "ofd": lambda: ofd(M_T, M_T, torch.full((5,), -1.0)),
    "reviewkd": lambda: hierarchical_context(M_T, M_T),
    "dkd": lambda: dkd(Z_S, Z_S, LABELS, 4.0),
    "logit_std": lambda: logit_std(Z_S, Z_S),
    "logit_std_dkd": lambda: logit_std_dkd(Z_S, Z_S, LABELS),
    "nst": lambda: nst(M_S, M_S),
    "nst, scaled and mirrored": lambda: nst(2 * M_S.flip(1), M_S),
    "pkt": lambda: pkt(E_S, E_S),
    "cc": lambda: cc(E_S, E_S),
    "rkd, distance": lambda: rkd_distance(E_S, E_S),
    "rkd, angle": lambda: rkd_angle(E_S, E_S),
    "rkd, moved and scaled": lambda: rkd(2 * E_S + 1, E_S),
}


@pytest.mark.parametrize("loss", WHERE_EQUAL.values(), ids=WHERE_EQUAL.keys())
def test_zero_where_student_and_teacher_agree(loss: Any) -> None:
    assert loss().item() == pytest.approx(0.0, abs=1e-14)


def test_kd_gradient_is_temperature_times_the_difference_of_probabilities() -> None:
    logits = Z_S.clone().requires_grad_()
    kd(logits, Z_T, 4.0).backward()
    expected = 4.0 / 6 * ((Z_S / 4).softmax(1) - (Z_T / 4).softmax(1))
    torch.testing.assert_close(logits.grad, expected)


def test_kd_stays_finite_where_probabilities_underflow() -> None:
    logits = (1e4 * Z_S.float()).requires_grad_()
    loss = kd(logits, 1e4 * Z_T.float(), 1.0)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_attention_is_the_energy_of_all_channels_as_a_unit_vector() -> None:
    energy = attention_map(M_S)
    torch.testing.assert_close(energy.square().sum(1), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(
        energy[0] / energy[0, 0], (M_S[0] ** 2).sum(0).flatten() / (M_S[0, :, 0, 0] ** 2).sum()
    )


@pytest.mark.parametrize("sizes", [(1, 1), (1, 4), (4, 1)])
def test_at_refuses_maps_of_one_pixel_in_words(sizes: tuple[int, int]) -> None:
    single = context(student_sizes=(8, sizes[0]), teacher_sizes=(8, sizes[1]))
    with pytest.raises(ValueError, match=r"at .*stage2>stage2.*single pixel"):
        build_at({"layer_map": "stage2>stage2", "p": 2}, single)


def test_sp_is_blind_to_the_order_of_the_batch() -> None:
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(sp(M_S[order], M_T[order]), sp(M_S, M_T))


def test_rkd_in_pieces_has_the_same_value_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, in_pieces = E_S.clone().requires_grad_(), E_S.clone().requires_grad_()
    rkd_angle(at_once, E_T).backward()
    monkeypatch.setattr(rkd_module, "ANGLES_AT_ONCE", 2 * 5 * 6)
    loss = rkd_angle(in_pieces, E_T)
    loss.backward()
    assert loss.item() == pytest.approx(0.103942002915, rel=RELATIVE)
    torch.testing.assert_close(in_pieces.grad, at_once.grad)


def test_rkd_of_coinciding_samples_has_a_moderate_gradient() -> None:
    embedding = tensor([0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [2.0, 1.0]).requires_grad_()
    rkd(embedding, E_T[:4]).backward()
    assert embedding.grad.abs().max() < 1e8


def test_rkd_of_a_single_sample_is_zero() -> None:
    embedding = E_S[:1].clone().requires_grad_()
    loss = rkd(embedding, E_T[:1])
    loss.backward()
    assert loss.item() == 0.0
    assert embedding.grad.isfinite().all()


def test_rkd_gradient_is_the_derivative() -> None:
    assert torch.autograd.gradcheck(lambda e: rkd(e, E_T), E_S.clone().requires_grad_())


def test_dist_is_about_1e_7_where_the_logits_agree() -> None:
    assert dist(Z_S, Z_S).item() == pytest.approx(8.8848e-08, rel=1e-4)


def test_dkd_is_kd_with_the_parts_weighed_apart() -> None:
    target, others = (part(Z_S, Z_T, LABELS, 4.0) for part in (tckd, nckd))
    label_probability = (Z_T / 4).softmax(1).gather(1, LABELS[:, None])[:, 0]
    torch.testing.assert_close((target + (1 - label_probability) * others).mean(), kd(Z_S, Z_T, 4.0))


def test_dkd_stays_finite_where_probabilities_underflow() -> None:
    logits = (1e4 * Z_S.float()).requires_grad_()
    loss = dkd(logits, 1e4 * Z_T.float(), LABELS, 1.0)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(("epoch", "share"), [(1, 1 / 20), (10, 1 / 2), (20, 1), (240, 1)])
def test_dkd_grows_over_the_first_20_of_240_epochs(epoch: int, share: float) -> None:
    config = trial(response=Choice("dkd"))
    terms = build_terms(config, dataclasses.replace(context(), num_epochs=240))
    _, parts = total_loss(config, terms, outputs(seed=1), outputs(seed=2), batch(), epoch)
    total = parts["dkd_target"] + parts["dkd_others"]
    assert total.item() == pytest.approx(share * 32.5477937058, rel=RELATIVE)


def test_dkd_without_warmup_is_whole_from_the_first_epoch() -> None:
    config = trial(response=Choice("dkd", {"warmup": 0.0}))
    terms = build_terms(config, context())
    _, parts = total_loss(config, terms, outputs(seed=1), outputs(seed=2), batch(), 1)
    assert parts["dkd_target"].item() == pytest.approx(1.04455687002, rel=RELATIVE)


@pytest.mark.parametrize(("method", "per_sample"), [("dkd_target", tckd), ("wsl", wsl_per_sample)])
def test_mixed_labels_share_a_loss_that_reads_labels(method: str, per_sample: Any) -> None:
    config = trial(response=Choice(method.split("_")[0], {"scale": 1.0, "warmup": 0.0}))
    others, mix = LABELS.flip(0), torch.linspace(0, 1, 6, dtype=torch.float64)
    terms = build_terms(config, context())
    _, parts = total_loss(config, terms, outputs(seed=1), outputs(seed=2), batch(LABELS, others, mix), 1)
    first, second = (per_sample(Z_S, Z_T, labels, 4.0) for labels in (LABELS, others))
    torch.testing.assert_close(parts[method], (mix * first + (1 - mix) * second).mean())


def test_logit_std_ignores_the_size_of_the_logits() -> None:
    logits = Z_S.clone().requires_grad_()
    logit_std(logits, Z_T).backward()
    assert (logits.grad * Z_S).sum(1).abs().max() < 1e-6
    assert logit_std(3 * Z_S, Z_T).item() == pytest.approx(0.961870416195, rel=1e-6)


def test_logit_std_dkd_of_two_classes_is_logit_std() -> None:
    two = Z_S[:, :2], Z_T[:, :2]
    assert logit_std_dkd(*two, LABELS % 2).item() == pytest.approx(logit_std(*two).item(), rel=1e-12)


def test_logit_std_dkd_ignores_the_size_of_the_logits() -> None:
    larger = logit_std_dkd(3 * Z_S + 1, Z_T, LABELS)
    assert larger.item() == pytest.approx(6.96839449304, rel=1e-6)


def test_logit_std_dkd_is_nine_times_as_much_in_the_loss() -> None:
    config = trial(response=Choice("logit_std_dkd"))
    _, parts = total_loss(
        config, build_terms(config, context(temperature=2.0)), outputs(seed=1), outputs(seed=2), batch(), 1
    )
    assert sum(parts.values()) - parts["label"] == pytest.approx(9 * 6.96839449304, rel=1e-6)


def test_logit_std_of_constant_logits_is_finite() -> None:
    logits = torch.zeros(6, 5, dtype=torch.float64, requires_grad=True)
    loss = logit_std(logits, Z_T)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_wsl_gradient_is_that_of_kd_times_its_weight() -> None:
    logits = Z_S.clone().requires_grad_()
    wsl(logits, Z_T, LABELS, 2.0).backward()
    losses = [nn.functional.cross_entropy(z, LABELS, reduction="none") for z in (Z_S, Z_T)]
    weight = 1 - (-losses[0] / (losses[1] + 1e-7)).exp()
    expected = 2.0 / 6 * weight[:, None] * ((Z_S / 2).softmax(1) - (Z_T / 2).softmax(1))
    torch.testing.assert_close(logits.grad, expected)


def test_nst_refuses_maps_of_one_pixel_in_words() -> None:
    with pytest.raises(ValueError, match=r"nst .*single pixel"):
        build_nst({"layer_map": "stage1>stage1"}, context(student_sizes=(1,), teacher_sizes=(4,)))


@pytest.mark.parametrize("variance", [0.01, 5.0, 100.0])
def test_vid_starts_from_the_variance_it_is_given(variance: float) -> None:
    predictor = Predictor(Stage("stage1", 3, 4), Stage("stage1", 5, 4), variance).double()
    expected = vid(predictor.mean(M_S), M_T, torch.full((5,), variance, dtype=torch.float64))
    torch.testing.assert_close(predictor(M_S, M_T), expected, rtol=1e-5, atol=0)


def test_vid_predicts_from_the_pooled_student() -> None:
    predictor = Predictor(Stage("stage1", 3, 4), Stage("stage1", 5, 2), 1.0).double()
    pooled = nn.functional.avg_pool2d(M_S, 2)
    expected = vid(predictor.mean(pooled), M_T2, torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(predictor(M_S, M_T2), expected, rtol=1e-5, atol=0)


def test_cc_of_a_single_sample_is_zero() -> None:
    assert cc(E_S[:1], E4[:1]).item() == 0.0


OF_MAPS = {
    "ab": ab,
    "fsp": lambda student, teacher: fsp(student, student, teacher, teacher),
    "ft": ft,
    "mlkd, classes": lambda student, teacher: class_correlation(
        student[:, :, 0, 0], teacher[:, :, 0, 0], 4.0
    ),
    "mlkd, samples": lambda student, teacher: batch_correlation(
        student[:, :, 0, 0], teacher[:, :, 0, 0], 4.0
    ),
    "ofd": lambda student, teacher: ofd(student, teacher, torch.full((5,), -0.5)),
    "reviewkd": hierarchical_context,
}


@pytest.mark.parametrize("loss", OF_MAPS.values(), ids=OF_MAPS.keys())
def test_only_the_student_gets_a_gradient(loss: Any) -> None:
    student, teacher = M5.clone().requires_grad_(), M_T.clone().requires_grad_()
    loss(student, teacher).backward()
    assert student.grad.any()
    assert teacher.grad is None


@pytest.mark.parametrize(
    ("student_size", "teacher_size", "projected_size"),
    [
        (8, 8, 8),
        (8, 4, 4),
        (4, 8, 8),
        (8, 3, 3),
        (5, 4, 4),
        (3, 8, 3),
        (1, 1, 1),
        (2, 1, 1),
        (1, 2, 2),
        (1, 4, 1),
    ],
)
def test_regressor_brings_the_map_to_the_teachers_shape(
    student_size: int, teacher_size: int, projected_size: int
) -> None:
    regressor = Regressor(Stage("stage1", 3, student_size), Stage("stage1", 5, teacher_size))
    projected = regressor(torch.randn(2, 3, student_size, student_size))
    assert projected.shape == (2, 5, projected_size, projected_size)


def test_regressor_is_a_convolution_a_batch_norm_and_a_relu() -> None:
    regressor = Regressor(Stage("stage1", 3, 4), Stage("stage1", 5, 4)).double()
    kernel, bias = regressor.conv.weight[:, :, 0, 0], regressor.conv.bias
    linear = torch.einsum("oc,bchw->bohw", kernel, M_S) + bias[:, None, None]
    mean, variance = linear.mean((0, 2, 3), keepdim=True), linear.var((0, 2, 3), keepdim=True, unbiased=False)
    torch.testing.assert_close(regressor(M_S), ((linear - mean) / (variance + 1e-5).sqrt()).relu())


def test_regressor_without_relu_goes_below_zero() -> None:
    regressor = Regressor(Stage("stage1", 3, 4), Stage("stage1", 5, 4), relu=False).double()
    assert regressor(M_S).min() < 0


def test_regressor_trains_on_one_value_per_channel() -> None:
    regressor = Regressor(Stage("stage1", 3, 1), Stage("stage1", 5, 1))
    regressor(torch.ones(1, 3, 1, 1)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in regressor.parameters())


def test_fitnet_adds_its_pairs_each_with_its_own_regressor() -> None:
    term = build_fitnet({"layer_map": "stage1>stage1,stage2>stage2"}, context())
    student, teacher = outputs(seed=1), outputs(seed=2)
    expected = [
        fitnet(regressor(student.features[name]), teacher.features[name])
        for regressor, name in zip(term.regressors, ("stage1", "stage2"), strict=True)
    ]
    value = term(student, teacher, batch(), 1)["fitnet"]
    torch.testing.assert_close(value, expected[0] + expected[1])
    assert term.regressors[0] is not term.regressors[1]


def test_at_and_sp_add_their_pairs() -> None:
    options = {"layer_map": "stage1>stage1,stage2>stage3"}
    config = trial(feature=Choice("at", options), relation=Choice("sp", options))
    student, teacher = outputs(seed=1), outputs(seed=2)
    _, parts = total_loss(config, build_terms(config, context()), student, teacher, batch(), 1)
    pairs = [
        (student.features[s], teacher.features[t]) for s, t in (("stage1", "stage1"), ("stage2", "stage3"))
    ]
    torch.testing.assert_close(parts["at"], at(*pairs[0]) + at(*pairs[1]))
    torch.testing.assert_close(parts["sp"], sp(*pairs[0]) + sp(*pairs[1]))


def test_unit_leaves_zero_where_it_is_without_a_gradient() -> None:
    x = tensor([3.0, 4.0], [0.0, 0.0]).requires_grad_()
    y = unit(x, dim=1)
    y[1].sum().backward()
    torch.testing.assert_close(y.detach(), tensor([0.6, 0.8], [0.0, 0.0]))
    assert x.grad.abs().max() == 0


@pytest.mark.parametrize(("student", "teacher"), [(M_S, M_T2), (M52, M_T), (M_S, M_T)])
def test_pool_smaller_gives_both_the_smaller_resolution(student: Tensor, teacher: Tensor) -> None:
    pooled = pool_smaller(student, teacher)
    smaller = min(student.shape[2], teacher.shape[2])
    assert [tuple(x.shape[2:]) for x in pooled] == [(smaller, smaller)] * 2
    torch.testing.assert_close(pooled[0].mean((2, 3)), student.mean((2, 3)))
    torch.testing.assert_close(pooled[1].mean((2, 3)), teacher.mean((2, 3)))


# The weighted sum.


def context(
    student_sizes: tuple[int, ...] = (4, 2, 2),
    teacher_sizes: tuple[int, ...] = (8, 4, 2),
    temperature: float = 4.0,
) -> TermContext:
    return TermContext(
        student_stages=tuple(Stage(f"stage{i}", 3, size) for i, size in enumerate(student_sizes, 1)),
        teacher_stages=tuple(Stage(f"stage{i}", 5, size) for i, size in enumerate(teacher_sizes, 1)),
        student_features=3,
        teacher_features=5,
        num_classes=5,
        scheduled_temperature=lambda epoch: temperature,
        num_samples=100,
        num_epochs=10,
    )


def outputs(seed: int) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    channels, sizes = {1: (3, (4, 2, 2)), 2: (5, (8, 4, 2))}[seed]
    features = {
        f"stage{i}": torch.randn(6, channels, size, size, generator=generator)
        for i, size in enumerate(sizes, 1)
    }
    embedding = torch.randn(6, channels, generator=generator)
    return Outputs({1: Z_S, 2: Z_T}[seed], features, embedding)


def batch(labels: Tensor = LABELS, mixed_labels: Tensor | None = None, mix: Tensor | None = None) -> Batch:
    images, indices = torch.zeros(len(labels), 1, 8, 8), torch.arange(len(labels))
    return Batch(images, labels, indices, mixed_labels, mix)


def trial(
    label_smoothing: float = 0.0, label: float | None = None, alpha: float = 0.25, **slots: Choice
) -> TrialConfig:
    return TrialConfig(
        student=Choice("resnet"),
        train=TrainConfig(epochs=10, label_smoothing=label_smoothing),
        distill=slots,
        alpha=alpha,
        temperature=4.0,
        label_weight=label,
    )


KD, RKD = Choice("kd"), Choice("rkd", {"weight": 2.0})


def test_without_distillation_the_loss_is_the_cross_entropy() -> None:
    loss, parts = total_loss(trial(), {}, outputs(seed=1), None, batch(), 1)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(Z_S, LABELS))
    assert parts == {"label": loss}


def test_the_total_is_the_weighted_sum_of_the_named_parts() -> None:
    config = trial(response=KD, relation=RKD)
    loss, parts = total_loss(
        config, build_terms(config, context()), outputs(seed=1), outputs(seed=2), batch(), 1
    )
    assert list(parts) == ["label", "kd", "rkd_distance", "rkd_angle"]
    expected = 0.75 * parts["label"] + 0.25 * parts["kd"] + 2.0 * (parts["rkd_distance"] + parts["rkd_angle"])
    torch.testing.assert_close(loss, expected.to(loss.dtype))


def test_rkd_parts_carry_the_methods_own_weights() -> None:
    config = trial(relation=Choice("rkd", {"distance_weight": 3.0, "angle_weight": 7.0}))
    student, teacher = outputs(seed=1), outputs(seed=2)
    _, parts = total_loss(config, build_terms(config, context()), student, teacher, batch(), 1)
    torch.testing.assert_close(
        parts["rkd_distance"], 3.0 * rkd_distance(student.embedding, teacher.embedding)
    )
    torch.testing.assert_close(parts["rkd_angle"], 7.0 * rkd_angle(student.embedding, teacher.embedding))


def test_parts_hold_no_graph() -> None:
    config = trial(response=KD)
    student = outputs(seed=1)._replace(logits=Z_S.clone().requires_grad_())
    loss, parts = total_loss(config, build_terms(config, context()), student, outputs(seed=2), batch(), 1)
    assert loss.requires_grad
    assert not any(part.requires_grad for part in parts.values())


LABEL_WEIGHTS = {
    "control": (trial(), 1.0),
    "relation only": (trial(relation=RKD), 1.0),
    "relation only, own weight": (trial(relation=RKD, label=0.5), 0.5),
    "kd": (trial(response=KD), 0.75),
    "kd, own weight": (trial(response=KD, label=0.5), 0.5),
    "kd, no labels": (trial(response=KD, label=0.0), 0.0),
    "dkd": (trial(response=Choice("dkd")), 1.0),
    "dkd, own weight": (trial(response=Choice("dkd"), label=0.5), 0.5),
    "logit_std": (trial(response=Choice("logit_std")), 0.1),
    "logit_std_dkd": (trial(response=Choice("logit_std_dkd")), 1.0),
}


@pytest.mark.parametrize(("config", "weight"), LABEL_WEIGHTS.values(), ids=LABEL_WEIGHTS.keys())
def test_label_weight(config: TrialConfig, weight: float) -> None:
    assert label_weight(config) == weight


def test_mixed_labels_share_the_cross_entropy() -> None:
    # uniform but for the first class: -log p is log(4 + e) - 1 for label 0 and log(4 + e) for any other
    logits = tensor([1, 0, 0, 0, 0], [1, 0, 0, 0, 0])
    mixed = batch(torch.tensor([0, 1]), torch.tensor([2, 0]), tensor(0.75, 0.5))
    expected = math.log(4 + math.e) - (0.75 + 0.5) / 2
    assert label_loss(logits, mixed).item() == pytest.approx(expected, rel=1e-12)


def test_label_smoothing_spreads_the_target() -> None:
    # 0.8 + 0.2 / 5 on the label, 0.2 / 5 on each other class
    logits = tensor([1, 0, 0, 0, 0])
    expected = math.log(4 + math.e) - (0.8 + 0.2 / 5)
    assert label_loss(logits, batch(torch.tensor([0])), label_smoothing=0.2).item() == pytest.approx(
        expected, rel=1e-12
    )


def test_label_smoothing_of_the_recipe_reaches_the_loss() -> None:
    config = trial(label_smoothing=0.1)
    loss, _ = total_loss(config, {}, outputs(seed=1), None, batch(), 1)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(Z_S, LABELS, label_smoothing=0.1))
