"""Models without storage, for questions about shapes: cost, stages, a place to load weights into.

Goes in: a module, or the code that builds one. Comes out: the same module on the meta device. A sweep
asks for the cost of thousands of candidates, so both skip what PyTorch does slowly there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Parameters and most buffers begin as one of these. Not `torch.device("meta")`: some constructors compute
# widths with tensors (torchvision's regnets), which need their values.
ALLOCATING = {torch.empty, torch.ones, torch.zeros}
# What torch.nn.init does in the end; on the meta device each call takes as long as a whole layer.
FILLING = {Tensor.fill_, Tensor.normal_, Tensor.uniform_, Tensor.zero_}


class Weightless(TorchFunctionMode):
    """Modules built in this context have shapes but no values, and draw nothing from a generator."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in FILLING:
            return args[0]
        if func in ALLOCATING:
            return func(*args, **{**(kwargs or {}), "device": "meta"})
        return func(*args, **(kwargs or {}))


# Their outputs have the shape of their inputs and cost no products, but PyTorch needs up to milliseconds
# for each on the meta device.
KEEPING_SHAPE = (
    nn.BatchNorm2d,
    nn.GELU,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.LayerNorm,
    nn.ReLU,
    nn.ReLU6,
    nn.SiLU,
)


def shadow(model: nn.Module) -> nn.Module:
    """A copy without values, in evaluation mode, whose elementwise layers pass their input on."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta")) for p in model.parameters()}
    memo |= {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    return skeleton(copy.deepcopy(model, memo))


def skeleton(model: nn.Module) -> nn.Module:
    """What `shadow` copies, made of a model that is already on the meta device and not needed any more."""
    for name, module in list(model.named_modules()):
        if isinstance(module, KEEPING_SHAPE):
            model.set_submodule(name, nn.Identity())
    return model.eval()
