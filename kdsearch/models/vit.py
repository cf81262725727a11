"""Vision transformers: Dosovitskiy et al., ICLR 2021, arXiv 2010.11929, in the form of DeiT.

Goes in: patch, dim, depth, heads, mlp_ratio and width, a multiplier of dim that is rounded to a multiple of
heads. Comes out: a classifier on the class token, whose stages are its blocks: what leaves a block, without
the class token, as a map [B,D,h,h] of the patches. With `token` it has DeiT's distillation token (Touvron et
al., ICML 2021, arXiv 2012.12877) and a second linear layer on it. Its parts are drawn last, so that a student
with the token starts like the one without.

Pre-norm blocks, GELU, learned positions, no dropout. Tokens, positions and weights start with DeiT's
truncated normal (std 0.02), biases with 0. So does the patches' convolution: DeiT leaves it PyTorch's
default, which is the same size at 16x16x3 pixels, but 14 times that at 2x2x1 and then drowns the positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdsearch.models.classifier import Architecture, Classifier, Outputs, Stage
from kdsearch.models.layers import scaled

NORM_EPS = 1e-6  # DeiT's, not PyTorch's 1e-5
INITIAL_STD = 0.02


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); [B,L,D] -> [B,L,D]."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim, NORM_EPS)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.project = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, tokens: Tensor, detailed: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """The tokens, and with `detailed` what the details say of them: attention, qkv and tokens."""
        qkv = self.qkv(self.norm1(tokens)).unflatten(2, (3, -1)).movedim(2, 0)
        queries, keys, values = qkv.unflatten(3, (self.heads, -1)).transpose(2, 3)
        if detailed:
            scores = (queries * queries.shape[-1] ** -0.5) @ keys.mT
            mixed = scores.softmax(dim=-1) @ values
            seen = {"attention": scores, "qkv": qkv}
        else:
            mixed = F.scaled_dot_product_attention(queries, keys, values)
            seen = {}
        tokens = tokens + self.project(mixed.transpose(1, 2).flatten(2))
        tokens = tokens + self.mlp(self.norm2(tokens))
        return tokens, {**seen, "tokens": tokens} if detailed else {}


class VisionTransformer(Classifier):
    """The tokens are the class token, the distillation token where there is one, and the patches by row.

    With the distillation token `outputs` gives in training mode the class token's logits, for the labels,
    and beside them the token's own, for the teacher; in evaluation mode, and from `forward` in both, the
    logits are the mean of the two.
    """

    def __init__(self, architecture: Architecture, blocks: Sequence[Block], dim: int, size: int) -> None:
        names = [f"stage{number}" for number in range(1, len(blocks) + 1)]
        super().__init__(architecture, [Stage(name, dim, size) for name in names], num_features=dim)
        patch, num_classes = architecture.options["patch"], architecture.num_classes
        self.patches = nn.Conv2d(architecture.in_channels, dim, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, 1 + size**2, dim))
        self.blocks = nn.ModuleDict(dict(zip(names, blocks, strict=True)))
        self.norm = nn.LayerNorm(dim, NORM_EPS)
        self.classifier = nn.Linear(dim, num_classes)
        _initialise(self)
        self.token_head = TokenHead(dim, num_classes) if architecture.options["token"] else None

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.outputs(images)
        if self.training and self.token_head is not None:
            return (outputs.logits + outputs.details["token"]["logits"]) / 2
        return outputs.logits

    def outputs(self, images: Tensor, detailed: bool = False, until: str | None = None) -> Outputs:
        first = self.class_token + self.positions[:, :1]
        if self.token_head is not None:
            first = torch.cat([first, self.token_head.token + self.token_head.position], dim=1)
        patches = self.patches(images).flatten(2).mT + self.positions[:, 1:]
        tokens = torch.cat([first.expand(len(images), -1, -1), patches], dim=1)

        num_first = first.shape[1]
        features: dict[str, Tensor] = {}
        details: dict[str, dict[str, Tensor]] = {}
        if detailed:
            details = {"stem": {"stem": self._map(tokens, num_first)}, "tokens": {"embedding": tokens}}
        for name, block in self.blocks.items():
            tokens, seen = block(tokens, detailed)
            features[name] = self._map(tokens, num_first)
            for kind, value in seen.items():
                details.setdefault(kind, {})[name] = value
            if name == until:
                break
        if detailed:
            details["before"] = dict(features)  # a block ends without an activation
        if until is not None:
            return Outputs(images.new_empty(0), features, images.new_empty(0), details)

        last = self.norm(tokens[:, :num_first])
        embedding = last[:, 0]
        logits = self.classifier(embedding)
        if self.token_head is not None:
            token_logits = self.token_head.classifier(last[:, 1])
            details["token"] = {"logits": token_logits}
            logits = logits if self.training else (logits + token_logits) / 2
        return Outputs(logits, features, embedding, details)

    def _map(self, tokens: Tensor, num_first: int) -> Tensor:
        """The tokens behind the first ones as a map [B,D,h,h], a view."""
        size = self.stages[0].size
        return tokens[:, num_first:].mT.reshape(len(tokens), -1, size, size)


class TokenHead(nn.Module):
    """What the distillation token adds to a transformer: itself, its position and a linear layer."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = nn.Parameter(torch.zeros(1, 1, dim))
        self.classifier = nn.Linear(dim, num_classes)
        _initialise(self)


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=INITIAL_STD)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    for parameter in model.parameters(recurse=False):
        nn.init.trunc_normal_(parameter, std=INITIAL_STD)


def build(architecture: Architecture) -> VisionTransformer:
    options, image_size = architecture.options, architecture.image_size
    patch = options["patch"]
    if image_size % patch:
        divisors = [size for size in range(1, image_size + 1) if image_size % size == 0]
        nearest = min(divisors, key=lambda size: abs(size - patch))
        raise ValueError(
            f"vit cuts images into patches of {patch}: {image_size}x{image_size} is not a multiple; "
            f"nearest: patch {nearest}"
        )
    heads, dim = options["heads"], scaled(options["dim"], options["width"], multiple=options["heads"])
    hidden = scaled(dim, options["mlp_ratio"])
    blocks = [Block(dim, heads, hidden) for _ in range(options["depth"])]
    return VisionTransformer(architecture, blocks, dim, image_size // patch)
