"""Contrastive methods: an image finds itself in the other network.

Goes in: nothing. Comes out: the entries of METHODS for the slot `contrastive`, without torch.
"""

from __future__ import annotations

from kdsearch.losses.method import Method, head_width, weight
from kdsearch.options import Option

# Sorted by key.
CONTRASTIVE: dict[str, Method] = {
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
