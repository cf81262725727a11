"""Response methods: what the networks answer.

Goes in: nothing. Comes out: the entries of METHODS for the slot `response`, without torch.
"""

from __future__ import annotations

from kdsearch.losses.method import Method, part_weight, warmup
from kdsearch.options import Option

DKD_OPTIONS = {
    "tckd_weight": part_weight(1.0, "label's share of the probability (the paper's alpha)"),
    "nckd_weight": part_weight(
        8.0,
        "spread over the other classes (the paper's beta)",
        "in the source, 2 or 6 for some pairs",
    ),
    "warmup": warmup(),
}

# Sorted by key.
RESPONSE: dict[str, Method] = {
    "ctkd": Method(
        build="kdsearch.losses.ctkd:build",
        slot="response",
        needs=frozenset({"logits"}),
        learned=True,
        options={
            "scale": part_weight(0.9, "term at alpha = 1"),
            "theta": Option(
                "float",
                1.0,
                "start of what is learned: the temperature is 1 + 20 sigmoid(theta), 15.6 at the source's 1",
                low=-10.0,
                high=10.0,
            ),
            "ramp": Option(
                "float",
                10 / 240,
                "share of the epochs until the temperature fully works against the student; 10 of 240 in the "
                "source",
                low=0.0,
                high=1.0,
            ),
        },
        label_weight=0.1,
        doc="kd at a temperature that is learned to make it harder; the trial's own temperature is not used. "
        "Li et al., AAAI 2023, arXiv 2211.16231",
    ),
    "deit": Method(
        build="kdsearch.losses.deit:build",
        slot="response",
        needs=frozenset({"logits"}),
        zero_when_equal=False,
        options={
            "hard": Option(
                "bool",
                True,
                "the teacher's most likely class as a label (the paper's choice, alpha 0.5); false: its "
                "softened probabilities (alpha 0.1, temperature 3)",
            )
        },
        deploys="kdsearch.losses.deployed:with_token",
        alpha=0.5,
        doc="A vit gets a distillation token that answers like the teacher, its class token learns from the "
        "labels, and both are averaged at inference; any other student learns both with its logits. "
        "Touvron et al., ICML 2021, arXiv 2012.12877",
    ),
    "dist": Method(
        build="kdsearch.losses.dist:build",
        slot="response",
        needs=frozenset({"logits"}),
        options={
            "inter_weight": part_weight(2.0, "correlation across classes (the paper's beta)"),
            "intra_weight": part_weight(2.0, "correlation across samples (the paper's gamma)"),
        },
        label_weight=1.0,
        doc="Correlation with the teacher's probabilities across classes and across samples; temperature 1 "
        "on ImageNet, 4 on CIFAR-100. Huang et al., NeurIPS 2022, arXiv 2205.10536",
    ),
    "dkd": Method(
        build="kdsearch.losses.dkd:build",
        slot="response",
        needs=frozenset({"logits", "labels"}),
        options=DKD_OPTIONS,
        label_weight=1.0,
        doc="kd with the label's probability and the spread over the other classes weighed apart; "
        "temperature 4. Zhao et al., CVPR 2022, arXiv 2203.08679",
    ),
    "kd": Method(
        build="kdsearch.losses.kd:build",
        slot="response",
        needs=frozenset({"logits"}),
        options={
            "student_temperature": Option(
                "float",
                None,
                "softens the student alone, `temperature` then the teacher alone; it follows no schedule; "
                "default: the same for both",
                low=0.01,
                high=1000.0,
            )
        },
        alpha=0.9,
        doc="The teacher's softened class probabilities. Hinton, Vinyals and Dean, 2014, arXiv 1503.02531",
    ),
    "logit_std": Method(
        build="kdsearch.losses.logit_std:build",
        slot="response",
        needs=frozenset({"logits"}),
        options={"scale": part_weight(9.0, "term at alpha = 1")},
        label_weight=0.1,
        temperature=2.0,
        doc="kd on standardised logits: their shape counts, not their size; temperature 2. "
        "Sun et al., CVPR 2024, arXiv 2403.01427",
    ),
    "logit_std_dkd": Method(
        build="kdsearch.losses.logit_std_dkd:build",
        slot="response",
        needs=frozenset({"logits", "labels"}),
        options={"scale": part_weight(9.0, "term at alpha = 1"), **DKD_OPTIONS},
        label_weight=1.0,
        temperature=2.0,
        doc="dkd on standardised logits, as logit_std is kd on them; temperature 2. "
        "Sun et al., CVPR 2024, arXiv 2403.01427",
    ),
    "mlkd": Method(
        build="kdsearch.losses.mlkd:build",
        slot="response",
        needs=frozenset({"logits", "indices"}),
        zero_when_equal=False,
        options={
            "scale": part_weight(0.9, "distillation at alpha = 1"),
            "label_scale": part_weight(0.1, "cross-entropy of the strong view at alpha = 1"),
            "masking": Option(
                "str",
                "source",
                "source: the masks as the authors' code runs, a factor for whole terms; elementwise: as the "
                "paper means it, unsure samples and rare classes of the plain view, all of the strong one",
                choices=("source", "elementwise"),
            ),
        },
        label_weight=0.1,
        doc="kd of samples, batches and classes on a plain and a strongly augmented view, at temperatures "
        "from half to one and a half times the trial's, the source's is 4. Jin, Wang and Lin, CVPR 2023 "
        "(no arXiv version); needs a second pass of both networks",
    ),
    "pseudo_label": Method(
        build="kdsearch.losses.pseudo_label:build",
        slot="response",
        needs=frozenset({"logits"}),
        zero_when_equal=False,
        alpha=0.5,
        doc="The teacher's most likely class as a label; no temperature. "
        "Touvron et al., ICML 2021, arXiv 2012.12877",
    ),
    "wsl": Method(
        build="kdsearch.losses.wsl:build",
        slot="response",
        needs=frozenset({"logits", "labels"}),
        zero_when_equal=False,
        options={
            "scale": part_weight(2.25, "term at alpha = 1", "on CIFAR-100 and 2.5 on ImageNet in the paper")
        },
        label_weight=1.0,
        doc="kd weighed by how much better than the student the teacher fits the label; "
        "temperature 4 on CIFAR-100. Zhou et al., ICLR 2021, arXiv 2102.00650",
    ),
}
