"""Knowledge review's distance: two maps compared at several resolutions.

Goes in: a pair of maps. Comes out: a scalar. Not in METHODS: its targets are maps from before the
activation, and models publish those behind it.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def hierarchical_context(fused_map: Tensor, teacher_map: Tensor) -> Tensor:
    """The weighted mean of the mean squared differences in full and pooled to 4x4, 2x2 and 1x1.

    Maps [B,C,H,H] of equal shape. Full resolution weighs 1, each smaller one half of the one before; sizes
    that H does not exceed are left out. 0 where the maps agree.
    Chen, Liu, Zhao and Jia, CVPR 2021, arXiv 2104.09044.
    """
    teacher_map = teacher_map.detach()
    sizes = [size for size in (4, 2, 1) if size < fused_map.shape[2]]
    loss, weights = F.mse_loss(fused_map, teacher_map), 1.0
    for level, size in enumerate(sizes, start=1):
        pooled = F.adaptive_avg_pool2d(fused_map, size), F.adaptive_avg_pool2d(teacher_map, size)
        loss = loss + 0.5**level * F.mse_loss(*pooled)
        weights += 0.5**level
    return loss / weights
