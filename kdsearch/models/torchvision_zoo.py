"""Any torchvision classifier as a student or teacher: `torchvision/<name>`.

Goes in: the name, `pretrained` and `dropout`. Comes out: a classifier with a head for num_classes and
exactly four stages, found by running the model on shapes alone.

Up to 64x64 the stem is adapted: the first convolution gets stride 1 and the first max-pool is left out;
kernels stay, so that pretrained weights fit. vit_* keep their patches, maxvit_t its windows. With other
than three channels the first convolution is new; pretrained, it is the average over the colours,
replicated and scaled so that a grey image answers as its colour copy would.

Stages are the last outputs at each of the last four resolutions before the pooling; where there are
fewer (alexnet, squeezenet*, vit_*), the outputs at the quarters of the depth. vit_*'s tokens are laid
out as maps without the class token. In detail, `before` is the stage's map itself (where a model applies its
last activation is its own matter) and the stem is the first convolution's output.

Every name in `kdsearch.models.TORCHVISION` works where the image allows: all need 8x8, vgg* 16x16,
inception_v3 20x20 (75x75 with its published stem), vit_* a multiple of their patch (14, 16 or 32),
maxvit_t a multiple of 224. Other sizes are a ValueError. Dropout and stochastic depth are off by
default; googlenet and inception_v3 have no auxiliary heads and take images as they come, without the
rescaling that torchvision adds to its pretrained ones.
"""

from __future__ import annotations

import contextlib
import math
import pickle
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings
from torchvision.ops import StochasticDepth

from kdsearch.models.classifier import Architecture, Classifier, Outputs, Stage
from kdsearch.models.layers import BatchNorm
from kdsearch.models.shapes import shadow

NUM_STAGES = 4
SMALLEST_IMAGE = 8  # three halvings between four stages
SMALL_IMAGE = 64  # larger images keep the published stem
MAXVIT_MULTIPLE = 224  # five halvings of a multiple of its windows of 7
PATCH_SIZES = {"vit_b_16": 16, "vit_b_32": 32, "vit_h_14": 14, "vit_l_16": 16, "vit_l_32": 32}


class Trunk(NamedTuple):
    """Where a model keeps the modules that may be stages, and how their outputs become [B,C,H,W]."""

    root: str
    to_map: Callable[[Tensor], Tensor]


def _tokens_to_map(tokens: Tensor) -> Tensor:
    """[B, 1 + N*N, C], the class token first -> [B,C,N,N]."""
    side = math.isqrt(tokens.shape[1] - 1)
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, side, side)


def _channels_first(maps: Tensor) -> Tensor:
    return maps.permute(0, 3, 1, 2)


def _unchanged(maps: Tensor) -> Tensor:
    return maps


def _trunk(name: str) -> Trunk:
    if name.startswith("vit_"):
        return Trunk("encoder.layers", _tokens_to_map)
    if name.startswith("swin_"):
        return Trunk("features", _channels_first)
    return Trunk("", _unchanged)


