"""A student that ends in its teacher's classifier: backbone, projector, average, the teacher's linear layer.

Goes in: an `Architecture` named as in `kdsearch.models.reuse`. Comes out: a classifier that is built,
measured, saved and loaded like any other; what it does not need of both networks is not in it.
Chen, Mei, Zhang, Wang, Feng and Chen, CVPR 2022, arXiv 2203.14001.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdsearch.models import reuse
from kdsearch.models.build import build as build_family
from kdsearch.models.build import weightless
from kdsearch.models.classifier import Architecture, Classifier, Outputs, StagedClassifier
from kdsearch.models.layers import conv_norm_relu
from kdsearch.models.torchvision_zoo import TorchvisionClassifier

REDUCTION = 2  # of the teacher's channels inside the projector; the source's


class ReusingClassifier(Classifier):
    """The student's stages as they are; `details` always has projected: "map" -> [B,C_t,H,W].

    The classifier learns nothing: it starts as PyTorch's linear layers do until `adopt` copies the teacher's.
    """

    def __init__(self, architecture: Architecture, backbone: Classifier, teacher: Classifier) -> None:
        num_features = teacher.num_features
        super().__init__(architecture, backbone.stages, num_features)
        self.backbone = backbone
        self.size = min(backbone.stages[-1].size, teacher.stages[-1].size)
        hidden = max(num_features // REDUCTION, 1)
        self.projector = nn.Sequential(
            conv_norm_relu(backbone.stages[-1].channels, hidden, 1),
            conv_norm_relu(hidden, hidden, 3),
            conv_norm_relu(hidden, num_features, 1),
        )
        self.classifier = nn.Linear(num_features, architecture.num_classes).requires_grad_(False)

    def outputs(self, images: Tensor, detailed: bool = False, until: str | None = None) -> Outputs:
        of_backbone = self.backbone.outputs(images, detailed)
        last = of_backbone.features[self.stages[-1].name]
        pooled = last if last.shape[2] == self.size else F.adaptive_avg_pool2d(last, self.size)
        projected = self.projector(pooled)
        embedding = projected.mean((2, 3))
        details = {**of_backbone.details, "projected": {"map": projected}}
        return Outputs(self.classifier(embedding), of_backbone.features, embedding, details)

    @torch.no_grad()
    def adopt(self, teacher: Classifier) -> None:
        """Copy the teacher's classifier. Raises ValueError where it has another shape."""
        source = last_linear(teacher)
        if source.weight.shape != self.classifier.weight.shape or source.bias is None:
            raise ValueError(
                f"simkd: the teacher's classifier is {tuple(source.weight.shape)}, the student was built for "
                f"{tuple(self.classifier.weight.shape)}"
            )
        self.classifier.weight.copy_(source.weight)
        self.classifier.bias.copy_(source.bias)


def last_linear(model: Classifier) -> nn.Linear:
    """The layer behind the embedding. Raises ValueError for a model that ends otherwise."""
    last: object = None
    if isinstance(model, StagedClassifier):
        last = model.classifier
    elif isinstance(model, TorchvisionClassifier):
        last = model.model.get_submodule(model.head)
    if not isinstance(last, nn.Linear):
        raise ValueError(f"simkd: {model.architecture.family} does not end in one linear layer")
    return last


def averaged_map(model: Classifier, features: Mapping[str, Tensor]) -> Tensor:
    """The map [B,D,H,W] whose average over its places is the embedding, from the maps of the stages."""
    last = features[model.stages[-1].name]
    if isinstance(model, StagedClassifier):
        behind: Tensor = model.head(last)
        return behind
    return last


def _without_end(model: Classifier) -> Classifier:
    """The model without what comes behind its last stage."""
    if isinstance(model, StagedClassifier):
        model.head, model.classifier = nn.Identity(), nn.Identity()  # type: ignore[assignment]  # no Linear left
    elif isinstance(model, TorchvisionClassifier):
        model.model.set_submodule(model.head, nn.Identity())
    return model


def build(architecture: Architecture) -> ReusingClassifier:
    shape = architecture.num_classes, architecture.in_channels, architecture.image_size
    student, teacher = reuse.parts(architecture.family, architecture.options)
    for choice in (student, teacher):
        complaint = reuse.unsuitable(choice.name)
        if complaint:
            raise ValueError(f"simkd: {complaint}")
    backbone = build_family(student.name, student.options, *shape)  # first: the control's initial weights
    shadow = weightless(Architecture(teacher.name, teacher.options, *shape))
    return ReusingClassifier(architecture, _without_end(backbone), shadow)
