"""Deep mutual learning: peers match one another's predictions.

Goes in: logits of peers on the same images. Comes out: one scalar for each peer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdsearch.losses.kd import kd


def mutual_loss(student_logits: Tensor, peer_logits: Sequence[Tensor], temperature: float = 1.0) -> Tensor:
    """The mean over the other peers of T^2 * batch mean KL(softmax(peer / T) || softmax(student / T)).

    Logits are [B,K], those of one or more other peers in the sequence; they get no gradient. 0 where all
    agree up to a constant per sample. The paper has T = 1 and adds it to the cross-entropy with weight 1.
    Zhang, Xiang, Hospedales and Lu, CVPR 2018, arXiv 1706.00384.
    """
    return torch.stack([kd(student_logits, peer, temperature) for peer in peer_logits]).mean()


def dml(logits: Sequence[Tensor], temperature: float = 1.0) -> list[Tensor]:
    """`mutual_loss` of each of two or more peers [B,K] against all others, in their order.

    All from one forward pass, so that their updates are simultaneous; in the paper the peers take turns,
    each from predictions made after the update before.
    """
    return [
        mutual_loss(own, [*logits[:index], *logits[index + 1 :]], temperature)
        for index, own in enumerate(logits)
    ]
