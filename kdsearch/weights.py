"""Weights from files that somebody else may have written, checked against the network they are for.

Goes in: a .safetensors file, or a torch file that holds nothing but tensors and plain values. Comes out:
named numpy arrays that fit, or a `WeightsError` that says in words why not. Nothing is executed on reading.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
import torch
from torch import Tensor, nn

from kdsearch.models.build import Classifier

Weights = dict[str, npt.NDArray[Any]]

NESTED_UNDER = ("state_dict", "model_state_dict", "model", "net")  # where checkpoints keep the weights
OTHER_NAMES = (  # where the names are another network's, or another implementation's
    "; torchvision's names fit torchvision's families alone (torchvision/resnet50: {checkpoint: ...}), the "
    "other families take kdsearch's own"
)
WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every name


class WeightsError(ValueError):
    """A file of weights cannot be read or belongs to another network."""


def weights_file(checkpoint: Path) -> Path:
    """The file itself, or the .safetensors in a folder that kdsearch wrote."""
    if not checkpoint.is_dir():
        return checkpoint
    names = ("teacher.safetensors", "student.safetensors")
    found = [checkpoint / name for name in names if (checkpoint / name).exists()]
    if not found:
        raise WeightsError(f"{checkpoint}: the folder holds neither {names[0]} nor {names[1]}")
    return found[0]


def read_description(file: Path) -> dict[str, Any]:
    """What the .json beside a .safetensors of kdsearch's says; its sha256, where it has one, is checked."""
    beside = file.with_suffix(".json")
    if not beside.exists():
        raise WeightsError(f"{file}: no {beside.name} beside it says which network this is")
    try:
        description = dict(json.loads(read_file(beside)))
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{beside}: damaged, not a JSON object") from error
    missing = {"family", "options", "num_classes", "in_channels", "image_size"} - set(description)
    if missing:
        raise WeightsError(f"{beside}: does not say {', '.join(sorted(missing))}")
    if "sha256" in description and hashlib.sha256(read_file(file)).hexdigest() != description["sha256"]:
        raise WeightsError(f"{file}: damaged, its sha256 is not the one in {beside.name}")
    return description


def read_weights(file: Path) -> Weights:
    """The named arrays of a .safetensors, or of a torch file (see NESTED_UNDER)."""
    content = read_file(file)
    if file.suffix == ".safetensors":
        try:
            return dict(safetensors.numpy.load(content))
        except safetensors.SafetensorError as error:
            raise WeightsError(f"{file}: damaged, not a safetensors file ({error})") from error
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch.load raise a dozen types, AssertionError included
        raise WeightsError(
            f"{file}: refused: it is damaged, or holds pickled objects besides weights, which reading would "
            "execute; write weights alone: torch.save(model.state_dict(), ...) or safetensors"
        ) from error
    return _named_tensors(loaded, file)


def read_file(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read: {error.strerror}") from error


def to_arrays(tensors: Mapping[str, Tensor]) -> Weights:
    """Copies; any floating precision as float32, which students learn in and numpy has."""
    return {
        name: (tensor.float() if tensor.is_floating_point() else tensor).cpu().contiguous().numpy().copy()
        for name, tensor in tensors.items()
    }


def fitted(weights: Weights, model: Classifier, file: Path) -> Weights:
    """The weights under the model's names. Raises WeightsError where they are not this model's."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    weights = dict(weights)
    for prefix in WRAPPERS:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): array for name, array in weights.items()}
    if all(name.startswith("model.") for name in expected) and not expected.keys() & weights.keys():
        weights = {f"model.{name}": array for name, array in weights.items()}  # torchvision's own names
    for name in expected.keys() - weights.keys():
        if name.endswith("num_batches_tracked"):  # files from before torch 0.4.1 lack it; no output uses it
            weights[name] = np.zeros((), dtype=np.int64)

    _check_task(weights, model, file)
    network = f"{model.architecture.family} ({words(model.architecture.options)})"
    missing, surplus = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    if missing or surplus:
        counts = f"{_count(sorted(missing), 'missing')}, {_count(sorted(surplus), 'unexpected')}"
        hint = OTHER_NAMES if min(len(missing), len(surplus)) > 3 else ""
        raise WeightsError(f"{file}: not the weights of {network}: {counts}{hint}")
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise WeightsError(
                f"{file}: not the weights of {network}: {name} is {weights[name].shape} in the checkpoint, "
                f"{shape} in the network"
            )
    broken = sorted(name for name, array in weights.items() if not np.isfinite(array).all())
    if broken:
        raise WeightsError(f"{file}: {_count(broken, 'with infinite or NaN values')}")
    return weights


def check_sizes(num_classes: int, in_channels: int, model: Classifier, file: Path) -> None:
    """Raise WeightsError where a checkpoint's task is not the model's."""
    task = model.architecture
    if num_classes != task.num_classes:
        raise WeightsError(
            f"{file}: the checkpoint has {num_classes} classes, the data have {task.num_classes}"
        )
    if in_channels != task.in_channels:
        raise WeightsError(
            f"{file}: the checkpoint takes {in_channels} input channels, the data have {task.in_channels}"
        )


def words(options: Mapping[str, Any]) -> str:
    """ "depth 20, width 1.0"."""
    return ", ".join(f"{name} {value}" for name, value in options.items())


def _check_task(weights: Weights, model: Classifier, file: Path) -> None:
    """Classes and channels as the first and last layer tell them: said before any list of shapes."""
    task = model.architecture
    layers = {f"{name}.weight": layer for name, layer in model.named_modules()}
    stems = [name for name, layer in layers.items() if isinstance(layer, nn.Conv2d)][:1]
    heads = [name for name, layer in layers.items() if isinstance(layer, nn.Conv2d | nn.Linear)][-1:]
    channels = [weights[name].shape[1] for name in stems if name in weights and weights[name].ndim == 4]
    classes = [weights[name].shape[0] for name in heads if name in weights and weights[name].ndim > 1]
    check_sizes((*classes, task.num_classes)[0], (*channels, task.in_channels)[0], model, file)


def _named_tensors(content: Any, file: Path) -> Weights:
    for name in NESTED_UNDER:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    entries = content.items() if isinstance(content, Mapping) else ()
    tensors = {str(name): value for name, value in entries if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(
            f"{file}: no weights in it, neither at the top nor under {', '.join(NESTED_UNDER)}"
        )
    return to_arrays(tensors)


def _count(names: Sequence[str], what: str) -> str:
    """ "2 parameters missing (fc.bias, fc.weight)", the first three by name."""
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} parameter{'' if len(names) == 1 else 's'} {what}" + (f" ({shown})" if names else "")
