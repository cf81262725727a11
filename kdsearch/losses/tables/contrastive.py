"""Contrastive methods: an image finds itself in the other network.

Goes in: nothing. Comes out: the entries of METHODS for the slot `contrastive`, without torch.
"""

from __future__ import annotations

from kdsearch.losses.method import Method, head_width, weight
from kdsearch.options import Option

# Sorted by key.
CONTRASTIVE: dict[str, Method] = {
    "crd": Method(
        build="kdsearch.losses.crd:build",
        slot="contrastive",
        needs=frozenset({"embedding", "indices"}),
        zero_when_equal=False,
        learned=True,
        options={
            "weight": weight(0.8, "RepDistiller on CIFAR-100"),
            "width": head_width("the source"),
            "tau": Option(
                "float", 0.07, "temperature of the scores; 0.07 in the source", low=0.01, high=10.0
            ),
            "negatives": Option(
                "int",
                16384,
                "images of other classes to tell each one from, at most those there are; 16384 in the source",
                low=1,
                high=1_000_000,
            ),
            "mode": Option(
                "str",
                "exact",
                "what an image has to find: itself (exact) or any image of its class (relax)",
                choices=("exact", "relax"),
            ),
        },
        doc="An image finds itself among remembered images of other classes; two memories of all training "
        "images. Tian, Krishnan and Isola, ICLR 2020, arXiv 1910.10699",
    ),
    "infonce": Method(
        build="kdsearch.losses.infonce:build",
        slot="contrastive",
        needs=frozenset({"embedding"}),
        zero_when_equal=False,
        learned=True,
        options={
            "weight": weight(1.0, "unpublished, a start"),
            "width": head_width("CRD"),
            "tau": Option("float", 0.07, "temperature of the similarities; 0.07 in CRD", low=0.01, high=10.0),
        },
        doc="An image's embeddings in both networks find each other among the batch. "
        "van den Oord et al., 2018, arXiv 1807.03748; symmetric as in CLIP, arXiv 2103.00020",
    ),
}