class TorchvisionClassifier(Classifier):
    """`taps` are the names of the modules whose outputs are the stages, `stem` and `head` those of the first
    convolution and the last layer.
    """

    def __init__(
        self,
        architecture: Architecture,
        model: nn.Module,
        to_map: Callable[[Tensor], Tensor],
        taps: Sequence[tuple[str, Stage]],
        stem: str,
        head: str,
    ) -> None:
        last = model.get_submodule(head)
        num_features = last.in_features if isinstance(last, nn.Linear) else last.in_channels
        assert isinstance(num_features, int)
        super().__init__(architecture, [stage for _, stage in taps], num_features)
        self.model = model
        self.to_map = to_map
        self.taps = {stage.name: module for module, stage in taps}
        self.stem = stem
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits

    def outputs(self, images: Tensor, detailed: bool = False, until: str | None = None) -> Outputs:
        """As every classifier's; it runs to its end, wherever that is no longer read."""
        features: dict[str, Tensor] = {}
        embeddings: list[Tensor] = []
        stems: dict[str, Tensor] = {}

        def keep_features(stage: str, module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            features[stage] = self.to_map(output)

        def keep_embedding(module: nn.Module, args: tuple[Tensor]) -> None:
            embeddings.append(args[0].mean((2, 3)) if args[0].ndim == 4 else args[0])

        def keep_stem(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
            stems["stem"] = output
            return output.clone()  # some models overwrite it with its ReLU

        with contextlib.ExitStack() as hooks:
            if detailed:
                hooks.enter_context(self.model.get_submodule(self.stem).register_forward_hook(keep_stem))
            for stage, module in self.taps.items():
                hook = partial(keep_features, stage)
                hooks.enter_context(self.model.get_submodule(module).register_forward_hook(hook))
            head = self.model.get_submodule(self.head)
            hooks.enter_context(head.register_forward_pre_hook(keep_embedding))
            logits = self.model(images)
        details = {"before": dict(features), "stem": stems} if detailed else {}
        return Outputs(logits, features, embeddings[0], details)


def build(architecture: Architecture) -> TorchvisionClassifier:
    name, size = architecture.family.partition("/")[2], architecture.image_size
    model: nn.Module = torchvision.models.get_model(
        name, weights=None, num_classes=architecture.num_classes, **_size_options(name, size)
    )
    stem = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    head = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)][-1]
    is_adapted = size <= SMALL_IMAGE and name not in PATCH_SIZES and name != "maxvit_t"
    _adapt_stem(model, stem, architecture.in_channels, is_adapted)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = BatchNorm  # the same state, and a batch of one image does not raise
        if isinstance(module, nn.Dropout | StochasticDepth) and not architecture.options["dropout"]:
            module.p = 0.0
    if architecture.options["pretrained"]:
        _load_pretrained(model, name, stem, head, architecture)
    trunk = _trunk(name)
    taps = _find_stages(model, trunk, head, architecture)
    return TorchvisionClassifier(architecture, model, trunk.to_map, taps, stem, head)


def _size_options(name: str, size: int) -> dict[str, Any]:
    """What a constructor must be told. Raises ValueError for images it cannot divide as it needs to."""
    if size < SMALLEST_IMAGE:
        raise ValueError(f"torchvision/{name} needs 8x8 at least, not {size}x{size}; resize the images")
    if name in PATCH_SIZES:
        if size % PATCH_SIZES[name]:
            raise ValueError(
                f"torchvision/{name} cuts images into patches of {PATCH_SIZES[name]}: "
                f"{size}x{size} is not a multiple; resize the images"
            )
        return {"image_size": size}
    if name == "maxvit_t":
        if size % MAXVIT_MULTIPLE:
            raise ValueError(
                f"torchvision/maxvit_t needs a multiple of {MAXVIT_MULTIPLE}x{MAXVIT_MULTIPLE}, "
                f"not {size}x{size}; resize the images"
            )
        return {"input_size": (size, size)}
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True}
    return {}


