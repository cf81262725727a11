"""docs/methods.md: every method in a table, for someone who has to choose.

Goes in: METHODS and ONLINE, and advice on each; SCHEDULES and CURRICULA; what benchmarks/method_cost.py
measured, where it has. Comes out: a page of Markdown.
`python -m kdsearch.guide > docs/methods.md` writes it.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdsearch.curriculum import CURRICULA
from kdsearch.losses import METHODS, SLOTS, Method
from kdsearch.online import ONLINE
from kdsearch.options import Option
from kdsearch.schedules import SCHEDULES
from kdsearch.schema_distill import RESPONSE_NUMBERS


class Advice(NamedTuple):
    """When to choose a method, and what a step costs beside a pass of the student and one of the teacher."""

    when: str
    cost: str = "-"


# Sorted by key.
ADVICE: dict[str, Advice] = {
    "ab": Advice(
        "the student starts from scratch and the schedule has room for a stage before it", "convs as fitnet's"
    ),
    "at": Advice("the first feature method to try between CNNs: nothing to train, any width"),
    "byot": Advice("no teacher, and the student has several stages", "no teacher; a branch for each stage"),
    "cc": Advice("beside kd, where batches are large", "two linear layers"),
    "crd": Advice(
        "training time is cheap; in the paper ahead of all that came before it",
        "two memories of N x width, sampling of the negatives",
    ),
    "cs_kd": Advice("no teacher, classes that look alike", "no teacher; a second pass of the student"),
    "ctkd": Advice("kd without a temperature to search", "a learned number"),
    "deit": Advice(
        "the student is a `vit`; in the paper a CNN is its better teacher",
        "a token, which stays in the student",
    ),
    "dist": Advice("the teacher is much stronger: their order counts, not the probabilities themselves"),
    "dkd": Advice("the teacher is sure of nearly every label, so that kd has little to say on the others"),
    "dml": Advice("no teacher worth having, or several students wanted at once", "a pass of every peer"),
    "fitnet": Advice(
        "between any two families, flat ones too: the regressor takes care of the shapes", "a conv a pair"
    ),
    "fsp": Advice("networks with stages of the same sizes", "products of maps; a stage of epochs alone"),
    "ft": Advice("the teacher's maps are wide and redundant", "two translators, one trained beforehand"),
    "gram": Advice("as sp, on the embedding of any stage"),
    "infonce": Advice("crd in small: no memory, only the batch", "two linear layers"),
    "kd": Advice("always, and first: everything else has to beat it"),
    "logit_std": Advice("the student is too small for logits of the teacher's size"),
    "logit_std_dkd": Advice("dkd, for the reason that speaks for logit_std"),
    "minilm": Advice("both are `vit`, whatever their heads", "products of queries, keys and values"),
    "mlkd": Advice("kd no longer helps and there is time", "a second view through both networks"),
    "nst": Advice("at, where it matters which channels respond together", "products of channels"),
    "ofd": Advice("CNNs with a ReLU behind each stage", "a 1x1 conv a pair"),
    "pkt": Advice("widths far apart: embeddings are compared only among themselves"),
    "ps_kd": Advice(
        "no teacher, and enough epochs for yesterday's answer to be worth something",
        "no teacher; N x classes numbers",
    ),
    "pseudo_label": Advice("images without labels, or no temperature to search"),
    "reviewkd": Advice(
        "accuracy counts more than time; stages of CNNs with a ReLU behind each",
        "fusion modules at every stage",
    ),
    "rkd": Advice("the embedding is what will be used (retrieval), or widths are far apart"),
    "semckd": Advice("it is not clear which stages belong together", "attention over all pairs of stages"),
    "simkd": Advice("a somewhat larger student is fine", "a projector, which stays in the student"),
    "sp": Advice("the simplest relation method; between any two families"),
    "svd": Advice(
        "to compare with: an early method, and not a cheap one", "a decomposition of each map, slow"
    ),
    "tfkd": Advice("no teacher, no time: as cheap as label smoothing", "no teacher"),
    "tinybert": Advice("both are `vit`", "a linear layer"),
    "vid": Advice("widths differ and some channels cannot be predicted at all", "three 1x1 convs a pair"),
    "wsl": Advice("the teacher is unsure or wrong on a part of the training images"),
}

HEAD = """\
# Distillation methods

Written by `python -m kdsearch.guide` from the tables of methods; a test keeps it current.

**Where to begin.** `response: kd`, with `temperature` and `alpha` searched. Then one method beside it from
another slot: `feature: at` between CNNs, `feature: fitnet` between any two families, `relation: rkd` or `sp`
where the widths are far apart, `contrastive: crd` where training time is cheap. A slot takes one method or
none; what is in several slots adds up, and so does its cost. With several names in a slot, `none` among them,
the search chooses. No published order of the methods holds beyond its recipe, mostly CIFAR-100 at 240 epochs:
a sweep that gives all of them the same students, views and budget says more. Methods of the slot `self` need
no teacher; the spec names one all the same, to measure the students against.

The loss is `label_weight * cross-entropy + alpha * response + sum of weight * term`. In the table,

- *needs* is what the families must have: `maps` of more than one pixel (all but `mlp`), several stages, or a
  transformer's insides (`vit` alone), on both sides where there is a teacher;
- *trains* marks what learns beside the student, and is not in what is saved;
- *cost* is what a step takes beside a pass of the student and one of the teacher;
- *labels* is the label weight that a method brings along; `distill.label_weight` overrules it;
- *defaults* are the source's, for its recipe, and hold where the spec says nothing: the weights are the first
  thing to search. The temperature is 4 where the table has none.

