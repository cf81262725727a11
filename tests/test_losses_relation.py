"""Relations between the images of a batch, on the embeddings of any stage."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kdsearch.data.views import Batch
from kdsearch.losses.gram import build as build_gram
from kdsearch.losses.gram import gram, gram_matrix
from kdsearch.losses.rkd import build as build_rkd
from kdsearch.losses.rkd import rkd
from kdsearch.losses.terms import TermContext
from kdsearch.models.build import Outputs, Stage

STAGES = (Stage("stage1", 3, 4), Stage("stage2", 5, 2))
CONTEXT = TermContext(STAGES, STAGES, 5, 5, 3, lambda epoch: None, num_samples=8, num_epochs=2)
BATCH = Batch(torch.zeros(6, 1, 4, 4), labels=torch.zeros(6).long(), indices=torch.arange(6))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outputs(seed: int) -> Outputs:
    features = {stage.name: normal(6, stage.channels, stage.size, stage.size, seed=seed) for stage in STAGES}
    return Outputs(normal(6, 3, seed=seed + 10), features, normal(6, 5, seed=seed + 20))


def test_gram_worked_out_by_hand():
    student = torch.tensor([[2.0, 0.0], [0.0, 3.0]])  # at a right angle: cosine 0
    teacher = torch.tensor([[1.0, 0.0, 0.0], [1.0, math.sqrt(3.0), 0.0]])  # at 60 degrees: cosine 1/2
    assert gram(student, teacher).item() == pytest.approx(2 * 0.5**2 / 4)


def test_gram_is_zero_after_a_rotation_and_a_rescaling_of_every_sample():
    embedding, rotation = normal(6, 4), torch.linalg.qr(normal(4, 4, seed=1))[0]
    scales = torch.linspace(0.5, 3.0, 6, dtype=torch.float64)[:, None]
    assert gram(scales * embedding @ rotation, embedding).item() == pytest.approx(0, abs=1e-14)


def test_gram_of_a_sample_that_activates_nothing_is_finite_with_its_gradient():
    embedding = normal(4, 3).index_fill(0, torch.tensor(1), 0.0).requires_grad_()
    gram(embedding, normal(4, 3, seed=1)).backward()
    assert gram_matrix(embedding)[1].abs().max() == 0
    assert embedding.grad is not None
    assert embedding.grad.isfinite().all()


@pytest.mark.parametrize(("build", "loss"), [(build_gram, gram), (build_rkd, rkd)], ids=["gram", "rkd"])
@pytest.mark.parametrize("layer_map", ["embedding", "last", "stage1>stage2"])
def test_the_layer_map_says_whose_embeddings_are_compared(build, loss, layer_map):
    student, teacher = outputs(1), outputs(2)
    expected = {
        "embedding": (student.embedding, teacher.embedding),
        "last": (student.features["stage2"].mean((2, 3)), teacher.features["stage2"].mean((2, 3))),
        "stage1>stage2": (student.features["stage1"].mean((2, 3)), teacher.features["stage2"].mean((2, 3))),
    }
    options = {"layer_map": layer_map, "distance_weight": 25.0, "angle_weight": 50.0}
    parts = build(options, CONTEXT)(student, teacher, BATCH, 1)
    assert sum(parts.values()).item() == pytest.approx(loss(*expected[layer_map]).item(), rel=1e-12)


def test_several_stages_add_up():
    student, teacher = outputs(1), outputs(2)
    both, first, second = (
        build_gram({"layer_map": text}, CONTEXT)(student, teacher, BATCH, 1)["gram"]
        for text in ("stage1>stage1,stage2>stage2", "stage1>stage1", "stage2>stage2")
    )
    assert both.item() == pytest.approx((first + second).item(), rel=1e-12)
