"""Relation methods: how the images of a batch relate to each other.

Goes in: nothing. Comes out: the entries of METHODS for the slot `relation`, without torch.
"""

from __future__ import annotations

from kdsearch.losses.method import Method, embedding_map, head_width, layer_map, part_weight, weight

# Sorted by key.
RELATION: dict[str, Method] = {
    "cc": Method(
        build="kdsearch.losses.cc:build",
        slot="relation",
        needs=frozenset({"embedding"}),
        zero_when_equal=False,
        learned=True,
        options={
            "weight": weight(0.02, "RepDistiller on CIFAR-100"),
            "width": head_width("RepDistiller"),
        },
        doc="Correlation congruence: how neighbours in a batch deviate from the teacher together. "
        "Peng et al., ICCV 2019, arXiv 1904.01802",
    ),
    "gram": Method(
        build="kdsearch.losses.gram:build",
        slot="relation",
        needs=frozenset({"embedding", "features"}),
        summarises=True,
        options={"weight": weight(10.0, "unpublished, a start"), "layer_map": embedding_map()},
        doc="Gram matrices of a batch's embeddings: the cosine of every two images. The kernel form of Peng "
        "et al., ICCV 2019, arXiv 1904.01802, with the inner product of unit vectors as its kernel",
    ),
    "pkt": Method(
        build="kdsearch.losses.pkt:build",
        slot="relation",
        needs=frozenset({"embedding"}),
        options={"weight": weight(30000.0, "RepDistiller on CIFAR-100")},
        doc="Who is near whom in a batch, as probabilities. Passalis and Tefas, ECCV 2018, arXiv 1803.10837",
    ),
    "rkd": Method(
        build="kdsearch.losses.rkd:build",
        slot="relation",
        needs=frozenset({"embedding", "features"}),
        summarises=True,
        options={
            "weight": weight(1.0, "RepDistiller on CIFAR-100"),
            "layer_map": embedding_map(),
            "distance_weight": part_weight(25.0, "distances"),
            "angle_weight": part_weight(50.0, "angles"),
        },
        doc="Distances and angles between the embeddings of a batch. "
        "Park, Kim, Lu and Cho, CVPR 2019, arXiv 1904.05068",
    ),
    "sp": Method(
        build="kdsearch.losses.sp:build",
        slot="relation",
        needs=frozenset({"features"}),
        options={
            "weight": weight(3000.0, "RepDistiller on CIFAR-100"),
            "layer_map": layer_map("last", "the source compares the last maps"),
        },
        doc="Which images of a batch activate alike. Tung and Mori, ICCV 2019, arXiv 1907.09682",
    ),
}
