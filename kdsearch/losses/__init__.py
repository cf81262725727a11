"""The distillation methods a spec can name, without importing torch.

Goes in: nothing. Comes out: `METHODS`, from a method's key to what the spec and the search need to
know about it. The mathematics is in one file per method (`kdsearch.losses.kd:kd` takes plain tensors);
`kdsearch.losses.terms` turns a trial's choices into one weighted sum.

A new method is one file with a function of tensors and a `build`, one entry here, and its check values in
tests/test_losses.py; tests/test_methods_contract.py runs over this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from kdsearch.options import Option

SlotName = Literal["response", "feature", "relation", "contrastive"]
SLOTS: tuple[SlotName, ...] = get_args(SlotName)


@dataclass(frozen=True)
class Method:
    """One distillation loss.

    `build` names the function that makes the term ("module:function", imported by who trains).
    `needs` are the fields of the teacher's output or the batch that it reads: logits, features, embedding,
    labels, indices. `spatial` methods need maps of more than one pixel, so a CNN on both sides.
    `zero_when_equal`: the loss is 0 where student and teacher agree; `learned`: it brings parameters, which
    are trained with the student and dropped after (their random start makes such a loss non-zero at equality,
    the bare distance behind it is 0). A response method's options make alpha = 1 the total of its paper;
    `label_weight` is the weight of the label cross-entropy there, None for kd's 1 - alpha.
    """

    build: str
    slot: SlotName
    needs: frozenset[str]
    doc: str
    options: Mapping[str, Option] = field(default_factory=dict)
    spatial: bool = False
    zero_when_equal: bool = True
    learned: bool = False
    label_weight: float | None = None


def _weight(default: float, source: str) -> Option:
    """The published weights span 0.02 to 30000; the upper bound only catches a slipped exponent."""
    doc = f"weight of the term in the total loss; {default:g}: {source}"
    return Option("float", default, doc, low=0.0, high=1e6)


def _layer_map(default: str, why: str) -> Option:
    doc = f"stage1>stage2,... (student first) or last, uniform, skip, all: the stages to compare; {why}"
    return Option("str", default, doc)


def _part_weight(default: float, part: str, source: str = "in the paper") -> Option:
    return Option("float", default, f"weight of the {part}; {default:g} {source}", low=0.0, high=1e4)


def _head_width(source: str) -> Option:
    return Option("int", 128, f"width both embeddings are projected to; 128 in {source}", low=1, high=4096)


# Sorted by key.
METHODS: dict[str, Method] = {
    "at": Method(
        build="kdsearch.losses.at:build",
        slot="feature",
        needs=frozenset({"features"}),
        spatial=True,
        options={
            "weight": _weight(1000.0, "RepDistiller on CIFAR-100"),
            "layer_map": _layer_map("all", "the source compares every stage"),
            "p": Option("int", 2, "power of the activations before the mean over channels", low=1, high=4),
        },
        doc="Attention transfer: where the network looks. "
        "Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928",
    ),
    "cc": Method(
        build="kdsearch.losses.cc:build",
        slot="relation",
        needs=frozenset({"embedding"}),
        zero_when_equal=False,
        learned=True,
        options={
            "weight": _weight(0.02, "RepDistiller on CIFAR-100"),
            "width": _head_width("RepDistiller"),
        },
        doc="Correlation congruence: how neighbours in a batch deviate from the teacher together. "
        "Peng et al., ICCV 2019, arXiv 1904.01802",
    ),
    "dist": Method(
        build="kdsearch.losses.dist:build",
        slot="response",
        needs=frozenset({"logits"}),
        options={
            "inter_weight": _part_weight(2.0, "correlation across classes (the paper's beta)"),
            "intra_weight": _part_weight(2.0, "correlation across samples (the paper's gamma)"),
        },
        label_weight=1.0,
        doc="Correlation with the teacher's probabilities across classes and across samples; temperature 1 "
        "on ImageNet, 4 on CIFAR-100. Huang et al., NeurIPS 2022, arXiv 2205.10536",
    ),
    "dkd": Method(
        build="kdsearch.losses.dkd:build",
        slot="response",
        needs=frozenset({"logits", "labels"}),
        options={
            "tckd_weight": _part_weight(1.0, "label's share of the probability (the paper's alpha)"),
            "nckd_weight": _part_weight(
                8.0,
                "spread over the other classes (the paper's beta)",
                "in the source, 2 or 6 for some pairs",
            ),
            "warmup": Option(
                "float",
                20 / 240,
                "share of the epochs in which the term grows linearly to its weight; 20 of 240 in the source",
                low=0.0,
                high=1.0,
            ),
        },
        label_weight=1.0,
        doc="kd with the label's probability and the spread over the other classes weighed apart; "
        "temperature 4. Zhao et al., CVPR 2022, arXiv 2203.08679",
    ),
    "fitnet": Method(
        build="kdsearch.losses.fitnet:build",
        slot="feature",
        needs=frozenset({"features"}),
        zero_when_equal=False,
        learned=True,
        options={
            "weight": _weight(100.0, "RepDistiller on CIFAR-100"),
            "layer_map": _layer_map(
                "stage2>stage2", "the source's hint is the second stage; a one-stage network takes last"
            ),
        },
        doc="Hints: a learned projection of the student's map meets the teacher's. "
        "Romero et al., ICLR 2015, arXiv 1412.6550",
    ),
    "infonce": Method(
        build="kdsearch.losses.infonce:build",
        slot="contrastive",
        needs=frozenset({"embedding"}),
        zero_when_equal=False,
        learned=True,
        options={
            "weight": _weight(1.0, "unpublished, a start"),
            "width": _head_width("CRD"),
            "tau": Option("float", 0.07, "temperature of the similarities; 0.07 in CRD", low=0.01, high=10.0),
        },
        doc="An image's embeddings in both networks find each other among the batch. "
        "van den Oord et al., 2018, arXiv 1807.03748; symmetric as in CLIP, arXiv 2103.00020",
    ),
    "kd": Method(
        build="kdsearch.losses.kd:build",
        slot="response",
        needs=frozenset({"logits"}),
        doc="The teacher's softened class probabilities. Hinton, Vinyals and Dean, 2014, arXiv 1503.02531",
    ),
    "logit_std": Method(
        build="kdsearch.losses.logit_std:build",
        slot="response",
        needs=frozenset({"logits"}),
        options={"scale": _part_weight(9.0, "term at alpha = 1")},
        label_weight=0.1,
        doc="kd on standardised logits: their shape counts, not their size; temperature 2. "
        "Sun et al., CVPR 2024, arXiv 2403.01427",
    ),
    "nst": Method(
        build="kdsearch.losses.nst:build",
        slot="feature",
        needs=frozenset({"features"}),
        spatial=True,
        options={
            "weight": _weight(50.0, "RepDistiller on CIFAR-100"),
            "layer_map": _layer_map("all", "the source compares every stage"),
        },
        doc="Which patterns the channels respond to, whatever their order. "
        "Huang and Wang, 2017, arXiv 1707.01219",
    ),
    "pkt": Method(
        build="kdsearch.losses.pkt:build",
        slot="relation",
        needs=frozenset({"embedding"}),
        options={"weight": _weight(30000.0, "RepDistiller on CIFAR-100")},
        doc="Who is near whom in a batch, as probabilities. Passalis and Tefas, ECCV 2018, arXiv 1803.10837",
    ),
    "rkd": Method(
        build="kdsearch.losses.rkd:build",
        slot="relation",
        needs=frozenset({"embedding"}),
        options={
            "weight": _weight(1.0, "RepDistiller on CIFAR-100"),
            "distance_weight": _part_weight(25.0, "distances"),
            "angle_weight": _part_weight(50.0, "angles"),
        },
        doc="Distances and angles between the embeddings of a batch. "
        "Park, Kim, Lu and Cho, CVPR 2019, arXiv 1904.05068",
    ),
    "sp": Method(
        build="kdsearch.losses.sp:build",
        slot="relation",
        needs=frozenset({"features"}),
        options={
            "weight": _weight(3000.0, "RepDistiller on CIFAR-100"),
            "layer_map": _layer_map("last", "the source compares the last maps"),
        },
        doc="Which images of a batch activate alike. Tung and Mori, ICCV 2019, arXiv 1907.09682",
    ),
    "vid": Method(
        build="kdsearch.losses.vid:build",
        slot="feature",
        needs=frozenset({"features"}),
        zero_when_equal=False,
        learned=True,
        options={
            "weight": _weight(1.0, "RepDistiller on CIFAR-100"),
            "layer_map": _layer_map("all", "the source compares every stage"),
            "initial_variance": Option(
                "float",
                5.0,
                "variance of every channel at the start, learned from there",
                low=0.01,
                high=100.0,
            ),
        },
        doc="The student's map predicts the teacher's, with a learned variance for each channel. "
        "Ahn et al., CVPR 2019, arXiv 1904.05835",
    ),
    "wsl": Method(
        build="kdsearch.losses.wsl:build",
        slot="response",
        needs=frozenset({"logits", "labels"}),
        zero_when_equal=False,
        options={
            "scale": _part_weight(2.25, "term at alpha = 1", "on CIFAR-100 and 2.5 on ImageNet in the paper")
        },
        label_weight=1.0,
        doc="kd weighed by how much better than the student the teacher fits the label; "
        "temperature 4 on CIFAR-100. Zhou et al., ICLR 2021, arXiv 2102.00650",
    ),
}
