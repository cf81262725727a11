"""How sure a network is of an image, and the samples that a curriculum takes for it.

Goes in: logits, labels. Comes out: confidences, sample masks. Nothing here is random.
"""

from __future__ import annotations

import torch
from torch import Tensor


def confidence(logits: Tensor) -> Tensor:
    """The largest class probability at temperature 1, [N] of logits [N,K]."""
    return logits.float().softmax(dim=1).amax(dim=1)


def ranks(confidences: Tensor, labels: Tensor, easy_first: bool = True) -> Tensor:
    """Each sample's place among those of its class over their number, [N] in [0, 1); 0 comes first.

    `confidences` and `labels` are [N]. Ties are broken by position, so the ranks are the same on every run.
    """
    # By class, and within a class by confidence: two stable sorts, the last one counts most.
    by_confidence = torch.argsort(confidences, descending=easy_first, stable=True)
    by_class = by_confidence[torch.argsort(labels[by_confidence], stable=True)]
    sizes = torch.bincount(labels)
    places = torch.arange(len(labels), device=labels.device) - (sizes.cumsum(0) - sizes)[labels[by_class]]
    found = torch.empty(len(labels), dtype=torch.float64, device=labels.device)
    found[by_class] = places.double() / sizes[labels[by_class]]
    return found
