"""A teacher as a value that travels, and the networks that it becomes: they never learn.

Goes in: weights as numpy arrays and what was measured of them. Comes out: a `Classifier` in eval mode,
alone or as the mean of several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from kdsearch.models.build import Architecture, Classifier, Outputs, load_weights, weightless
from kdsearch.models.classifier import MEMBERS
from kdsearch.weights import Weights


@dataclass(frozen=True, eq=False)
class Teacher:
    """A network's weights and what was measured of it. The weights are numpy: Ray shares them uncopied.

    `report`: accuracy, ece, nll, entropy {temperature: nats} on the validation split; params, macs,
    size_mb; epochs, time_s, cpu_s, curve (validation accuracy by epoch), still_improving; source
    (trained, stored or loaded); mean and std, per channel, of the images / 255 that it was trained on, None
    where a checkpoint does not say.
    """

    key: str
    family: str
    options: Mapping[str, Any]
    num_classes: int
    in_channels: int
    image_size: int
    weights: Weights
    report: Mapping[str, Any]

    def build(self, device: str = "cpu") -> Frozen:
        """The network, in eval mode for ever and without gradients."""
        sizes = (self.num_classes, self.in_channels, self.image_size)
        model = weightless(Architecture(self.family, self.options, *sizes))
        weights = {name: torch.tensor(array) for name, array in self.weights.items()}
        load_weights(model, weights, source="the teacher")
        return Frozen(model).to(torch.device(device))


class Frozen(Classifier):
    """A classifier that never learns: `train()` and `requires_grad_()` leave it as it is."""

    def __init__(self, model: Classifier) -> None:
        super().__init__(model.architecture, model.stages, model.num_features)
        self.model = model.eval().requires_grad_(False)
        self.training = False

    @property
    def network(self) -> Classifier:
        return self.model.network

    def outputs(self, images: Tensor, detailed: bool = False, until: str | None = None) -> Outputs:
        return self.model.outputs(images, detailed, until)

    def train(self, mode: bool = True) -> Self:
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        return self


class Averaged(Frozen):
    """Several frozen classifiers as one: their outputs averaged by `weights`, which sum to 1.

    `combine` logits: the weighted mean of the logits [B,K]. probabilities: logits whose softmax at the
    temperature of `soften_at` is the weighted mean of the members' softmax at that temperature, which is
    the target of an ensemble whose probabilities are averaged; at another temperature they are not.
    Features, embedding, details and stages are those of the member `lead`.
    """

    weights: Tensor

    def __init__(
        self, members: Sequence[Frozen], weights: Sequence[float], combine: str, lead: int = 0
    ) -> None:
        super().__init__(members[lead].model)
        self.members = nn.ModuleList(members).eval()  # so that they move with this one to a device
        self._members = tuple(members)
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32), persistent=False)
        self._combine = combine
        self._lead = lead
        self._temperature = 1.0

    def soften_at(self, temperature: float | None) -> None:
        self._temperature = 1.0 if temperature is None else temperature

    def outputs(self, images: Tensor, detailed: bool = False, until: str | None = None) -> Outputs:
        """The outputs of every member on images [B,C,H,W]; only the leading one is asked for details.

        It alone runs where nothing behind one of its stages is read.
        """
        if until is not None:
            return self._members[self._lead].outputs(images, detailed, until)
        found = [
            member.outputs(images, detailed and index == self._lead)
            for index, member in enumerate(self._members)
        ]
        logits = torch.stack([outputs.logits.float() for outputs in found])  # [M,B,K]
        leading = found[self._lead]
        if self._combine == "logits":
            return leading._replace(logits=(self.weights.view(-1, 1, 1) * logits).sum(0))
        members = logits.transpose(0, 1).flatten(1)  # [B,M*K]
        details = {**leading.details, MEMBERS: {"logits": members}}
        return leading._replace(logits=self.answer(members), details=details)

    def answer(self, members: Tensor) -> Tensor:
        if self._combine == "logits":
            return members
        logits = members.reshape(len(members), len(self._members), -1)  # [B,M,K]
        softened = (logits / self._temperature).log_softmax(dim=2)
        return self._temperature * (softened + self.weights.log().view(1, -1, 1)).logsumexp(1)
