"""CIFAR ResNet: He, Zhang, Ren, Sun, CVPR 2016, arXiv 1512.03385, section 4.2.

Goes in: depth 6n+2, width, stem_ratio. Comes out: a classifier with three stages of n blocks, tapped
after the last block's ReLU; `before` is the sum that enters it. Shortcuts that change shape are 1x1
convolutions (the paper's option B), as in RepDistiller, so that parameter counts are the ones that
distillation papers quote.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kdsearch.models.classifier import Architecture, Ending, Stage, StagedClassifier
from kdsearch.models.layers import BatchNorm, conv, conv_norm_relu, scaled, strided


class Block(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, channels, 3, stride)
        self.norm1 = BatchNorm(channels)
        self.conv2 = conv(channels, channels, 3)
        self.norm2 = BatchNorm(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(conv(in_channels, channels, 1, stride), BatchNorm(channels))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        residual = F.relu(self.norm1(self.conv1(x)), inplace=True)
        out: Tensor = self.relu(self.norm2(self.conv2(residual)) + self.shortcut(x))
        return out


def build(architecture: Architecture) -> StagedClassifier:
    options = architecture.options
    num_blocks = (options["depth"] - 2) // 6
    channels = scaled(16, options["width"] * options["stem_ratio"])
    stem = conv_norm_relu(architecture.in_channels, channels, 3)
    size, stages, endings = architecture.image_size, [], []
    for number, (base, stride) in enumerate(((16, 1), (32, 2), (64, 2)), start=1):
        in_channels, channels = channels, scaled(base, options["width"])
        size = strided(size, stride)
        blocks = [Block(in_channels, channels, stride)]
        blocks += [Block(channels, channels, 1) for _ in range(num_blocks - 1)]
        stages.append((Stage(f"stage{number}", channels, size), nn.Sequential(*blocks)))
        endings.append(Ending(blocks[-1].relu, blocks[-1].norm2))
    return StagedClassifier(architecture, stem, stages, endings, head=nn.Identity(), num_features=channels)
