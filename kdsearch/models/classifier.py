"""What every model is: a classifier that publishes its stages.

Goes in: images [B,C,H,W]. Comes out: `Outputs`: logits, the map at the end of each stage, and the
embedding that feeds the last linear layer; asked for in detail, also the maps in front of the stages' last
ReLU and the stem's. `StagedClassifier` is stem, stages, head, pooling, linear.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor, nn

# What `Outputs.details` can hold, and which methods ask for (`Method.needs`).
DETAILS = frozenset({"attention", "before", "qkv", "stem", "tokens"})
SUMMARIES, MEMBERS = "summaries", "members"


class Architecture(NamedTuple):
    """Everything that decides a model's shape; `options` has a value for every option of the family."""

    family: str
    options: Mapping[str, Any]
    num_classes: int
    in_channels: int
    image_size: int


class Stage(NamedTuple):
    """One stage's map: [B, channels, size, size]; size is 1 for flat families."""

    name: str
    channels: int
    size: int


class Outputs(NamedTuple):
    """logits [B,K]; features: stage name -> [B,C,H,W]; embedding [B,D], the last linear layer's input.

    `details` is filled where `outputs` is asked for it; a family that has no such thing leaves it out:
    before: stage name -> the stage's map from before its last activation, of the same shape; the map
    itself where the stage ends without one or the family does not publish it;
    stem: "stem" -> the map that enters the first stage [B,C,H,W];
    attention: stage name -> attention scores before the softmax [B,heads,L,L];
    qkv: stage name -> queries, keys and values, the heads side by side [3,B,L,D];
    tokens: stage name, and "embedding" for what enters the first stage -> hidden states [B,L,D].
    The class token comes first, the patches of the stage's map last, row by row.
    Always there where a network has one: token: "logits" -> a distillation token's own logits [B,K]; then
    `logits` are the class token's in training mode and the mean of both in evaluation mode; and projected:
    "map" -> the map [B,C,H,W] that a student with its teacher's classifier averages.
    members: "logits" -> [B,M*K], side by side, of several teachers whose answer depends on the temperature.
    Of a teacher whose outputs are kept, in place of maps: summaries: name -> what a term reads of them [B,W].
    """

    logits: Tensor
    features: dict[str, Tensor]
    embedding: Tensor
    details: Mapping[str, Mapping[str, Tensor]] = MappingProxyType({})


class Classifier(nn.Module):
    """Students and teachers alike. `num_features` is the width D of the embedding."""

    def __init__(self, architecture: Architecture, stages: Sequence[Stage], num_features: int) -> None:
        super().__init__()
        self.architecture = architecture
        self.stages = tuple(stages)
        self.num_features = num_features

    @property
    def network(self) -> Classifier:
        """The network itself, where this is a wrapper around one: what its layers are can be asked there."""
        return self

    @property
    def stem_channels(self) -> int:
        """The channels of the stem's map: those of the first convolution, without one the images'."""
        convolutions = (module for module in self.modules() if isinstance(module, nn.Conv2d))
        first = next(convolutions, None)
        return self.architecture.in_channels if first is None else first.out_channels

    def norms(self) -> dict[str, nn.BatchNorm2d | None]:
        """For each stage the batch norm whose output is its `before`; None where no single one is."""
        return {stage.name: None for stage in self.stages}

    def outputs(self, images: Tensor, detailed: bool = False, until: str | None = None) -> Outputs:
        """What the network makes of images [B,C,H,W].

        Nothing behind the stage `until` will be read: a network that stops there, or a little later, leaves
        logits and embedding empty.
        """
        raise NotImplementedError

    def soften_at(self, temperature: float | None) -> None:
        """Hear at which temperature the logits will be read next (None: as they are); most need not know."""

    def answer(self, members: Tensor) -> Tensor:
        """The logits [B,K] of the details' `members`, at the temperature of `soften_at`; most have none."""
        return members

    def forward(self, images: Tensor) -> Tensor:
        return self.outputs(images).logits


class Ending(NamedTuple):
    """How a stage ends: the ReLU that gets its `before`, and the batch norm in front of that ReLU."""

    relu: nn.Module | None = None
    norm: nn.BatchNorm2d | None = None


class StagedClassifier(Classifier):
    """stem -> stages, each one tapped -> head -> average over the map -> linear.

    `endings` are those of the stages, in their order: without a ReLU a stage's `before` is its map.
    Convolutions and hidden linear layers start with He's normal initialisation (fan out, ReLU), the last
    linear layer with PyTorch's default.
    """

    def __init__(
        self,
        architecture: Architecture,
        stem: nn.Module,
        stages: Sequence[tuple[Stage, nn.Module]],
        endings: Sequence[Ending],
        head: nn.Module,
        num_features: int,
    ) -> None:
        super().__init__(architecture, [stage for stage, _ in stages], num_features)
        self.stem = stem
        self.body = nn.ModuleDict({stage.name: module for stage, module in stages})
        self.head = head
        self.endings = {stage.name: ending for (stage, _), ending in zip(stages, endings, strict=True)}
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.classifier = nn.Linear(num_features, architecture.num_classes)

    def norms(self) -> dict[str, nn.BatchNorm2d | None]:
        return {name: ending.norm for name, ending in self.endings.items()}

    def outputs(self, images: Tensor, detailed: bool = False, until: str | None = None) -> Outputs:
        if not detailed:
            return self._outputs(images, until)[0]
        before: dict[str, Tensor] = {}
        with contextlib.ExitStack() as hooks:
            for name, ending in self.endings.items():
                if ending.relu is not None:
                    hook = ending.relu.register_forward_pre_hook(partial(_keep_input, before, name))
                    hooks.enter_context(hook)
            outputs, stem = self._outputs(images, self._with_ending(until))
        maps = {name: before.get(name, feature) for name, feature in outputs.features.items()}
        return outputs._replace(details={"before": maps, "stem": {"stem": stem}})

    def _with_ending(self, stage: str | None) -> str | None:
        """The stage that has the ReLU of a stage's `before`: maybe the next one; None where none has it."""
        relu = None if stage is None else self.endings[stage].relu
        if relu is None:
            return stage
        having = (name for name, module in self.body.items() if relu in list(module.modules()))
        return next(having, None)

    def _outputs(self, images: Tensor, until: str | None) -> tuple[Outputs, Tensor]:
        """The outputs without details, and the stem's map."""
        features = {}
        maps = stem = self.stem(images)
        for name, module in self.body.items():
            maps = features[name] = module(maps)
            if name == until:
                return Outputs(images.new_empty(0), features, images.new_empty(0)), stem
        embedding = self.head(maps).mean((2, 3))
        return Outputs(self.classifier(embedding), features, embedding), stem


def _keep_input(kept: dict[str, Tensor], name: str, module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    """Keep what goes into a module, and hand it a copy: the ReLUs overwrite their input."""
    kept[name] = args[0]
    return (args[0].clone(),)
