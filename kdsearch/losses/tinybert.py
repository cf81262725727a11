"""TinyBERT's layers: the student's attention scores and hidden states meet the teacher's.

Goes in: attention scores and hidden states of pairs of blocks. Comes out: a scalar for each kind, and one
linear map from the student's width to the teacher's to train with the student.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kdsearch.data.views import Batch
from kdsearch.losses.tensors import total
from kdsearch.losses.terms import Term, TermContext
from kdsearch.losses.tokens import compared
from kdsearch.models.build import Outputs, Stage


def tinybert(
    student_scores: Tensor, teacher_scores: Tensor, projected_states: Tensor, teacher_states: Tensor
) -> Tensor:
    """The sum of `tinybert_attention` and `tinybert_hidden` of one pair of blocks, each weighed by 1.

    Scores [B,heads,L,L], states [B,L,D_t], the student's through the learned map. 0 where they agree.
    Jiao et al., Findings of EMNLP 2020, arXiv 1909.10351; its loss on the layers, without the one on logits.
    """
    attention = tinybert_attention(student_scores, teacher_scores)
    return attention + tinybert_hidden(projected_states, teacher_states)


def tinybert_attention(student_scores: Tensor, teacher_scores: Tensor) -> Tensor:
    """Mean over all elements of the squared difference of the scores before the softmax, [B,heads,L,L].

    The paper needs equal numbers of heads; where they differ both sides' means over the heads are compared.
    """
    teacher_scores = teacher_scores.detach()
    if student_scores.shape[1] != teacher_scores.shape[1]:
        student_scores, teacher_scores = student_scores.mean(dim=1), teacher_scores.mean(dim=1)
    return F.mse_loss(student_scores, teacher_scores)


def tinybert_hidden(projected_states: Tensor, teacher_states: Tensor) -> Tensor:
    """Mean over all elements of the squared difference of hidden states [B,L,D_t]."""
    return F.mse_loss(projected_states, teacher_states.detach())


class TinyBert(nn.Module):
    """The weighted sums over the pairs of blocks; one linear map serves all of them, as in the source.

    With `embedding` what enters the first blocks is compared as well, the paper's layer 0. Transformers with
    unequal patches are compared on the coarser grid; a distillation token is left out.
    """

    def __init__(
        self, pairs: tuple[tuple[Stage, Stage], ...], options: Mapping[str, Any], context: TermContext
    ) -> None:
        super().__init__()
        first = context.student_stages[0], context.teacher_stages[0]
        entering = first[0]._replace(name="embedding"), first[1]._replace(name="embedding")
        self.pairs = pairs
        self.states = (entering, *pairs) if options["embedding"] else pairs
        self.weights = options["attention_weight"], options["hidden_weight"]
        self.project = nn.Linear(context.student_features, context.teacher_features)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        scores = [compared("attention", pair, student, teacher) for pair in self.pairs]
        states = [compared("tokens", pair, student, teacher) for pair in self.states]
        attention = total(tinybert_attention(ours, theirs) for ours, theirs in scores)
        hidden = total(tinybert_hidden(self.project(ours), theirs) for ours, theirs in states)
        attention_weight, hidden_weight = self.weights
        return {"tinybert_attention": attention_weight * attention, "tinybert_hidden": hidden_weight * hidden}


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    return TinyBert(context.pairs(options["layer_map"]), options, context)
