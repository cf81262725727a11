"""How sure a network is of an image, and the samples that a curriculum takes for it.

Goes in: logits, labels; or a teacher and its data. Comes out: confidences, ranks. Nothing here is random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdsearch.data import ImageData, Split
from kdsearch.data.pool import NO_LABEL, UNLABELLED_STREAM
from kdsearch.data.views import Views

MAX_IMAGES = 2000  # of all parts together: a look at the teacher must cost next to nothing
BATCH_SIZE = 250


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


@torch.no_grad()
def mean_confidences(
    teacher: nn.Module,
    data: ImageData,
    augment: Sequence[tuple[str, Mapping[str, Any]]],
    device: str | torch.device = "cpu",
) -> dict[str, float]:
    """The teacher's mean confidence on validation images, and on the first epoch's views of training images
    and, where there are any, of images without labels: `validation`, `training`, `unlabelled`.

    At most MAX_IMAGES in all, evenly out of each part. The teacher is left in eval mode.
    """
    teacher.eval()
    parts: dict[str, tuple[Views, int]] = {
        "validation": (Views(data.validation, data.mean, data.std, (), device), 0),
        "training": (Views(data.train, data.mean, data.std, augment, device), 0),
    }
    if data.unlabelled is not None:
        labels = torch.full((len(data.unlabelled),), NO_LABEL).numpy()
        views = Views(Split(data.unlabelled.images, labels), data.mean, data.std, augment, device)
        parts["unlabelled"] = (views, UNLABELLED_STREAM)
    means = {}
    for name, (views, stream) in parts.items():
        count = min(len(views), MAX_IMAGES // len(parts))
        batches = torch.split(torch.arange(count) * len(views) // count, BATCH_SIZE)
        sure = [confidence(teacher(views.batch(indices, 1, stream).images)) for indices in batches]
        means[name] = torch.cat(sure).double().mean().item()
    return means
