"""How good and how soft a classifier's outputs are.

Goes in: logits [N, K] and labels [N]. Comes out: accuracy, calibration, and what is left to learn from the
output at several temperatures.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURES = (1, 2, 4, 8, 16)


def quality(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """accuracy, ece, nll (nats) and entropy {temperature: mean nats of the softened output}, in float64.

    Temperatures are words, as JSON would make them.
    """
    logits = logits.double()
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    correct = predicted == labels
    return {
        "accuracy": correct.double().mean().item(),
        "ece": expected_calibration_error(confidence, correct),
        "nll": F.cross_entropy(logits, labels).item(),
        "entropy": {str(temperature): mean_entropy(logits / temperature) for temperature in TEMPERATURES},
    }


def expected_calibration_error(confidence: Tensor, correct: Tensor, num_bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equal bins (lower, upper], weighted by their samples.

    `confidence` [N] is the largest probability, `correct` [N] says whether its class was right.
    Guo, Pleiss, Sun and Weinberger, ICML 2017, arXiv 1706.04599.
    """
    inner_edges = torch.linspace(0, 1, num_bins + 1, dtype=confidence.dtype)[1:-1]
    gaps = torch.zeros(num_bins, dtype=confidence.dtype)
    gaps.index_add_(0, torch.bucketize(confidence, inner_edges), correct.to(confidence.dtype) - confidence)
    return gaps.abs().sum().item() / len(confidence)


def mean_entropy(logits: Tensor) -> float:
    """Mean entropy in nats of softmax(logits); log K where the output is flat."""
    log_probabilities = F.log_softmax(logits, dim=1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=1).mean().item()
