"""A plain multilayer perceptron: linear, batch norm, ReLU.

Goes in: depth, the number of hidden layers, and width, a multiplier of their 128 units. Comes out: a
classifier whose stages are the hidden layers, published as maps [B,D,1,1] like everyone else's; its stem's
map is the image.
"""

from __future__ import annotations

from torch import Tensor, nn

from kdsearch.models.classifier import Architecture, Ending, Stage, StagedClassifier
from kdsearch.models.layers import BatchNorm, scaled


class Layer(nn.Module):
    """[B, anything] -> [B, units, 1, 1]."""

    def __init__(self, in_features: int, units: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, units, bias=False)
        self.norm = BatchNorm(units)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        units = self.linear(x.flatten(1))
        out: Tensor = self.relu(self.norm(units[:, :, None, None]))
        return out


def build(architecture: Architecture) -> StagedClassifier:
    units = scaled(128, architecture.options["width"])
    in_features, stages, endings = architecture.in_channels * architecture.image_size**2, [], []
    for number in range(1, architecture.options["depth"] + 1):
        layer = Layer(in_features, units)
        stages.append((Stage(f"stage{number}", units, 1), layer))
        endings.append(Ending(layer.relu, layer.norm))
        in_features = units
    identity = nn.Identity()
    return StagedClassifier(architecture, identity, stages, endings, head=identity, num_features=units)
