"""Self-distillation: a student that learns from itself, without a teacher.

Goes in: nothing. Comes out: the entries of METHODS for the slot `self`, without torch.
"""

from __future__ import annotations

from kdsearch.losses.method import Method, part_weight, weight
from kdsearch.options import Option


def _temperature(default: float, doc: str) -> Option:
    return Option("float", default, f"{doc}; {default:g} in the source", low=0.01, high=1000.0)


# Sorted by key.
SELF: dict[str, Method] = {
    "byot": Method(
        build="kdsearch.losses.byot:build",
        slot="self",
        needs=frozenset({"logits", "features", "embedding", "labels"}),
        zero_when_equal=False,
        learned=True,
        teacher=False,
        min_stages=2,
        options={
            "weight": weight(1.0, "the source has none"),
            "branch_label_weight": part_weight(0.7, "branches' label losses", "in the source"),
            "soft_weight": part_weight(0.3, "branches' losses against the last stage", "in the source"),
            "feature_weight": part_weight(
                0.03, "distances between the branches' features and the embedding", "in the source"
            ),
            "temperature": _temperature(3.0, "softens both sides of the soft losses"),
            "mask": Option("bool", True, "weigh a branch's map by a learned mask first; the source does"),
        },
        doc="Classifiers on the earlier stages learn from the last one, and are dropped after training. "
        "Zhang et al., ICCV 2019, arXiv 1905.08094",
    ),
    "cs_kd": Method(
        build="kdsearch.losses.cs_kd:build",
        slot="self",
        needs=frozenset({"logits", "labels", "indices"}),
        zero_when_equal=False,
        teacher=False,
        options={
            "weight": weight(1.0, "the source's lambda"),
            "temperature": _temperature(4.0, "softens both sides"),
        },
        doc="The answers to two images of a class should agree; one more forward pass a step. "
        "Yun et al., CVPR 2020, arXiv 2003.13964",
    ),
    "ps_kd": Method(
        build="kdsearch.losses.ps_kd:build",
        slot="self",
        needs=frozenset({"logits", "labels", "indices"}),
        zero_when_equal=False,
        teacher=False,
        label_weight=1.0,
        options={
            "weight": weight(1.0, "the source has none"),
            "alpha": Option(
                "float",
                0.8,
                "share of the label that the student's past answer takes in the last epoch, from 0 in a "
                "straight line; 0.8 in the source",
                low=0.0,
                high=1.0,
            ),
        },
        doc="The student's own answer of an epoch ago softens the label, more and more. "
        "Kim et al., ICCV 2021, arXiv 2006.12000",
    ),
    "tfkd": Method(
        build="kdsearch.losses.tfkd:build",
        slot="self",
        needs=frozenset({"logits", "labels"}),
        zero_when_equal=False,
        teacher=False,
        label_weight=1.0,
        options={
            "weight": Option(
                "float", 0.1, "share of the label loss that it takes (the paper's alpha)", low=0.0, high=1.0
            ),
            "label_probability": Option(
                "float",
                0.99,
                "what the virtual teacher gives the label; 0.99 in the source",
                low=0.0,
                high=1.0,
            ),
            "temperature": _temperature(20.0, "softens the virtual teacher alone"),
        },
        doc="A virtual teacher, right and nearly undecided, in place of part of the label loss. The paper's "
        "other form, taught by a trained twin, is kd with a teacher of the student's own shape, alpha "
        "0.475, label_weight 0.05, temperature 6 (ResNet-18, CIFAR-100). "
        "Yuan et al., CVPR 2020, arXiv 1909.11723",
    ),
}
