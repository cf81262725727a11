"""Models from the table: built, measured, saved and loaded.

Goes in: a family's name, its options and the shape of the task. Comes out: a `Classifier`, its cost, or
a folder with `student.safetensors` and `student.json`.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from kdsearch import models
from kdsearch.models.classifier import Architecture, Classifier, Outputs, Stage
from kdsearch.models.shapes import Weightless, shadow, skeleton

__all__ = [
    "Architecture",
    "Classifier",
    "Outputs",
    "Stage",
    "build",
    "cost",
    "load_student",
    "load_weights",
    "measure",
    "save_student",
    "weightless",
]

WEIGHTS, DESCRIPTION = "student.safetensors", "student.json"
FORMAT = 1


def build(
    family: str, options: Mapping[str, Any], num_classes: int, in_channels: int, image_size: int
) -> Classifier:
    """A model in training mode, its initial weights drawn from the global torch generator.

    Options that are left out take their defaults. Raises ValueError, in words, for an unknown family or
    option, for options that do not go together, and for images too small for the model's strides.
    """
    try:
        entry = models.family(family)
    except KeyError:
        raise ValueError(f"no model family is called {family!r}") from None
    unknown = sorted(options.keys() - entry.options.keys())
    if unknown:
        raise ValueError(f"{family} has no option {unknown[0]!r}; it has {', '.join(entry.options)}")
    resolved = {name: options.get(name, option.default) for name, option in entry.options.items()}
    complaint = entry.check(resolved)
    if complaint:
        raise ValueError(f"{family}: {complaint}")
    module, _, function = entry.build.partition(":")
    builder: Callable[[Architecture], Classifier] = getattr(importlib.import_module(module), function)
    return builder(Architecture(family, resolved, num_classes, in_channels, image_size))


def weightless(architecture: Architecture) -> Classifier:
    """A model on the meta device, to be given its weights: nothing is drawn, nothing downloaded."""
    options = {
        name: False if name.split(".")[-1] == "pretrained" else value
        for name, value in architecture.options.items()
    }
    with Weightless():
        model = build(*architecture._replace(options=options))
    model.architecture = architecture
    return model.to("meta")


def measure(model: nn.Module, in_channels: int, image_size: int) -> dict[str, Any]:
    """`params`, `macs` of one image, and `size_mb` (10^6 bytes of parameters and buffers).

    Multiply-accumulates are those of convolutions, matrix products and attention. A copy without
    storage runs in evaluation mode: the model itself is not touched.
    """
    return {**_size(model), "macs": _macs(shadow(model), in_channels, image_size)}


def _size(model: nn.Module) -> dict[str, Any]:
    tensors = itertools.chain(model.parameters(), model.buffers())
    return {
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "size_mb": sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6,
    }


def _macs(twin: nn.Module, in_channels: int, image_size: int) -> int:
    # Here, because it imports triton, for which a worker process has no use.
    from torch.utils.flop_counter import FlopCounterMode

    dtype = next(twin.parameters()).dtype
    image = torch.empty(1, in_channels, image_size, image_size, dtype=dtype, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        twin(image)
    return int(counter.get_total_flops()) // 2


def cost(
    family: str, options: Mapping[str, Any], num_classes: int, in_channels: int, image_size: int
) -> dict[str, Any]:
    """What `measure` says about a model that is never allocated. Raises ValueError as `build` does."""
    items = tuple(sorted(options.items()))
    return dict(_cost(family, items, num_classes, in_channels, image_size))


@functools.lru_cache(maxsize=4096)
def _cost(
    family: str, options: tuple[tuple[str, Any], ...], num_classes: int, in_channels: int, image_size: int
) -> dict[str, Any]:
    model = weightless(Architecture(family, dict(options), num_classes, in_channels, image_size))
    size = _size(model)
    twin = skeleton(model)  # no copy: a third of the time
    return {**size, "macs": _macs(twin, in_channels, image_size)}


def save_student(folder: str | Path, model: Classifier, description: Mapping[str, Any]) -> None:
    """Write the model's weights, its architecture and `description` (JSON values) into `folder`.

    An older student there is replaced; whoever looks sees the old folder, none, or the complete new one.
    """
    folder = Path(folder)
    record = {"format": FORMAT, **model.architecture._asdict(), "description": description}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    partial.mkdir(parents=True)
    try:
        _write(partial / WEIGHTS, safetensors.torch.save(tensors))
        _write(partial / DESCRIPTION, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
        if folder.exists():
            replaced = folder.with_name(f"{partial.name}.replaced")
            folder.rename(replaced)
            partial.rename(folder)
            shutil.rmtree(replaced)
        else:
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def load_student(folder: str | Path) -> tuple[Classifier, dict[str, Any]]:
    """The model in evaluation mode and its description. Raises ValueError, in words, for a bad folder."""
    folder = Path(folder)
    try:
        record = json.loads((folder / DESCRIPTION).read_bytes())
        if record["format"] != FORMAT:
            raise ValueError(f"{folder} has format {record['format']!r}; this version reads {FORMAT}")
        architecture = _architecture(record)
        description = dict(record["description"])
        weights = safetensors.torch.load((folder / WEIGHTS).read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{folder} is not a saved student: {error.filename} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / DESCRIPTION} does not describe a student: {error!r}") from None
    except safetensors.SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} is damaged: {error}") from None
    model = weightless(architecture)
    load_weights(model, weights, source=str(folder / WEIGHTS))
    return model.eval(), description


def _architecture(record: Mapping[str, Any]) -> Architecture:
    types = (str, dict, int, int, int)
    for name, expected in zip(Architecture._fields, types, strict=True):
        if not isinstance(record[name], expected):
            raise TypeError(f"{name} is {record[name]!r}")
    return Architecture(**{name: record[name] for name in Architecture._fields})


def load_weights(model: Classifier, weights: Mapping[str, Tensor], source: str) -> None:
    """Give `model` these weights, in its dtypes and on its device; theirs, where it is on the meta device.

    Raises ValueError, in words, naming `source`, where names or shapes are not the model's.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    missing, surplus = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    wrong = [name for name in expected if name in found and found[name] != expected[name]]
    family, _, num_classes, in_channels, image_size = model.architecture
    wanted = f"{family} for {num_classes} classes and {in_channels}x{image_size}x{image_size} images"
    if missing or surplus:
        problem = f"has no {missing[0]!r}" if missing else f"has {surplus[0]!r}, which the model has not"
        raise ValueError(f"{source} is not a {wanted}: it {problem}")
    if wrong:
        shapes = "; ".join(f"{name} has shape {found[name]}, not {expected[name]}" for name in wrong[:3])
        raise ValueError(f"{source} is not a {wanted}: {shapes}")
    state = model.state_dict()  # not a plain dict: it carries the versions that some modules ask for
    for name, tensor in state.items():
        device = weights[name].device if tensor.is_meta else tensor.device
        state[name] = weights[name].to(device, tensor.dtype, copy=True)
    model.load_state_dict(state, assign=True)
