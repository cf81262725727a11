"""MobileNetV2: Sandler, Howard, Zhu, Zhmoginov, Chen, CVPR 2018, arXiv 1801.04381, for small images.

Goes in: width, head_ratio, stem_stride. Comes out: a classifier with four stages, tapped at the linear
bottlenecks with 24, 32, 96 and 320 base channels; there is no activation, so `before` is the map itself.
The paper's strides of 2 in the stem and before 24 channels are dropped (stem_stride 2 brings the first
back, as in RepDistiller). Widths are plain multiples, not rounded to multiples of 8, so that tiny
students exist; the head shrinks with them.
"""

from __future__ import annotations

from torch import Tensor, nn

from kdsearch.models.classifier import Architecture, Ending, Stage, StagedClassifier
from kdsearch.models.layers import BatchNorm, conv, scaled, strided

# (expansion, base channels, blocks, stride of the first) by stage; the paper's table 2.
STAGES = (
    ((1, 16, 1, 1), (6, 24, 2, 1)),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)


def _conv_norm_relu6(
    in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    layer = conv(in_channels, channels, kernel, stride, groups)
    return nn.Sequential(layer, BatchNorm(channels), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project without activation; added to the input where shapes agree."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expand = _conv_norm_relu6(in_channels, hidden, 1) if expansion > 1 else nn.Identity()
        self.filter = _conv_norm_relu6(hidden, hidden, 3, stride, groups=hidden)
        self.project = nn.Sequential(conv(hidden, channels, 1), BatchNorm(channels))
        self.is_residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.filter(self.expand(x)))
        return x + out if self.is_residual else out


def build(architecture: Architecture) -> StagedClassifier:
    options = architecture.options
    width = options["width"]
    channels = scaled(32, width)
    stem = _conv_norm_relu6(architecture.in_channels, channels, 3, options["stem_stride"])
    size, stages = strided(architecture.image_size, options["stem_stride"]), []
    endings = []
    for number, groups in enumerate(STAGES, start=1):
        blocks = []
        for expansion, base, num_blocks, first_stride in groups:
            for stride in (first_stride, *[1] * (num_blocks - 1)):
                in_channels, channels = channels, scaled(base, width)
                size = strided(size, stride)
                blocks.append(InvertedResidual(in_channels, channels, stride, expansion))
        stages.append((Stage(f"stage{number}", channels, size), nn.Sequential(*blocks)))
        norm = blocks[-1].project[-1]
        assert isinstance(norm, BatchNorm)
        endings.append(Ending(norm=norm))
    num_features = scaled(1280, width * options["head_ratio"])
    head = _conv_norm_relu6(channels, num_features, 1)
    return StagedClassifier(architecture, stem, stages, endings, head, num_features)