def _adapt_stem(model: nn.Module, stem: str, in_channels: int, is_small: bool) -> None:
    first = model.get_submodule(stem)
    assert isinstance(first, nn.Conv2d)
    if in_channels != first.in_channels:
        first.in_channels = in_channels
        first.weight = nn.Parameter(torch.empty(first.out_channels, in_channels, *first.kernel_size))
        nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
    if is_small:
        first.stride = (1, 1)
        kernel = first.kernel_size[0]
        first.padding = (kernel // 2, kernel // 2) if kernel % 2 else "same"
        pools = [name for name, module in model.named_modules() if isinstance(module, nn.MaxPool2d)]
        for pool in pools[:1]:
            model.set_submodule(pool, nn.Identity())


def _load_pretrained(model: nn.Module, name: str, stem: str, head: str, architecture: Architecture) -> None:
    """Everything but the head. The dict keeps its type: some models read the version it carries."""
    state = _download(name, torchvision.models.get_model_weights(name).DEFAULT.url)
    for key in list(state):
        if key.startswith((f"{head}.", "aux1.", "aux2.", "AuxLogits.")):
            del state[key]
        elif name.startswith("densenet"):  # published before dots were forbidden in module names
            state[re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)] = state.pop(key)
    if name in PATCH_SIZES:
        state = interpolate_embeddings(architecture.image_size, PATCH_SIZES[name], state)
    kernel, in_channels = state[f"{stem}.weight"], architecture.in_channels
    if in_channels != kernel.shape[1]:
        grey = kernel.sum(dim=1, keepdim=True) / in_channels
        state[f"{stem}.weight"] = grey.repeat(1, in_channels, 1, 1)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert all(key.startswith(f"{head}.") for key in missing), missing
    assert not unexpected, unexpected


def _download(name: str, url: str) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        place = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
        raise ValueError(
            f"no pretrained weights for torchvision/{name} ({error}): download {url} and put it at {place}"
        ) from None
    return state


def _find_stages(
    model: nn.Module, trunk: Trunk, head: str, architecture: Architecture
) -> list[tuple[str, Stage]]:
    """(module name, stage) of the four taps. Raises ValueError where the image is too small."""
    twin = shadow(model)
    found: dict[str, Any] = {}  # module name -> output, in the order of execution
    for name, module in twin.named_modules():
        module.register_forward_hook(lambda _, __, output, name=name: found.update({name: output}))
    size = architecture.image_size
    image = torch.empty(1, architecture.in_channels, size, size, device="meta")
    try:
        with torch.no_grad():
            twin(image)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{architecture.family} does not fit {size}x{size} images: {reason}") from None

    maps = _maps(model, _children(model, trunk.root), found, trunk, head)
    while len({output.shape[2] for output in maps.values()}) < NUM_STAGES:
        names = [inner for name in maps for inner in _children(model, name, only_sequential=True)]
        if names == list(maps):
            break
        maps = _maps(model, names, found, trunk, head)
    last_of_size = {output.shape[2]: name for name, output in maps.items()}
    taps = list(last_of_size.values())[-NUM_STAGES:]
    if len(taps) < NUM_STAGES:
        order = list(maps)
        taps = [order[math.ceil(len(order) * i / NUM_STAGES) - 1] for i in range(1, NUM_STAGES + 1)]
    return [
        (name, Stage(f"stage{number}", maps[name].shape[1], maps[name].shape[2]))
        for number, name in enumerate(taps, start=1)
    ]


def _children(model: nn.Module, name: str, only_sequential: bool = False) -> list[str]:
    """The names one level down; with `only_sequential`, a module of another kind stays as it is."""
    module = model.get_submodule(name)
    if only_sequential and type(module) is not nn.Sequential:
        return [name]
    prefix = f"{name}." if name else ""
    names = [prefix + child for child, _ in module.named_children()]
    lists = [n for n in names if isinstance(model.get_submodule(n), nn.ModuleList)]  # these are never called
    return [inner for n in names for inner in (_children(model, n) if n in lists else [n])]


def _maps(
    model: nn.Module, names: Sequence[str], found: dict[str, Any], trunk: Trunk, head: str
) -> dict[str, Tensor]:
    """The maps that these modules put out before the global pooling, in the order of execution.

    Max-pools are left out, as are the identities in their place: a map before them says more.
    """
    maps: dict[str, Tensor] = {}
    for name in (name for name in found if name in names):
        module = model.get_submodule(name)
        if isinstance(module, nn.AdaptiveAvgPool2d) or f"{head}.".startswith(f"{name}."):
            break
        if not isinstance(module, nn.Identity | nn.MaxPool2d):
            maps[name] = trunk.to_map(found[name])
    return maps
