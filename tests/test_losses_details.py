"""The feature methods that need more of a network: values by hand, limiting cases, parts of their own."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from sequences import student_sequence as s
from sequences import teacher_sequence as t
from torch import Tensor, nn

from kdsearch.data.views import Batch
from kdsearch.losses.ab import AB, ab
from kdsearch.losses.fsp import Fsp, fsp
from kdsearch.losses.ft import FT, Paraphraser, ft
from kdsearch.losses.ofd import OFD, negative_mean, ofd
from kdsearch.losses.regressor import projector
from kdsearch.losses.reviewkd import Fusion, ReviewKD, reviewkd
from kdsearch.losses.svd import build as build_svd
from kdsearch.losses.svd import right_vectors, svd
from kdsearch.losses.terms import Access, TermContext
from kdsearch.models.build import Architecture, Classifier, Outputs, Stage

LATE = 30


M5, M52, MT, MT2 = s(4, 5, 4, 4), s(4, 5, 2, 2), t(4, 5, 4, 4), t(4, 5, 2, 2)
STAGES = Stage("stage1", 5, 4), Stage("stage2", 5, 2)
SAME = tuple((stage, stage) for stage in STAGES)
BATCH = Batch(torch.zeros(4, 1, 4, 4), labels=torch.zeros(4, dtype=torch.long), indices=torch.arange(4))


def network(first: Tensor, second: Tensor) -> Outputs:
    """Two stages, the first one's map also the stem's; what is behind the activation is never read here."""
    maps = {"stage1": first, "stage2": second}
    details = {"before": maps, "stem": {"stem": first}}
    return Outputs(torch.zeros(4, 2), maps, first.mean((2, 3)), details)


STUDENT, TEACHER = network(M5, M52), network(MT, MT2)


class Model(Classifier):
    """A teacher whose maps are TEACHER's, with a batch norm in front of its last activation only."""

    def __init__(self) -> None:
        super().__init__(Architecture("stub", {}, 2, 1, 4), STAGES, 5)
        self.norm = nn.BatchNorm2d(5)
        nn.init.constant_(self.norm.weight, 0.5)
        nn.init.constant_(self.norm.bias, 0.2)

    def norms(self) -> dict[str, nn.BatchNorm2d | None]:
        return {"stage1": None, "stage2": self.norm}


def access() -> Access:
    model = Model()
    return Access(
        student=lambda images: STUDENT,
        teacher=lambda images: TEACHER,
        view=lambda indices, epoch, number: BATCH,
        strong=lambda indices, epoch: BATCH,
        labels=BATCH.labels,
        student_model=model,
        teacher_model=model,
    )


def context() -> TermContext:
    return TermContext(STAGES, STAGES, 5, 5, 2, lambda epoch: None, 4, LATE, access=access())


def value(term: nn.Module, epoch: int = LATE) -> Tensor:
    parts: dict[str, Tensor] = term(STUDENT, TEACHER, BATCH, epoch)
    return torch.stack(list(parts.values())).sum()


# Where the shapes agree, the terms are the check values of the plain functions.


def test_ab_weighs_each_stage_by_half_of_the_next() -> None:
    assert value(AB(SAME, margin=1.0)).item() == pytest.approx(0.262994485558, rel=1e-6)


def test_fsp_goes_from_the_stem_through_every_stage() -> None:
    from_the_stem = fsp(M5, M5, MT, MT).item()
    assert value(Fsp((5, 5), SAME)).item() == pytest.approx(0.0234472324679 + from_the_stem, rel=1e-6)


def test_reviewkd_is_the_sum_of_its_levels() -> None:
    assert reviewkd([M5, M52], [MT, MT2]).item() == pytest.approx(1.44386999036, rel=1e-6)


def test_projectors_are_there_only_where_the_channels_differ() -> None:
    assert isinstance(projector(4, 4), nn.Identity)
    assert projector(4, 6)(torch.zeros(2, 4, 3, 3)).shape == (2, 6, 3, 3)


