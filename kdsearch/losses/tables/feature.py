"""Feature methods: what the networks see on the way, stage by stage.

Goes in: nothing. Comes out: the entries of METHODS for the slot `feature`, without torch.
"""

from __future__ import annotations

from kdsearch.losses.method import Method, alone, layer_map, part_weight, warmup, weight
from kdsearch.options import Option

# Sorted by key.
FEATURE: dict[str, Method] = {
    "ab": Method(
        build="kdsearch.losses.ab:build",
        slot="feature",
        needs=frozenset({"before"}),
        zero_when_equal=False,
        learned=True,
        options={
            "weight": weight(1.0, "in the source, where the term is alone"),
            "layer_map": layer_map(
                "one_to_one",
                "the source compares every stage, the last weighing 1, each earlier one half of the next",
            ),
            "margin": Option(
                "float",
                1.0,
                "how far from 0 the student's side has to be; 1 in the source",
                low=0.0,
                high=100.0,
            ),
            "alone": alone(30 / 240, "30 of 240 in the source, and never with the labels"),
        },
        doc="Activation boundaries: the student's neurons switch on and off where the teacher's do. "
        "Heo, Lee, Yun and Choi, AAAI 2019, arXiv 1811.03233",
    ),
    "at": Method(
        build="kdsearch.losses.at:build",
        slot="feature",
        needs=frozenset({"features"}),
        spatial=True,
        summarises=True,
        options={
            "weight": weight(1000.0, "RepDistiller on CIFAR-100"),
            "layer_map": layer_map("all", "the source compares every stage"),
            "p": Option("int", 2, "power of the activations before the mean over channels", low=1, high=4),
        },
        doc="Attention transfer: where the network looks. "
        "Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928",
    ),
    "fitnet": Method(
        build="kdsearch.losses.fitnet:build",
        slot="feature",
        needs=frozenset({"features"}),
        zero_when_equal=False,
        learned=True,
        options={
            "weight": weight(100.0, "RepDistiller on CIFAR-100"),
            "layer_map": layer_map(
                "stage2>stage2", "the source's hint is the second stage; a one-stage network takes last"
            ),
        },
        doc="Hints: a learned projection of the student's map meets the teacher's. "
        "Romero et al., ICLR 2015, arXiv 1412.6550",
    ),
    "fsp": Method(
        build="kdsearch.losses.fsp:build",
        slot="feature",
        needs=frozenset({"features", "stem"}),
        spatial=True,
        learned=True,
        options={
            "weight": weight(1.0, "in the source, where the term is alone; 50 for use with the labels"),
            "layer_map": layer_map(
                "one_to_one",
                "the source goes through every stage, from the stem; unequal channels are projected",
            ),
            "alone": alone(30 / 240, "30 of 240 in the source, and never with the labels"),
        },
        doc="The flow of the solution: how the channels of one stage go with those of the next. "
        "Yim, Joo, Bae and Kim, CVPR 2017 (not on arXiv)",
    ),
    "ft": Method(
        build="kdsearch.losses.ft:build",
        slot="feature",
        needs=frozenset({"features"}),
        spatial=True,
        zero_when_equal=False,
        learned=True,
        options={
            "weight": weight(200.0, "RepDistiller on CIFAR-100"),
            "layer_map": layer_map("last", "the source compares the last maps"),
            "rate": Option(
                "float",
                0.5,
                "channels of a factor over those of the teacher's map; 0.5 in the source",
                low=0.05,
                high=2.0,
            ),
            "pretrain": Option(
                "float",
                30 / 240,
                "epochs that train the teacher's paraphraser beforehand, as a share of the student's; "
                "30 of 240 in the source",
                low=0.0,
                high=10.0,
            ),
            "pretrain_lr": Option(
                "float",
                0.001,
                "learning rate of the paraphraser, in Adam (the source: SGD at 0.01)",
                low=1e-6,
                high=1.0,
            ),
        },
        doc="Factor transfer: where learned factors of the last maps are active. "
        "Kim, Park and Kwak, NeurIPS 2018, arXiv 1802.04977",
    ),
    "minilm": Method(
        build="kdsearch.losses.minilm:build",
        slot="feature",
        needs=frozenset({"qkv"}),
        options={
            "weight": weight(1.0, "the paper's only loss"),
            "layer_map": layer_map(
                "last",
                "the student's last block learns, from one in the upper middle if the teacher is large",
            ),
            "relation_heads": Option(
                "int",
                8,
                "into how many heads both networks' queries, keys and values are cut, whatever their "
                "attention heads: the largest number up to this that divides both widths; 48 in the paper "
                "for widths of 384 and more",
                low=1,
                high=256,
            ),
        },
        doc="Transformers: how a block's queries, keys and values relate to each other. "
        "Wang et al., Findings of ACL 2021, arXiv 2012.15828",
    ),
    "nst": Method(
        build="kdsearch.losses.nst:build",
        slot="feature",
        needs=frozenset({"features"}),
        spatial=True,
        options={
            "weight": weight(50.0, "RepDistiller on CIFAR-100"),
            "layer_map": layer_map("all", "the source compares every stage"),
        },
        doc="Which patterns the channels respond to, whatever their order. "
        "Huang and Wang, 2017, arXiv 1707.01219",
    ),
    "ofd": Method(
        build="kdsearch.losses.ofd:build",
        slot="feature",
        needs=frozenset({"before"}),
        zero_when_equal=False,
        learned=True,
        options={
            "weight": weight(0.001, "mdistiller on CIFAR-100"),
            "layer_map": layer_map(
                "one_to_one",
                "the source compares every stage, the last weighing 1, each earlier one half of the next",
            ),
        },
        doc="Overhaul of feature distillation: in front of the ReLU, what it lets through and what it cuts. "
        "Heo, Kim, Yun, Park, Kwak and Choi, ICCV 2019, arXiv 1904.01866",
    ),
    "reviewkd": Method(
        build="kdsearch.losses.reviewkd:build",
        slot="feature",
        needs=frozenset({"before", "embedding", "features"}),
        zero_when_equal=False,
        learned=True,
        options={
            "weight": weight(5.0, "the source on most pairs of CIFAR-100; 0.6, 1 or 8 on others"),
            "layer_map": layer_map("all", "the source reviews every stage, and always the embedding"),
            "warmup": warmup(),
            "student_before": Option(
                "bool",
                False,
                "take the student's maps from before the last activation, as the teacher's; a switch of the "
                "source, off there",
            ),
        },
        doc="Knowledge review: every stage of the student, with what the deeper ones know, meets one of the "
        "teacher. Chen, Liu, Zhao and Jia, CVPR 2021, arXiv 2104.09044",
    ),
    "semckd": Method(
        build="kdsearch.losses.semckd:build",
        slot="feature",
        needs=frozenset({"features"}),
        zero_when_equal=False,
        learned=True,
        whole_batches=True,
        options={"weight": weight(400.0, "the authors' on CIFAR-100, with kd at weight 1")},
        doc="Every stage meets every one of the teacher, and attention learns which ones count, so there is "
        "no layer map to choose; tied to the batch size: a shorter batch is skipped. "
        "Chen et al., AAAI 2021, arXiv 2012.03236",
    ),
    "simkd": Method(
        build="kdsearch.losses.simkd:build",
        slot="feature",
        needs=frozenset({"features"}),
        zero_when_equal=False,
        options={"weight": weight(1.0, "the authors' on CIFAR-100, without labels")},
        deploys="kdsearch.models.reuse:reusing",
        label_weight=0.0,
        doc="The student's last map, through a projector, meets the one behind the teacher's classifier; "
        "projector and classifier stay in the student and count in its size. "
        "Chen et al., CVPR 2022, arXiv 2203.14001",
    ),
    "svd": Method(
        build="kdsearch.losses.svd:build",
        slot="feature",
        needs=frozenset({"features"}),
        spatial=True,
        learned=True,
        min_pairs=2,
        options={
            "weight": weight(1.0, "mdistiller on CIFAR-100"),
            "layer_map": layer_map(
                "one_to_one",
                "two pairs or more; the source compares every stage; unequal channels are projected",
            ),
            "components": Option(
                "int",
                1,
                "singular vectors of each map; 1 in the source, fewer where a map has fewer",
                low=1,
                high=64,
            ),
        },
        doc="Singular vectors: how the main directions of one stage go with those of the next. "
        "Lee, Kim and Song, ECCV 2018, arXiv 1807.06819",
    ),
    "tinybert": Method(
        build="kdsearch.losses.tinybert:build",
        slot="feature",
        needs=frozenset({"attention", "tokens"}),
        zero_when_equal=False,
        learned=True,
        options={
            "weight": weight(1.0, "the paper's"),
            "layer_map": layer_map("uniform", "the paper's student takes every k-th block of the teacher"),
            "attention_weight": part_weight(1.0, "attention scores; unequal heads: their means are compared"),
            "hidden_weight": part_weight(1.0, "hidden states, through one learned linear map"),
            "embedding": Option(
                "bool", True, "compare the hidden states that enter the first block, too, as the paper does"
            ),
        },
        doc="Transformers: attention scores before the softmax, and hidden states, block by block. "
        "Jiao et al., Findings of EMNLP 2020, arXiv 1909.10351",
    ),
    "vid": Method(
        build="kdsearch.losses.vid:build",
        slot="feature",
        needs=frozenset({"features"}),
        zero_when_equal=False,
        learned=True,
        options={
            "weight": weight(1.0, "RepDistiller on CIFAR-100"),
            "layer_map": layer_map("all", "the source compares every stage"),
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
}
