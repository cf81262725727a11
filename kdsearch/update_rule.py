"""How weights change: the learning rate of every step, and the optimiser.

Goes in: a `TrainConfig`. Comes out: a number, and a `torch.optim.Optimizer`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from kdsearch.records import TrainConfig


def learning_rate(config: TrainConfig, step: float, steps_per_epoch: int) -> float:
    """The learning rate of a step (from 0): a linear warm-up to `lr`, then the schedule down to its end.

    cosine and linear run from `lr` after the warm-up to 0 after the last step; step multiplies by `gamma`
    at each milestone (finished epochs). Raises ValueError for an unknown schedule.
    """
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.epochs * steps_per_epoch - warmup)
    match config.schedule:
        case "constant":
            return config.lr
        case "cosine":
            return config.lr * (1 + math.cos(math.pi * progress)) / 2
        case "linear":
            return config.lr * (1 - progress)
        case "step":
            passed = sum(step >= milestone * steps_per_epoch for milestone in config.milestones)
            return config.lr * config.gamma**passed
    raise ValueError(f"schedule must be one of constant, cosine, linear, step: {config.schedule!r}")


def build_optimizer(config: TrainConfig, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser over all parameters, weight decay on every one. Raises ValueError for an unknown name."""
    lr, decay = config.lr, config.weight_decay
    match config.optimizer:
        case "adam":
            return torch.optim.Adam(parameters, lr=lr, weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW(parameters, lr=lr, weight_decay=decay)
        case "sgd":
            momentum, nesterov = config.momentum, config.nesterov
            return torch.optim.SGD(
                parameters, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=decay
            )
    raise ValueError(f"optimizer must be one of adam, adamw, sgd: {config.optimizer!r}")