# svd.


def test_svd_of_single_pixels_by_hand() -> None:
    """The only direction of a pixel is itself as a unit vector; it takes the teacher's sign."""

    def pixel(*values: float) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).reshape(1, -1, 1, 1)

    student = [pixel(3, 4), pixel(-8, -6)]  # directions (0.6, 0.8) and (0.8, 0.6)
    teacher = [pixel(2, 0), pixel(0, -1)]  # directions (1, 0) and (0, 1)
    expected = 2 * (math.exp(-(0.2**2) / 8) - math.exp(-1 / 8)) ** 2
    assert svd(student, teacher).item() == pytest.approx(expected, rel=1e-9)


def reference_svd(student: list[Tensor], teacher: list[Tensor], k: int) -> float:
    """The definition, matrix by matrix."""
    total = 0.0
    for image in range(len(student[0])):
        directions = []
        for student_map, teacher_map in zip(student, teacher, strict=True):
            _, values, rows = torch.linalg.svd(teacher_map[image].flatten(1).T, full_matrices=False)
            share = values[:k] / values[:k].norm()
            columns = [row if row[row.abs().argmax()] > 0 else -row for row in rows[:k]]
            _, _, candidates = torch.linalg.svd(student_map[image].flatten(1).T, full_matrices=False)
            chosen = []
            for column in columns:
                likeness = candidates[: k + 3] @ column
                best = likeness.abs().argmax()
                chosen.append(candidates[best] * likeness[best].sign())
            directions.append((torch.stack(chosen) * share[:, None], torch.stack(columns) * share[:, None]))
        for (s1, t1), (s2, t2) in pairwise(directions):
            for j in range(k):
                affinities = [
                    torch.exp(-((b[j][:, None] - a[j][None]) ** 2) / 8) for a, b in ((s1, s2), (t1, t2))
                ]
                total += (affinities[0] - affinities[1]).square().sum().item()
    return total / len(student[0])


@pytest.mark.parametrize("components", [1, 2, 4])
def test_svd_is_the_definition_taken_literally(components: int) -> None:
    expected = reference_svd([M5, M52], [MT, MT2], components)
    assert svd([M5, M52], [MT, MT2], components).item() == pytest.approx(expected, rel=1e-6)


def test_svd_is_zero_for_equal_maps_and_for_scaled_ones() -> None:
    assert svd([MT, MT2], [MT, MT2]) < 1e-20
    assert svd([3.0 * MT, -0.5 * MT2], [MT, MT2]) < 1e-20


def test_svd_looks_past_directions_that_a_map_does_not_have() -> None:
    """A projected map of 2 channels has rank 2 in any number of channels."""
    projected = [torch.einsum("bchw,cd->bdhw", map_[:, :2], s(2, 5)) for map_ in (M5, M52)]
    in_float32 = svd([x.float() for x in projected], [MT.float(), MT2.float()])
    assert in_float32.item() == pytest.approx(svd(projected, [MT, MT2]).item(), rel=1e-4)


def test_svd_takes_what_directions_there_are() -> None:
    assert svd([M5, M52], [MT, MT2], components=64).isfinite()
    assert svd([M5, M52], [MT, MT2], components=64) == svd([M5, M52], [MT, MT2], components=4)


def test_gradient_of_the_singular_vectors_is_the_true_one_where_they_are_apart() -> None:
    start = s(3, 6, 4).requires_grad_()
    mine, reference = [
        torch.autograd.grad((outer(vectors) * t(3, 4, 4)).sum(), start)[0]
        for vectors in (
            right_vectors(start, 2)[0],
            torch.linalg.svd(start, full_matrices=False)[2].mT[:, :, :2],
        )
    ]
    torch.testing.assert_close(mine, reference, rtol=1e-3, atol=1e-4)


