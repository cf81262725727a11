"""VGG for small images: Simonyan, Zisserman, ICLR 2015, arXiv 1409.1556, arranged as in RepDistiller.

Goes in: depth 8, 11, 13, 16 or 19, and width. Comes out: a classifier with batch norm and one linear
layer. The first of the five blocks is the stem; the others are the stages, tapped after their last ReLU
and before the next max-pool. The last stage keeps its resolution below 64x64. Convolutions have no bias:
the batch norm behind them would cancel it.
"""

from __future__ import annotations

from torch import nn

from kdsearch.models.classifier import Architecture, Ending, Stage, StagedClassifier
from kdsearch.models.layers import BatchNorm, conv_norm_relu, scaled

CONVOLUTIONS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


def _block(in_channels: int, channels: int, num_convolutions: int) -> list[nn.Sequential]:
    first = conv_norm_relu(in_channels, channels, 3)
    return [first, *(conv_norm_relu(channels, channels, 3) for _ in range(num_convolutions - 1))]


def build(architecture: Architecture) -> StagedClassifier:
    options, size = architecture.options, architecture.image_size
    if size < 8:
        raise ValueError(f"vgg halves the image three times: it needs 8x8 at least, not {size}x{size}")
    counts = CONVOLUTIONS[options["depth"]]
    channels = scaled(64, options["width"])
    stem = nn.Sequential(*_block(architecture.in_channels, channels, counts[0]))
    pools = (2, 2, 2, 2 if size >= 64 else 1)
    stages, endings = [], []
    for number, (base, count, pool) in enumerate(
        zip((128, 256, 512, 512), counts[1:], pools, strict=True), start=1
    ):
        in_channels, channels = channels, scaled(base, options["width"])
        size //= pool
        block = _block(in_channels, channels, count)
        pooled = [nn.MaxPool2d(pool)] if pool > 1 else []
        stages.append((Stage(f"stage{number}", channels, size), nn.Sequential(*pooled, *block)))
        _, norm, relu = block[-1]
        assert isinstance(norm, BatchNorm)
        endings.append(Ending(relu, norm))
    return StagedClassifier(architecture, stem, stages, endings, head=nn.Identity(), num_features=channels)
