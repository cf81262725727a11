"""MiniLMv2: the student's queries, keys and values relate to each other as the teacher's do.

Goes in: queries, keys and values of pairs of blocks. Comes out: a scalar. Nothing is learned besides: widths,
heads and depths may differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kdsearch.data.views import Batch
from kdsearch.losses.tensors import total
from kdsearch.losses.terms import Term, TermContext
from kdsearch.losses.tokens import compared
from kdsearch.models.build import Outputs, Stage


def minilm(student_qkv: Tensor, teacher_qkv: Tensor, relation_heads: int) -> Tensor:
    """Sum over queries, keys and values of the mean over B, heads and tokens of KL(teacher || student)

    of a token's relations to all tokens: softmax(X X' / sqrt(width)) for each relation head's part X of the
    vectors. [3,B,L,D] with the attention heads side by side; D may differ, `relation_heads` divides both.
    0 where they agree.
    Wang, Bao, Huang, Dong and Wei, Findings of ACL 2021, arXiv 2012.15828 (v2 of arXiv 2002.10957).
    """
    student = _relations(student_qkv, relation_heads)
    teacher = _relations(teacher_qkv.detach(), relation_heads)
    return (teacher.exp() * (teacher - student)).sum(dim=-1).mean(dim=(1, 2, 3)).sum()


def _relations(qkv: Tensor, relation_heads: int) -> Tensor:
    """Log probabilities [3,B,relation_heads,L,L]."""
    heads = qkv.unflatten(3, (relation_heads, -1)).transpose(2, 3)  # type: ignore[no-untyped-call]  # torch's
    return F.log_softmax((heads * heads.shape[-1] ** -0.5) @ heads.mT, dim=-1)


def common_heads(student_width: int, teacher_width: int, at_most: int) -> int:
    """The largest number up to `at_most` that divides both widths."""
    return max(n for n in range(1, at_most + 1) if student_width % n == 0 == teacher_width % n)


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    pairs = context.pairs(options["layer_map"])

    def term(student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        def compare(pair: tuple[Stage, Stage]) -> Tensor:
            ours, theirs = compared("qkv", pair, student, teacher)
            heads = common_heads(ours.shape[3], theirs.shape[3], options["relation_heads"])
            return minilm(ours, theirs, heads)

        return {"minilm": total(map(compare, pairs))}

    return term
