"""Where and how a trial computes: device, threads, memory layout and precision from what is there.

Goes in: what the machine and the model offer. Comes out: a `DevicePolicy`. Nothing global is changed but
cuDNN's TF32, which a policy for CUDA turns off; whoever runs the trial sets the threads. The CUDA half was
not run: no device was at hand.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import nn

# channels_last training crashed with a segmentation fault at widths 3, 4 and 5 in torch 2.14.1 on the
# CPU, 8 and 16 ran. Remove when a release trains width 4 in channels_last.
NARROWEST_CHANNELS_LAST = 8
HELD_SHARE = 0.2  # of what a process may use of its GPU: the largest split of images that is kept there
FEWEST_EVALUATED = 32  # images at once on a GPU, however large they are
NCHW = "nchw"
LAYOUTS = {NCHW: torch.contiguous_format, "channels_last": torch.channels_last}

GPUS_UNUSED = "there are GPUs and the trials use none of them: set resources.gpus_per_trial"

_gpus = 1.0  # of a GPU, what this process may use


@dataclass(frozen=True)
class DevicePolicy:
    """How to compute. `autocast` None is plain float32; losses are float32 in either case.

    `check_every` counts the batches between two looks at the recorded losses: each look waits for the
    device, which costs nothing on the CPU and empties the queue of a GPU. `eval_batch_size` is for images
    of up to 32x32 pixels.
    """

    device: torch.device
    threads: int
    memory_format: torch.memory_format
    autocast: torch.dtype | None
    check_every: int
    eval_batch_size: int

    def eval_batch(self, image_size: int) -> int:
        """How many images of this many pixels a side go through a network at once where none is trained.

        On the CPU always as many; a GPU has room for as many pixels.
        """
        if self.device.type == "cpu":
            return self.eval_batch_size
        pixels = max(image_size**2, 32**2)
        return max(self.eval_batch_size * 32**2 // pixels, FEWEST_EVALUATED)


def device_policy(
    device: str = "auto", cpus: float = 1.0, narrowest_layer: int = 0, layout: str = NCHW
) -> DevicePolicy:
    """The policy for one trial that may use `cpus` cores; `auto` is CUDA where there is one.

    `narrowest_layer` is the smallest number of channels any convolution puts out (see the function of
    that name); 0, unknown, is treated as narrow. The CPU takes `layout`, one of LAYOUTS, which is measured
    for each family (see `kdsearch.layout`), and float32: bf16 autocast is nine times slower there
    (pytorch#183815). CUDA takes channels_last and, where the GPU has it, bf16 autocast; that branch was
    written from the documentation and not run on a device. Narrow layers are NCHW everywhere.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(device)
    if narrowest_layer < NARROWEST_CHANNELS_LAST:
        layout = NCHW
    elif chosen.type != "cpu":
        layout = "channels_last"
    if chosen.type == "cpu":
        return DevicePolicy(chosen, num_threads(cpus), LAYOUTS[layout], None, 1, 256)
    if chosen.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # else accuracies are not those that float32 has elsewhere
    has_bf16 = chosen.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    precision = torch.bfloat16 if has_bf16 else None
    return DevicePolicy(chosen, num_threads(cpus), LAYOUTS[layout], precision, 50, 1024)


def use_share_of_gpu(gpus: float) -> None:
    """Say what part of its GPU this process may use. Where nobody says, it is all of it."""
    global _gpus
    _gpus = gpus


def has_room(device: torch.device, num_bytes: int) -> bool:
    """Whether a split of images of so many bytes is kept on the device rather than on the host.

    By the whole of its memory, not by what is free: a trial trains alike whoever trains beside it.
    """
    if device.type != "cuda":
        return True
    return num_bytes <= HELD_SHARE * _gpus * torch.cuda.get_device_properties(device).total_memory


def num_threads(cpus: float) -> int:
    """OpenMP threads for a trial with this share of the cores: at least 1, never more than there are.

    More threads than free cores is not merely useless: two threads on two shared cores ran a training
    step 25 times slower than one.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(int(cpus), available))


def narrowest_layer(model: nn.Module) -> int:
    """The smallest number of channels that any convolution of the model puts out, 0 without convolutions."""
    return min((layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)), default=0)
