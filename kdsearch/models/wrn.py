"""Wide ResNet: Zagoruyko, Komodakis, BMVC 2016, arXiv 1605.07146, without dropout.

Goes in: depth 6n+4 and width, the widen factor. Comes out: a classifier with three stages of n blocks.
A stage is the raw residual sum that leaves its last block, before the next batch norm and ReLU; `before`
is that sum behind the batch norm. The stem has 16 channels as in the paper; below width 1 it shrinks with
the rest.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kdsearch.models.classifier import Architecture, Ending, Stage, StagedClassifier
from kdsearch.models.layers import BatchNorm, conv, scaled, strided


class Block(nn.Module):
    """Batch norm and ReLU come first; a shortcut that changes shape starts after them."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = BatchNorm(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv1 = conv(in_channels, channels, 3, stride)
        self.norm2 = BatchNorm(channels)
        self.conv2 = conv(channels, channels, 3)
        changes_shape = stride != 1 or in_channels != channels
        self.shortcut = conv(in_channels, channels, 1, stride) if changes_shape else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        residual = F.relu(self.norm2(self.conv1(active)), inplace=True)
        out: Tensor = shortcut + self.conv2(residual)
        return out


def build(architecture: Architecture) -> StagedClassifier:
    options = architecture.options
    num_blocks = (options["depth"] - 4) // 6
    channels = scaled(16, min(1.0, options["width"]))
    stem = conv(architecture.in_channels, channels, 3)
    size, stages, firsts = architecture.image_size, [], []
    for number, (base, stride) in enumerate(((16, 1), (32, 2), (64, 2)), start=1):
        in_channels, channels = channels, scaled(base, options["width"])
        size = strided(size, stride)
        blocks = [Block(in_channels, channels, stride)]
        blocks += [Block(channels, channels, 1) for _ in range(num_blocks - 1)]
        stages.append((Stage(f"stage{number}", channels, size), nn.Sequential(*blocks)))
        firsts.append(blocks[0])
    norm, relu = BatchNorm(channels), nn.ReLU(inplace=True)
    endings = [*(Ending(block.relu, block.norm1) for block in firsts[1:]), Ending(relu, norm)]
    head = nn.Sequential(norm, relu)
    return StagedClassifier(architecture, stem, stages, endings, head, num_features=channels)
