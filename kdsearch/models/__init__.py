"""The table of model families, importable without torch.

Goes in: nothing. Comes out: `FAMILIES` and `family(name)`: each family's settings, its stage names and
which settings do not go together, so that a spec is checked before anything is built. The same families
serve students and teachers. Models are built in `kdsearch.models.build`.

Widths are multipliers of a family's base channels: `base * width`, rounded half up, never below one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kdsearch.options import Option

Options = Mapping[str, Any]

CNN_DETAILS = frozenset({"before", "stem"})
TRANSFORMER_DETAILS = CNN_DETAILS | {"attention", "qkv", "tokens"}


@dataclass(frozen=True)
class Family:
    """One table entry. `build` is "module:function"; `spatial` is False where stages have no maps.

    `stages` maps option values to stage names; `check` returns a sentence saying what is wrong with
    these option values and which are the nearest valid ones, or None. Both fill in missing defaults.
    `details` are the kinds of `Outputs.details` that the family publishes.
    """

    build: str
    options: Mapping[str, Option]
    stages: Callable[[Options], tuple[str, ...]]
    spatial: bool
    doc: str
    check: Callable[[Options], str | None]
    details: frozenset[str] = CNN_DETAILS


def stage_names(count: int) -> tuple[str, ...]:
    """("stage1", ..., "stageN")."""
    return tuple(f"stage{number}" for number in range(1, count + 1))


def _width(doc: str, default: float = 1.0, high: float = 16.0) -> Option:
    return Option("float", default, doc, low=0.01, high=high)


def _depth_rule(multiple: int, offset: int, smallest: int, default: int) -> Callable[[Options], str | None]:
    """Depths of the form `multiple * n + offset`; of two equally near ones the smaller is named."""

    def check(options: Options) -> str | None:
        depth = options.get("depth", default)
        if depth >= smallest and (depth - offset) % multiple == 0:
            return None
        below = max(smallest, depth - (depth - offset) % multiple)
        nearest = below if depth - below <= multiple // 2 else below + multiple
        examples = ", ".join(str(smallest + multiple * step) for step in range(3))
        return f"depth must be {multiple}n+{offset} ({examples}, ...): {depth} is not; nearest: {nearest}"

    return check


VGG_DEPTHS = (8, 11, 13, 16, 19)


def _check_vgg(options: Options) -> str | None:
    depth = options.get("depth", 8)
    if depth in VGG_DEPTHS:
        return None
    nearest = min(VGG_DEPTHS, key=lambda valid: abs(valid - depth))
    return f"depth must be one of {', '.join(map(str, VGG_DEPTHS))}: {depth} is not; nearest: {nearest}"


def _check_vit(options: Options) -> str | None:
    dim, heads = options.get("dim", 192), options.get("heads", 3)
    if dim % heads == 0:
        return None
    nearest = min((n for n in range(1, dim + 1) if dim % n == 0), key=lambda divisor: abs(divisor - heads))
    return f"heads must divide dim: {heads} does not divide {dim}; nearest: {nearest}"


def _always_valid(options: Options) -> str | None:
    return None


FAMILIES: dict[str, Family] = {
    "mlp": Family(
        build="kdsearch.models.mlp:build",
        options={
            "depth": Option("int", 2, "number of hidden layers; each one is a stage", low=1, high=32),
            "width": _width("multiplier of 128 units in every hidden layer", high=64.0),
        },
        stages=lambda options: stage_names(options.get("depth", 2)),
        spatial=False,
        doc="Fully connected layers with batch norm and ReLU; stages are vectors.",
        check=_always_valid,
    ),
    "mobilenetv2": Family(
        build="kdsearch.models.mobilenetv2:build",
        options={
            "head_ratio": Option(
                "float",
                1.0,
                "multiplier of the last 1x1 convolution's 1280 * width channels (the embedding)",
                low=0.01,
                high=16.0,
            ),
            "stem_stride": Option(
                "int", 1, "stride of the first convolution: 1 for 32x32 and smaller", low=1, high=2
            ),
            "width": _width("multiplier of the base channels of every layer"),
        },
        stages=lambda options: stage_names(4),
        spatial=True,
        doc=(
            "Sandler et al., CVPR 2018, arXiv 1801.04381, with strides for small images. RepDistiller's "
            "`MobileNetV2` is width 0.5, head_ratio 2, stem_stride 2."
        ),
        check=_always_valid,
    ),
    "resnet": Family(
        build="kdsearch.models.resnet:build",
        options={
            "depth": Option("int", 20, "number of weighted layers, 6n+2", low=8, high=1202),
            "stem_ratio": Option(
                "float",
                1.0,
                "channels of the first convolution over those of stage1",
                low=0.01,
                high=4.0,
            ),
            "width": _width("multiplier of the stages' base channels 16, 32, 64"),
        },
        stages=lambda options: stage_names(3),
        spatial=True,
        doc=(
            "The CIFAR ResNet of He et al., CVPR 2016, arXiv 1512.03385, with 1x1 convolution shortcuts. "
            "RepDistiller's resnet8x4 and resnet32x4 are width 4, stem_ratio 0.5."
        ),
        check=_depth_rule(multiple=6, offset=2, smallest=8, default=20),
    ),
    "shufflenetv2": Family(
        build="kdsearch.models.shufflenetv2:build",
        options={
            "head_ratio": Option(
                "float",
                1.0,
                "multiplier of the last 1x1 convolution's 1024 * width channels (the embedding)",
                low=0.01,
                high=16.0,
            ),
            "width": _width("multiplier of the base channels 116, 232, 464, rounded to even numbers"),
        },
        stages=lambda options: stage_names(3),
        spatial=True,
        doc="Ma et al., ECCV 2018, arXiv 1807.11164, with a stride-1 stem for small images.",
        check=_always_valid,
    ),
    "vgg": Family(
        build="kdsearch.models.vgg:build",
        options={
            "depth": Option("int", 8, "number of weighted layers: 8, 11, 13, 16 or 19", low=8, high=19),
            "width": _width("multiplier of the base channels 64, 128, 256, 512, 512"),
        },
        stages=lambda options: stage_names(4),
        spatial=True,
        doc=(
            "Simonyan and Zisserman, ICLR 2015, arXiv 1409.1556, with batch norm and one linear layer, "
            "as in RepDistiller; its first block is the stem, the other four are the stages."
        ),
        check=_check_vgg,
    ),
    "vit": Family(
        build="kdsearch.models.vit:build",
        options={
            "depth": Option("int", 12, "number of blocks; each one is a stage", low=1, high=64),
            "dim": Option("int", 192, "width of the tokens, a multiple of heads", low=1, high=4096),
            "heads": Option("int", 3, "attention heads of every block; they divide dim", low=1, high=64),
            "mlp_ratio": Option("float", 4.0, "hidden units of a block's MLP over dim", low=0.01, high=16.0),
            "patch": Option(
                "int", 4, "side of a patch in pixels; it divides the image's side", low=1, high=64
            ),
            "token": Option(
                "bool",
                False,
                "DeiT's distillation token with a linear layer of its own; the method deit adds it by itself",
                searchable=False,
            ),
            "width": _width("multiplier of dim, rounded to a multiple of heads"),
        },
        stages=lambda options: stage_names(options.get("depth", 12)),
        spatial=True,
        doc=(
            "Dosovitskiy et al., ICLR 2021, arXiv 2010.11929; the defaults are DeiT-Tiny's (Touvron et al., "
            "ICML 2021, arXiv 2012.12877) with smaller patches. DeiT's recipe: adamw, weight_decay 0.05, lr "
            "5e-4 * batch_size / 512, cosine, warm-up in the first sixtieth."
        ),
        check=_check_vit,
        details=TRANSFORMER_DETAILS,
    ),
    "wrn": Family(
        build="kdsearch.models.wrn:build",
        options={
            "depth": Option("int", 16, "number of weighted layers, 6n+4", low=10, high=1204),
            "width": _width("widen factor: multiplier of the stages' base channels 16, 32, 64", default=2.0),
        },
        stages=lambda options: stage_names(3),
        spatial=True,
        doc=(
            "Wide ResNet, Zagoruyko and Komodakis, BMVC 2016, arXiv 1605.07146; WRN-16-2 is depth 16, "
            "width 2. Stages are the raw residual sums, before the next batch norm."
        ),
        check=_depth_rule(multiple=6, offset=4, smallest=10, default=16),
    ),
}

# torchvision.models.list_models(module=torchvision.models) of torchvision 0.29; a test compares.
TORCHVISION = (
    "alexnet",
    *("convnext_base", "convnext_large", "convnext_small", "convnext_tiny"),
    *("densenet121", "densenet161", "densenet169", "densenet201"),
    *("efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "efficientnet_b4"),
    *("efficientnet_b5", "efficientnet_b6", "efficientnet_b7"),
    *("efficientnet_v2_l", "efficientnet_v2_m", "efficientnet_v2_s"),
    "googlenet",
    "inception_v3",
    "maxvit_t",
    *("mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3"),
    *("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"),
    *("regnet_x_16gf", "regnet_x_1_6gf", "regnet_x_32gf", "regnet_x_3_2gf"),
    *("regnet_x_400mf", "regnet_x_800mf", "regnet_x_8gf"),
    *("regnet_y_128gf", "regnet_y_16gf", "regnet_y_1_6gf", "regnet_y_32gf", "regnet_y_3_2gf"),
    *("regnet_y_400mf", "regnet_y_800mf", "regnet_y_8gf"),
    *("resnet101", "resnet152", "resnet18", "resnet34", "resnet50"),
    *("resnext101_32x8d", "resnext101_64x4d", "resnext50_32x4d"),
    *("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"),
    *("squeezenet1_0", "squeezenet1_1"),
    *("swin_b", "swin_s", "swin_t", "swin_v2_b", "swin_v2_s", "swin_v2_t"),
    *("vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
    *("vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16", "vit_l_32"),
    *("wide_resnet101_2", "wide_resnet50_2"),
)

_TORCHVISION_FAMILY = Family(
    build="kdsearch.models.torchvision_zoo:build",
    options={
        "dropout": Option("bool", False, "keep the model's own dropout and stochastic depth"),
        "pretrained": Option("bool", False, "start from torchvision's newest ImageNet weights"),
    },
    stages=lambda options: stage_names(4),
    spatial=True,
    doc="Any torchvision classifier with a new head and, up to 64x64 images, a stem without strides.",
    check=_always_valid,
    details=CNN_DETAILS,
)


def family(name: str) -> Family:
    """The entry of a family, of `torchvision/<name>` or of a student that `kdsearch.models.reuse` composed.

    Raises KeyError for an unknown name.
    """
    if name.startswith("simkd:"):
        from kdsearch.models import reuse  # it needs this table

        return reuse.composed(name, family)
    prefix, _, model = name.partition("/")
    if prefix == "torchvision" and model in TORCHVISION:
        return _TORCHVISION_FAMILY
    return FAMILIES[name]
