"""Gram matrices: any two images of a batch are as alike to the student as to the teacher.

Goes in: embeddings of both networks. Comes out: a scalar.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kdsearch.data.views import Batch
from kdsearch.losses.tensors import total, unit
from kdsearch.losses.terms import Term, TermContext
from kdsearch.models.build import Outputs


def gram_matrix(embedding: Tensor) -> Tensor:
    """The cosines between the samples of a batch [B,D]: [B,B], ones on the diagonal."""
    directions = unit(embedding, dim=1)
    return directions @ directions.T


def gram(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Mean over B*B of the squared difference of the cosines.

    Embeddings are [B,D]; widths may differ. 0 where they agree up to a rotation and a positive factor for
    each sample. `sp` instead makes unit vectors of the rows of the matrix, so that sizes count.
    Peng et al., ICCV 2019, arXiv 1904.01802, whose kernel here is the inner product of unit vectors. The Gram
    matrix of style transfer (Gatys, Ecker and Bethge, arXiv 1508.06576) is another: one for each image, over
    its channels, of which both networks would need equally many.
    """
    return (gram_matrix(student_embedding) - gram_matrix(teacher_embedding.detach())).square().mean()


def build(options: Mapping[str, Any], context: TermContext) -> Term:
    pairs_of = context.embedding_pairs(options["layer_map"])

    def term(student: Outputs, teacher: Outputs, batch: Batch, epoch: int) -> dict[str, Tensor]:
        return {"gram": total(gram(*pair) for pair in pairs_of(student, teacher))}

    return term
