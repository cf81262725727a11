"""Contract suite over the families, their published sizes, and what the torchvision adapter promises."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor, nn

from kdsearch import models
from kdsearch.models import FAMILIES, TORCHVISION, family
from kdsearch.models.build import (
    Architecture,
    Classifier,
    build,
    cost,
    load_student,
    load_weights,
    measure,
    save_student,
)
from kdsearch.models.layers import BatchNorm, scaled
from kdsearch.models.shapes import Weightless, shadow

NUM_CLASSES = 10
SHAPES = ((1, 8), (3, 32))  # (in_channels, image_size)
MODELS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("mlp", {}),
    ("mlp", {"depth": 3, "width": 0.25}),
    ("mobilenetv2", {"width": 0.25}),
    ("mobilenetv2", {"width": 0.1, "head_ratio": 2.0, "stem_stride": 2}),
    ("resnet", {"depth": 8}),
    ("resnet", {"depth": 14, "width": 0.3, "stem_ratio": 0.5}),
    ("shufflenetv2", {"width": 0.5}),
    ("shufflenetv2", {"width": 0.11, "head_ratio": 0.5}),
    ("torchvision/mobilenet_v3_small", {}),
    ("torchvision/shufflenet_v2_x0_5", {}),
    ("torchvision/squeezenet1_1", {}),
    ("vgg", {"width": 0.25}),
    ("vgg", {"depth": 19, "width": 0.1}),
    ("wrn", {"depth": 10}),
    ("wrn", {"depth": 16, "width": 0.4}),
)
LARGE_MODELS = tuple(
    (f"torchvision/{name}", {})
    for name in (
        "alexnet",
        "convnext_tiny",
        "densenet121",
        "efficientnet_b0",
        "googlenet",
        "inception_v3",
        "mnasnet0_5",
        "regnet_y_400mf",
        "resnet18",
        "swin_t",
        "swin_v2_t",
        "vgg11_bn",
        "vit_b_16",
    )
)

Case = tuple[str, dict[str, Any], int, int]
CASES: list[Case] = [(name, options, *shape) for name, options in MODELS for shape in SHAPES]
LARGE_CASES: list[Case] = [(name, options, 3, 32) for name, options in LARGE_MODELS]
CASES_BY_ID = {f"{name}{options}-{channels}x{size}": (name, options, channels, size) for name, options, channels, size in CASES}


def make(case: Case, seed: int = 0) -> Classifier:
    name, options, in_channels, image_size = case
    torch.manual_seed(seed)
    return build(name, options, NUM_CLASSES, in_channels, image_size)


def random_images(case: Case, batch_size: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch_size, case[2], case[3], case[3], generator=generator)


every_case = pytest.mark.parametrize("case", CASES_BY_ID.values(), ids=CASES_BY_ID.keys())