def outer(vectors: Tensor) -> Tensor:
    """v v' of the first one, which has no sign."""
    return vectors[:, :, :1] @ vectors[:, :, :1].mT


@pytest.mark.parametrize(
    "matrix",
    [torch.eye(4), torch.ones(4, 4), torch.zeros(4, 4), torch.eye(4) + 1e-6 * torch.diag(torch.arange(4.0))],
    ids=["equal", "rank one", "zero", "close"],
)
def test_gradient_of_the_singular_vectors_is_bounded_wherever_values_are_equal(matrix: Tensor) -> None:
    start = matrix[None].clone().requires_grad_()
    vectors, _ = right_vectors(start, 2)
    (vectors * torch.arange(8.0).reshape(1, 4, 2)).sum().backward()  # type: ignore[no-untyped-call]  # untyped
    assert start.grad is not None
    assert start.grad.isfinite().all()
    assert start.grad.abs().max() < 1e5


def test_svd_has_finite_gradients_for_maps_that_are_constant_or_dead() -> None:
    for maps in (torch.zeros(4, 5, 4, 4), torch.ones(4, 5, 4, 4)):
        student = [maps.clone().requires_grad_(), M52.float()]
        svd(student, [MT.float(), MT2.float()]).backward()  # type: ignore[no-untyped-call]  # untyped
        assert student[0].grad is not None
        assert student[0].grad.isfinite().all()


def test_svd_refuses_a_single_pair() -> None:
    with pytest.raises(ValueError, match="stage2>stage2 has one pair, it needs two"):
        build_svd({"layer_map": "stage2>stage2", "components": 1}, context())


# ft.


def factor_transfer(passes: int, rate: float = 0.5) -> FT:
    torch.manual_seed(0)
    term = FT(SAME[-1:], rate=rate, passes=passes, lr=0.01, access=access())
    return term.double()


def test_paraphraser_learns_to_restore_the_teachers_map() -> None:
    term = factor_transfer(passes=100)
    (paraphraser,) = term.paraphrasers
    start = F.mse_loss(paraphraser(MT2)[1], MT2).item()
    term.prepare([BATCH])
    assert F.mse_loss(paraphraser(MT2)[1], MT2).item() < 0.5 * start


def test_paraphraser_stays_as_it_is_while_the_student_trains() -> None:
    term = factor_transfer(passes=1)
    term.prepare([BATCH])
    value(term).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert all(parameter.grad is None for parameter in term.paraphrasers.parameters())
    assert all(parameter.grad is not None for parameter in term.translators.parameters())


def test_factor_has_the_share_of_channels_asked_for() -> None:
    assert Paraphraser(5, 2)(torch.zeros(1, 5, 4, 4))[0].shape == (1, 2, 4, 4)
    (translator,) = factor_transfer(passes=0, rate=0.5).translators
    assert translator(M52).shape == (4, 2, 2, 2)


def test_ft_is_the_plain_function_of_both_factors() -> None:
    term = factor_transfer(passes=0)
    (translator,), (paraphraser,) = term.translators, term.paraphrasers
    expected = ft(translator(M52), paraphraser(MT2)[0])
    torch.testing.assert_close(value(term), expected)


# ofd.


def overhaul() -> OFD:
    torch.manual_seed(0)
    return OFD(SAME, access()).double()


def test_margins_come_from_the_batch_norm_where_there_is_one() -> None:
    expected = negative_mean(torch.full((5,), 0.5), torch.full((5,), 0.2)).double()
    torch.testing.assert_close(overhaul().get_buffer("margin_stage2"), expected)
    assert expected[0].item() == pytest.approx(-0.334378085873, rel=1e-6)


def test_margins_are_measured_where_there_is_none() -> None:
    term = overhaul()
    term.prepare([BATCH, BATCH])
    measured = term.get_buffer("margin_stage1")
    for channel, margin in enumerate(measured):
        values = MT[:, channel]
        torch.testing.assert_close(margin, values[values < 0].mean())
    assert term.get_buffer("margin_stage2")[0].item() == pytest.approx(-0.334378085873, rel=1e-6)


