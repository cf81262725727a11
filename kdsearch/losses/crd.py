"""Contrastive representation distillation: an image finds itself among thousands of remembered others.

Goes in: embeddings of both networks, the samples' indices, the labels of all samples. Comes out: a scalar, a
linear head for each side to train with the student, and memories of both heads' outputs for every sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdsearch.data.views import Batch
from kdsearch.losses.tensors import unit
from kdsearch.losses.terms import Access, Term, TermContext
from kdsearch.models.build import Outputs

MOMENTUM = 0.5  # of the old memory in its update; the source's
EPS = 1e-7  # in the denominators; the source's


def crd(log_scores: Tensor, num_samples: int) -> Tensor:
    """The noise-contrastive loss of one side's normalised scores o, given log o [B,1+K], the positive first.

    -(sum over b of log(o_b0 / (o_b0 + K/N + eps)) + sum over b, k of log(K/N / (o_bk + K/N + eps))) / B, with
    N = `num_samples`. The method is the sum for both sides. Never 0: telling positives from K negatives costs
    something at any scores. Finite at any: o itself overflows at low temperatures.
    Tian, Krishnan and Isola, ICLR 2020, arXiv 1910.10699.
    """
    num_negatives = log_scores.shape[1] - 1
    noise = num_negatives / num_samples
    beyond_noise = log_scores - math.log(noise + EPS)
    found = F.logsigmoid(beyond_noise[:, 0]).sum()
    rejected = F.logsigmoid(-beyond_noise[:, 1:]).sum()
    of_eps = num_negatives * math.log(noise / (noise + EPS))  # a sample's, whatever its scores
    return -(found + rejected) / len(log_scores) - of_eps


def draw_negatives(labels: Tensor, own: Tensor, num_negatives: int, largest_class: int) -> Tensor:
    """Samples of other classes [B,K], int64, for samples of the classes `own` [B]; none twice in a row.

    `labels` [N] are those of all samples, of which `largest_class` share one; at least `num_negatives` must
    differ from each of `own`.
    Draws from torch's global generator: one random order of all samples and a random place in it for each
    row, from where on the first K of another class are taken. So every row is uniform without replacement
    as in the source, while two rows of a batch are not independent, which would cost B orders of N.
    """
    num_samples = len(labels)
    order = torch.randperm(num_samples, device=labels.device)
    start = torch.randint(num_samples, (len(own), 1), device=labels.device)
    # As far as one has to look at worst: all of the own class come first, and then the negatives.
    ahead = torch.arange(min(num_negatives + largest_class, num_samples), device=labels.device)
    candidates = order[(start + ahead) % num_samples]
    is_other = labels[candidates] != own[:, None]
    count = is_other.cumsum(dim=1)
    # Those taken go to their places, all else to one more, which is cut off: candidates[taken] would wait for
    # a GPU to say how many there are.
    place = torch.where(is_other & (count <= num_negatives), count - 1, num_negatives)
    found = candidates.new_empty(len(own), num_negatives + 1).scatter_(1, place, candidates)
    return found[:, :num_negatives]


def draw_of_same_class(labels: Tensor, own: Tensor) -> Tensor:
    """A random sample [B] of each class in `own` [B], from torch's global generator."""
    by_class = labels.argsort(stable=True)
    first = torch.searchsorted(labels[by_class], own)
    count = torch.searchsorted(labels[by_class], own, right=True) - first
    offset = (torch.rand(len(own), device=labels.device) * count).long()
    return by_class[first + offset.clamp_max(count - 1)]


class ContrastiveRepresentation(nn.Module):
    """`crd` of both sides; heads learn, memories and normalisers are buffers and resume with them.

    The student's projection meets the teacher's memory and the other way round. The normaliser Z of a side
    is N times the mean of its first batch's scores, and stays; kept is its logarithm. Raises ValueError where
    all images are of one class.
    """

    student_memory: Tensor
    teacher_memory: Tensor
    log_normalisers: Tensor

    def __init__(
        self, widths: tuple[int, int], num_samples: int, options: Mapping[str, Any], access: Access
    ) -> None:
        super().__init__()
        width = options["width"]
        self.student, self.teacher = nn.Linear(widths[0], width), nn.Linear(widths[1], width)
        bound = (width / 3) ** -0.5
        for name in ("student_memory", "teacher_memory"):
            self.register_buffer(name, torch.empty(num_samples, width).uniform_(-bound, bound))
        # Of the student's and the teacher's scores: of 0 until there is a batch.
        self.register_buffer("log_normalisers", torch.full((2,), -math.inf))
        self.tau = options["tau"]
        self.is_exact = options["mode"] == "exact"
        self._labels = access.labels
        self._largest_class = int(torch.unique(access.labels, return_counts=True)[1].max())
        num_others = num_samples - self._largest_class
        if num_others == 0:
            raise ValueError("crd contrasts different classes, but all training images are of one class")
        self.num_negatives = min(options["negatives"], num_others)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        projections = (
            unit(self.student(student.embedding), dim=1),
            unit(self.teacher(teacher.embedding.detach()), dim=1),
        )
        log_scores = self._log_scores(projections, self._contrasted(batch.indices))
        self._remember(projections, batch.indices)
        student_loss, teacher_loss = (crd(one, len(self.student_memory)) for one in log_scores)
        return {"crd_student": student_loss, "crd_teacher": teacher_loss}

    def _contrasted(self, indices: Tensor) -> Tensor:
        """The positive and the negatives of every sample, [B,1+K]."""
        own = self._labels[indices]
        positives = indices if self.is_exact else draw_of_same_class(self._labels, own)
        negatives = draw_negatives(self._labels, own, self.num_negatives, self._largest_class)
        return torch.cat([positives[:, None], negatives], dim=1)

    def _log_scores(self, projections: tuple[Tensor, Tensor], contrasted: Tensor) -> list[Tensor]:
        """log(exp(similarity / tau) / Z) with the memories as they are, [B,1+K] for each side."""
        memories = self.teacher_memory, self.student_memory
        # All N similarities and then some of them: the product is small beside B*K gathered rows.
        similar = [
            (projection @ memory.T).gather(1, contrasted) / self.tau
            for projection, memory in zip(projections, memories, strict=True)
        ]
        num_samples = len(self._labels)
        first = torch.stack(
            [one.detach().flatten().logsumexp(0) + math.log(num_samples / one.numel()) for one in similar]
        )
        known = self.log_normalisers
        self.log_normalisers = torch.where(known.isinf(), first, known)
        return [one - log_z for one, log_z in zip(similar, self.log_normalisers, strict=True)]

    def _remember(self, projections: tuple[Tensor, Tensor], indices: Tensor) -> None:
        """Move the samples' own memories towards their projections, whatever their positives were.

        Out of place: the step's backward still reads the memories of before.
        """
        student, teacher = (
            memory.index_copy(
                0, indices, unit(MOMENTUM * memory[indices] + (1 - MOMENTUM) * projection.detach(), dim=1)
            )
            for memory, projection in zip(
                (self.student_memory, self.teacher_memory), projections, strict=True
            )
        )
        self.student_memory, self.teacher_memory = student, teacher


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    widths = context.student_features, context.teacher_features
    return ContrastiveRepresentation(widths, context.num_samples, options, context.training())
