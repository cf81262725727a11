"""Factor transfer: attention between learned factors of the last maps.

Goes in: pairs of feature maps. Comes out: a scalar. The teacher's factors come from a paraphraser, an
autoencoder of its maps that is trained before the student, the student's from a translator trained with it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdsearch.data.views import Batch
from kdsearch.losses.at import attention_map
from kdsearch.losses.tensors import pool_smaller, total
from kdsearch.losses.terms import Access, Term, TermContext
from kdsearch.models.build import Outputs, Stage
from kdsearch.models.layers import BatchNorm


def ft(student_factor: Tensor, teacher_factor: Tensor) -> Tensor:
    """Mean over B*H*W of the absolute difference of the attention maps (power 2).

    Factors are [B,C,H,W]; channels may differ, the larger one is average-pooled to the smaller one first.
    0 where the attention agrees.
    Kim, Park and Kwak, NeurIPS 2018, arXiv 1802.04977; as RepDistiller computes it (the paper compares whole
    factors as unit vectors).
    """
    student_factor, teacher_factor = pool_smaller(student_factor, teacher_factor.detach())
    return (attention_map(student_factor) - attention_map(teacher_factor)).abs().mean()


def _encoder(channels: int, factor_channels: int, norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    widths = ((channels, channels), (channels, factor_channels), (factor_channels, factor_channels))
    for before, after in widths:
        layers.append(nn.Conv2d(before, after, 3, padding=1))
        layers += [BatchNorm(after)] if norm else []
        layers.append(nn.LeakyReLU(0.1))
    return nn.Sequential(*layers)


class Paraphraser(nn.Module):
    """Three convolutions from a teacher's map to its factor, three transposed ones back; no batch norm."""

    def __init__(self, channels: int, factor_channels: int) -> None:
        super().__init__()
        self.encoder = _encoder(channels, factor_channels, norm=False)
        widths = ((factor_channels, factor_channels), (factor_channels, channels), (channels, channels))
        layers = [
            layer
            for before, after in widths
            for layer in (nn.ConvTranspose2d(before, after, 3, padding=1), nn.LeakyReLU(0.1))
        ]
        self.decoder = nn.Sequential(*layers)

    def forward(self, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
        """The factor, and the map restored from it."""
        factor = self.encoder(teacher_map)
        return factor, self.decoder(factor)


class FT(nn.Module):
    """The sum of `ft` over the pairs of stages; the paraphrasers stay as `prepare` leaves them."""

    def __init__(
        self, pairs: tuple[tuple[Stage, Stage], ...], rate: float, passes: int, lr: float, access: Access
    ) -> None:
        super().__init__()
        self.pairs, self.passes, self.lr, self.access = pairs, passes, lr, access
        widths = [max(1, int(rate * teacher.channels)) for _, teacher in pairs]
        self.translators = nn.ModuleList(
            _encoder(student.channels, width, norm=True)
            for (student, _), width in zip(pairs, widths, strict=True)
        )
        self.paraphrasers = nn.ModuleList(
            Paraphraser(teacher.channels, width) for (_, teacher), width in zip(pairs, widths, strict=True)
        )
        self.paraphrasers.requires_grad_(False)

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Train the paraphrasers to restore the teacher's maps, in mean squared error."""
        self.paraphrasers.requires_grad_(True)
        optimizer = torch.optim.Adam(self.paraphrasers.parameters(), lr=self.lr)
        for batch in itertools.chain.from_iterable(itertools.repeat(batches, self.passes)):
            features = self.access.teacher(batch.images).features
            maps = [features[teacher.name].detach() for _, teacher in self.pairs]
            restored = [paraphraser(x)[1] for paraphraser, x in zip(self.paraphrasers, maps, strict=True)]
            optimizer.zero_grad(set_to_none=True)
            loss = total(F.mse_loss(*both) for both in zip(restored, maps, strict=True))
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
        self.paraphrasers.requires_grad_(False)
        self.paraphrasers.zero_grad(set_to_none=True)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        modules = zip(self.translators, self.paraphrasers, self.pairs, strict=True)
        return {
            "ft": total(
                ft(translator(student.features[s.name]), paraphraser(teacher.features[t.name])[0])
                for translator, paraphraser, (s, t) in modules
            )
        }


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    return FT(
        context.spatial_pairs(options["layer_map"], "ft"),
        rate=options["rate"],
        passes=math.ceil(options["pretrain"] * context.num_epochs),
        lr=options["pretrain_lr"],
        access=context.training(),
    )
