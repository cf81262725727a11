"""The convolutional regressor: a student's map in the teacher's channels and, where it can, resolution.

Goes in: two stages. Comes out: a module from [B,C_s,H_s,W_s] to [B,C_t,H,W]. `projector` only changes the
channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kdsearch.models.build import Stage


class Regressor(nn.Module):
    """One convolution with bias, batch normalisation and optionally ReLU: RepDistiller's ConvReg.

    The convolution also brings the map to the teacher's resolution, H_t. Where the student's map is smaller
    by anything but a factor of 2 that source has no answer: it keeps its own resolution (a 3x3 convolution,
    as in SimKD's copy), and the teacher's map is what has to be pooled.
    """

    def __init__(self, student: Stage, teacher: Stage, relu: bool = True) -> None:
        super().__init__()
        self.conv = _convolution(student, teacher)
        self.norm = nn.BatchNorm2d(teacher.channels)
        self.relu = relu

    def forward(self, student_map: Tensor) -> Tensor:
        x = self.conv(student_map)
        one_value_per_channel = x.numel() == x.shape[1]
        if self.training and one_value_per_channel:  # has no variance: batch_norm raises
            norm = self.norm
            x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        else:
            x = self.norm(x)
        return F.relu(x) if self.relu else x


def projector(student_channels: int, teacher_channels: int) -> nn.Module:
    """[B,C_s,H,W] -> [B,C_t,H,W]: a 1x1 convolution without bias, nothing where the channels agree."""
    if student_channels == teacher_channels:
        return nn.Identity()
    return nn.Conv2d(student_channels, teacher_channels, 1, bias=False)


def _convolution(student: Stage, teacher: Stage) -> nn.Module:
    channels = student.channels, teacher.channels
    if student.size == 2 * teacher.size:
        return nn.Conv2d(*channels, kernel_size=3, stride=2, padding=1)
    if 2 * student.size == teacher.size:
        return nn.ConvTranspose2d(*channels, kernel_size=4, stride=2, padding=1)
    if student.size >= teacher.size:
        return nn.Conv2d(*channels, kernel_size=1 + student.size - teacher.size)
    return nn.Conv2d(*channels, kernel_size=3, padding=1)
