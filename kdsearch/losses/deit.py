"""DeiT: a token of the student's own, beside the class token, answers like the teacher.

Goes in: the token's logits and the teacher's. Comes out: a scalar. A student without a token, a CNN, gives
its logits in their place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kdsearch.data.views import Batch
from kdsearch.losses.terms import Term, TermContext
from kdsearch.models.build import Outputs


def deit(token_logits: Tensor, teacher_logits: Tensor, hard: bool = True, temperature: float = 1.0) -> Tensor:
    """Hard: the mean cross-entropy with the teacher's most likely class. Soft: T^2 KL(teacher || token) with

    both softened by T, summed over B*K and divided by B*K: K times smaller than `kd`, as the authors' code
    divides (timm divides by B). Logits are [B,K]; T is read only by the soft form. Where the logits agree: 0
    for the soft form; for the hard one the cross-entropy with one's own answer.
    Touvron, Cord, Douze, Massa, Sablayrolles and Jegou, ICML 2021, arXiv 2012.12877.
    """
    if hard:
        return F.cross_entropy(token_logits, teacher_logits.argmax(dim=1))
    student = F.log_softmax(token_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
    return temperature**2 * (teacher.exp() * (teacher - student)).mean()


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    def term(student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        token = student.details.get("token", {}).get("logits", student.logits)
        temperature = 1.0 if options["hard"] else context.temperature_at(epoch)
        return {"deit": deit(token, teacher.logits, options["hard"], temperature)}

    return term
