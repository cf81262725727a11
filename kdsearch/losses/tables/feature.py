"""Feature methods: what the networks see on the way, stage by stage.

Goes in: nothing. Comes out: the entries of METHODS for the slot `feature`, without torch.
"""

from __future__ import annotations

from kdsearch.losses.method import Method, layer_map, weight
from kdsearch.options import Option

# Sorted by key.
FEATURE: dict[str, Method] = {
    "at": Method(
        build="kdsearch.losses.at:build",
        slot="feature",
        needs=frozenset({"features"}),
        spatial=True,
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