def test_a_batch_norm_without_scale_has_a_finite_margin() -> None:
    assert negative_mean(torch.zeros(3), torch.tensor([-1.0, 0.0, 1.0])).isfinite().all()


def test_ofd_weighs_each_stage_by_half_of_the_next() -> None:
    term = overhaul()
    term.prepare([BATCH])
    first, second = term.connectors
    expected = ofd(second(M52), MT2, term.get_buffer("margin_stage2"))
    expected = expected + 0.5 * ofd(first(M5), MT, term.get_buffer("margin_stage1"))
    torch.testing.assert_close(value(term), expected)


# ab.


def test_ab_leaves_a_teachers_map_that_no_convolution_reaches_to_pooling() -> None:
    pair = ((Stage("stage2", 5, 2), Stage("stage1", 5, 3)),)
    teacher = network(t(4, 5, 3, 3), MT2)
    term = AB(pair, margin=1.0).double()
    (connector,) = term.connectors
    expected = ab(connector(M52), F.adaptive_avg_pool2d(t(4, 5, 3, 3), 2))
    torch.testing.assert_close(term(STUDENT, teacher, BATCH, LATE)["ab"], expected)


# reviewkd.

EMBEDDING = Stage("embedding", 5, 1)


def review(before: bool = False, warmup_epochs: float = 10.0) -> ReviewKD:
    torch.manual_seed(0)
    return ReviewKD([*SAME, (EMBEDDING, EMBEDDING)], 6, warmup_epochs, before).double()


def test_reviewkd_grows_to_its_weight_in_the_warm_up() -> None:
    full = value(review())
    torch.testing.assert_close(value(review(), epoch=10), full)
    torch.testing.assert_close(value(review(), epoch=1), 0.1 * full)


def test_deeper_levels_reach_every_earlier_output() -> None:
    embedding = STUDENT.embedding.clone().requires_grad_()
    residual = None
    term = review()
    for fusion, student_map in zip(
        reversed(list(term.fusions)), (embedding[:, :, None, None], M52, M5), strict=True
    ):
        residual, fused = fusion(student_map, residual)
        (gradient,) = torch.autograd.grad(fused.square().sum(), embedding, retain_graph=True)
        assert gradient.abs().max() > 0


def test_closed_gates_leave_a_level_to_itself() -> None:
    """sigmoid(100) = 1 for the own map and sigmoid(-100) = 0 for the deeper one."""
    torch.manual_seed(0)
    fusion = Fusion(STAGES[1], STAGES[1], width=6, deepest=False)
    assert fusion.gates is not None
    nn.init.zeros_(fusion.gates.weight)
    fusion.gates.bias.data = torch.tensor([100.0, -100.0])
    deeper = torch.randn(4, 6, 1, 1)
    residual, _ = fusion(M52.float(), deeper)
    torch.testing.assert_close(residual, fusion.narrow(M52.float()))


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_fusion_ends_in_the_teachers_resolution(size: int) -> None:
    fusion = Fusion(STAGES[0], Stage("stage1", 7, size), width=6, deepest=False)
    residual, fused = fusion(M5.float(), torch.randn(4, 6, 2, 2))
    assert residual.shape == (4, 6, size, size)
    assert fused.shape == (4, 7, size, size)


def test_the_switch_takes_the_students_maps_from_before_the_activation() -> None:
    features = {name: map_.relu() for name, map_ in STUDENT.features.items()}
    student = STUDENT._replace(features=features)
    behind, before = (review(switch)(student, TEACHER, BATCH, LATE)["reviewkd"] for switch in (False, True))
    torch.testing.assert_close(before, value(review()))
    assert behind.item() != pytest.approx(before.item(), rel=1e-3)
