"""The few pieces that the families share: rounded widths, sizes after a stride, convolution and norm."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn


def scaled(base: int, width: float, multiple: int = 1) -> int:
    """`base * width` rounded half up to a multiple of `multiple`, never zero."""
    return multiple * max(1, math.floor(base * width / multiple + 0.5))


def strided(size: int, stride: int) -> int:
    """The size of a map after a padded 3x3 (or unpadded 1x1) convolution of this stride."""
    return math.ceil(size / stride)


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias, padded so that only the stride changes the size."""
    return nn.Conv2d(
        in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False
    )


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that uses its running statistics where a batch has one value per channel.

    PyTorch raises there (one image and a 1x1 map): the last batch of an epoch must not end a training.
    """

    def forward(self, maps: Tensor) -> Tensor:
        if self.training and maps.numel() == maps.shape[1]:
            return F.batch_norm(
                maps, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(maps)


def conv_norm_relu(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        conv(in_channels, out_channels, kernel, stride, groups),
        BatchNorm(out_channels),
        nn.ReLU(inplace=True),
    )
