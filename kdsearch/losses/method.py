"""What an entry of METHODS is, and the options that many entries share, without torch.

Goes in: nothing. Comes out: `Method`, `SLOTS` and functions that make options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from kdsearch.layer_map import EMBEDDING
from kdsearch.options import Option

SlotName = Literal["response", "feature", "relation", "contrastive", "self"]
SLOTS: tuple[SlotName, ...] = get_args(SlotName)


@dataclass(frozen=True)
class Method:
    """One distillation loss.

    `build` names the function that makes the term ("module:function", imported by who trains).
    `needs` are the fields of the outputs or the batch that it reads: logits, features, embedding, labels,
    indices, and the details that are computed only where they are needed: attention, before, qkv, stem,
    tokens.
    `teacher`: it reads the teacher; a trial of methods that do not runs none. `spatial` methods need maps of
    more than one pixel, so a CNN on both sides. `zero_when_equal`: the loss is 0 where student and teacher
    agree; `learned`: it brings parameters, which are trained with the student and dropped after (their random
    start makes such a loss non-zero at equality, the bare distance behind it is 0).
    A response method's options make alpha = 1 the total of its paper, where that has weights of its own;
    `alpha` and `temperature` are the paper's, in force where a spec says nothing; `label_weight` is the
    weight of the label cross-entropy there, None for 1 - alpha; in another slot None for no word on it. An
    option `alone` is the share of the epochs in which the term trains by itself, before all else and then no
    more.
    `whole_batches`: it is tied to the usual number of images, so that of a batch which images without labels
    were joined to it sees the labelled part alone.
    `summarises`: of the teacher's features it reads a value for each place or channel of an image, made of
    this image alone (`TermContext.summary`): small enough to be kept.
    `min_stages` are the fewest stages that a student must have, `min_pairs` the fewest pairs of a layer map.
    `deploys` names a function (student, choice, teacher) -> student of `Choice`s, where what is saved is
    more than the student that the spec names.
    """

    build: str
    slot: SlotName
    needs: frozenset[str]
    doc: str
    options: Mapping[str, Option] = field(default_factory=dict)
    spatial: bool = False
    zero_when_equal: bool = True
    learned: bool = False
    teacher: bool = True
    summarises: bool = False
    whole_batches: bool = False
    deploys: str = ""
    label_weight: float | None = None
    alpha: float = 1.0
    temperature: float = 4.0
    min_stages: int = 1
    min_pairs: int = 1

    @property
    def takes_unlabelled(self) -> bool:
        """Whether it can learn from images without labels: from the teacher, and from nothing else."""
        return self.teacher and not self.whole_batches and not self.needs & {"labels", "indices"}


def weight(default: float, source: str) -> Option:
    """The published weights span 0.02 to 30000; the upper bound only catches a slipped exponent."""
    doc = f"weight of the term in the total loss; {default:g}: {source}"
    return Option("float", default, doc, low=0.0, high=1e6)


def layer_map(default: str, why: str) -> Option:
    names = "last, uniform, skip, one_to_one, all"
    doc = f"stage1>stage2,... (student first) or {names}: the stages to compare; {why}"
    return Option("str", default, doc)


def alone(default: float, source: str) -> Option:
    doc = f"share of the epochs in which only this term trains, before all else and then no more; {source}"
    return Option("float", default, doc, low=0.0, high=1.0)


def warmup() -> Option:
    """Of dkd and reviewkd, whose sources both take 20 of 240 epochs."""
    doc = "share of the epochs in which the term grows linearly to its weight; 20 of 240 in the source"
    return Option("float", 20 / 240, doc, low=0.0, high=1.0)


def embedding_map() -> Option:
    doc = (
        "embedding, which feeds the classifier, or a layer map (stage1>stage2,..., last, uniform, skip, "
        "one_to_one, all) of the stages whose maps are averaged to embeddings; the source compares the last "
        "embeddings"
    )
    return Option("str", EMBEDDING, doc)


def part_weight(default: float, part: str, source: str = "in the paper") -> Option:
    return Option("float", default, f"weight of the {part}; {default:g} {source}", low=0.0, high=1e4)


def head_width(source: str) -> Option:
    return Option("int", 128, f"width both embeddings are projected to; 128 in {source}", low=2, high=4096)
