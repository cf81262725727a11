"""ShuffleNetV2: Ma, Zhang, Zheng, Sun, ECCV 2018, arXiv 1807.11164, for small images.

Goes in: width, head_ratio. Comes out: a classifier with three stages, tapped after their last shuffle;
`before` is the shuffle of what passes and what the last ReLU gets.
The stem is a 3x3 convolution of stride 1 without the paper's max-pool. Stage widths are multiples of the
paper's 1x model (116, 232, 464), rounded to even numbers because every block splits its channels in two.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdsearch.models.classifier import Architecture, Ending, Stage, StagedClassifier
from kdsearch.models.layers import BatchNorm, conv, conv_norm_relu, scaled, strided

# (base channels, blocks) by stage; every stage begins with a stride of 2. The paper's table 5.
STAGES = ((116, 4), (232, 8), (464, 4))


def _branch(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        conv_norm_relu(in_channels, channels, 1),
        conv(channels, channels, 3, stride, groups=channels),
        BatchNorm(channels),
        conv_norm_relu(channels, channels, 1),
    )


def _shuffled(left: Tensor, right: Tensor) -> Tensor:
    """Two halves [B,C/2,H,W], channels interleaved: a concatenation and a shuffle of two groups."""
    return torch.stack((left, right), dim=2).flatten(1, 2)


class DownBlock(nn.Module):
    """Both halves see all channels and halve the map."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.left = nn.Sequential(
            conv(in_channels, in_channels, 3, stride=2, groups=in_channels),
            BatchNorm(in_channels),
            conv_norm_relu(in_channels, channels // 2, 1),
        )
        self.right = _branch(in_channels, channels // 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return _shuffled(self.left(x), self.right(x))


class Block(nn.Module):
    """One half passes unchanged."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.right = _branch(channels // 2, channels // 2, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        return _shuffled(left, self.right(right))


class LastBlock(Block):
    """The same numbers, the ReLU behind the shuffle: the half that passes is not negative anyway."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.set_submodule("right.3.2", nn.Identity())
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(super().forward(x))
        return out


def build(architecture: Architecture) -> StagedClassifier:
    width = architecture.options["width"]
    channels = scaled(24, width)
    stem = conv_norm_relu(architecture.in_channels, channels, 3)
    size, stages, endings = architecture.image_size, [], []
    for number, (base, num_blocks) in enumerate(STAGES, start=1):
        in_channels, channels = channels, scaled(base, width, multiple=2)
        size = strided(size, 2)
        last = LastBlock(channels)
        blocks = [DownBlock(in_channels, channels), *(Block(channels) for _ in range(num_blocks - 2)), last]
        stages.append((Stage(f"stage{number}", channels, size), nn.Sequential(*blocks)))
        endings.append(Ending(last.relu))  # two batch norms meet there
    num_features = scaled(1024, width * architecture.options["head_ratio"])
    head = conv_norm_relu(channels, num_features, 1)
    return StagedClassifier(architecture, stem, stages, endings, head, num_features)