| method | slot | what the student learns | when | needs | trains | cost | labels | defaults | source |
|---|---|---|---|---|---|---|---|---|---|
"""

TAIL = """
Beside the slots, `distill` has what moves over the epochs. `schedule`:

{schedules}

`curriculum`, which samples an epoch trains on:

{curricula}

`teacher_views: N` averages the teacher's probabilities over N views of each image, a pass of the teacher for
each; `temperature` and `alpha` belong to the slot `response`.
"""

COSTS = """
## What a step costs

Processor time of a training step over that of a step of kd beside it (median of {rounds} rounds, and their
range), the most memory that a step holds over kd's, and what a method keeps between steps beyond the student
and its optimizer. With the teacher live, in batches of {batch_size}, on networks so small that what a method
computes beside their passes weighs more than it would on larger ones. `ab` and `fsp` are measured while they
train alone, `ft` without what it trains beforehand. By `benchmarks/method_cost.py`, {date}, {cores} cores,
{cpu}, torch {torch}, while other work kept them busy (load {load}): kd over itself shows the noise.
{tables}"""

COST_TABLE = """
{pair}:

| a step of | time (range) | peak memory | kept, kB |
|---|---|---|---|
{rows}"""

# One line a method and measurement; the last one counts.
MEASURED = Path(__file__).parent.parent / "benchmarks" / "results" / "method_cost.jsonl"

SLOT_ORDER = {slot: position for position, slot in enumerate(SLOTS)}


def page() -> str:
    """The whole page; the methods in the order of the slots, then of their keys."""
    keys = sorted(METHODS, key=lambda key: (SLOT_ORDER[METHODS[key].slot], key))
    rows = [row(key, METHODS[key]) for key in keys]
    rows += [cells(key, "online", "-", "-", "1", kind.doc, kind.options) for key, kind in ONLINE.items()]
    schedules = listed({name: schedule.doc for name, schedule in SCHEDULES.items()})
    curricula = listed({name: curriculum.doc for name, curriculum in CURRICULA.items()})
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return HEAD + table + TAIL.format(schedules=schedules, curricula=curricula) + costs(measured(MEASURED))


def row(key: str, method: Method) -> list[str]:
    needs = ["maps"] if method.spatial else []
    needs += sorted(method.needs & {"attention", "qkv", "tokens"})
    needs += [f"{method.min_stages} stages"] if method.min_stages > 1 else []
    trains = "yes" if method.learned else "-"
    options = {**numbers(method), **method.options}
    return cells(key, method.slot, ", ".join(needs) or "-", trains, labels(method), method.doc, options)


def numbers(method: Method) -> dict[str, Option]:
    """What a response method has in place of distill.alpha and distill.temperature."""
    own = {"alpha": method.alpha} if method.slot == "response" else {}
    own |= {"temperature": method.temperature} if method.temperature != Method.temperature else {}
    return {name: dataclasses.replace(RESPONSE_NUMBERS[name], default=value) for name, value in own.items()}


def cells(
    key: str, slot: str, needs: str, trains: str, label: str, doc: str, options: Mapping[str, Option]
) -> list[str]:
    """The table's ten columns; the last sentence of a doc is its source."""
    what, _, source = doc.removesuffix(".").rpartition(". ")
    advice = ADVICE.get(key, Advice("-"))
    defaults = ", ".join(f"`{name}` {default(option)}" for name, option in options.items()) or "-"
    return [f"`{key}`", slot, what, advice.when, needs, trains, advice.cost, label, defaults, source]


def measured(file: Path) -> list[dict[str, Any]]:
    """The last measurement of every method; none where there is no such file."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    last = {(line["pair"], line["method"]): line for line in map(json.loads, lines)}
    return list(last.values())


def costs(lines: Sequence[Mapping[str, Any]]) -> str:
    """The section on cost: a table for each pair of networks, the cheapest method first; '' without lines."""
    if not lines:
        return ""
    tables = ""
    for pair in dict.fromkeys(line["pair"] for line in lines):
        own = [line for line in lines if line["pair"] == pair]
        (kd,) = (line for line in own if line["method"] == "kd")
        own.sort(key=lambda line: statistics.median(line["ratios"]))
        rows = "".join(cost_row(line, kd["peak_bytes"]) for line in own)
        tables += COST_TABLE.format(pair=pair, rows=rows)
    rounds = len(lines[-1]["ratios"])
    return COSTS.format(**{**lines[-1], "rounds": rounds, "tables": tables})


def cost_row(line: Mapping[str, Any], kd_peak_bytes: int) -> str:
    low, middle, high = min(line["ratios"]), statistics.median(line["ratios"]), max(line["ratios"])
    peak, kept = line["peak_bytes"] / kd_peak_bytes, line["kept_bytes"] / 1e3
    return f"| {line['method']} | {middle:.2f} ({low:.2f} to {high:.2f}) | {peak:.2f} | {kept:,.0f} |\n"


def listed(docs: Mapping[str, str]) -> str:
    return "\n".join(f"- `{name}`: {doc}" for name, doc in docs.items())


def labels(method: Method) -> str:
    """The label weight that a method brings along, in words."""
    if method.label_weight is not None:
        return f"{method.label_weight:g}"
    return "1 - alpha" if method.slot == "response" else "-"


def default(option: Option) -> str:
    if option.default is None:
        return "not set"
    return f"{option.default:.5g}" if isinstance(option.default, float) else str(option.default).lower()


if __name__ == "__main__":
    print(page(), end="")
