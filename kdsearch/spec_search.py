"""What the keys of `search:` tell only together, with one another and with the rest of a spec.

Goes in: what `spec_read` read by `spec_schema.SPEC`, the keys that a check needs sound. Comes out: more
`Problems`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdsearch.spec_read import INVALID, Distribution, Float
from kdsearch.spec_schema import COSTS, LISTING
from kdsearch.spec_yaml import Keys, Problems, nearest_name

Values = Mapping[str, Any]


def check_objectives(values: Values, problems: Problems) -> None:
    first, *costs = values["search"]["objectives"] or ("",)
    if first != "val_accuracy" or not costs or not set(costs) <= set(COSTS) or len(costs) != len(set(costs)):
        known = [nearest_name(str(cost), COSTS) for cost in costs]
        nearest = ["val_accuracy", *dict.fromkeys(filter(None, known or ["params"]))]
        allowed = f"val_accuracy first, then one or more of {', '.join(COSTS)}, each once"
        problems.add(("search", "objectives"), allowed, f"[{', '.join(nearest)}]" if nearest[1:] else "")


def check_early_stopping(values: Values, problems: Problems) -> None:
    early, epochs = values["search"]["early_stopping"], values["train"]["epochs"]
    is_default = early["scheduler"] is None and early["grace_epochs"] == 1  # has no rungs below two epochs
    if early["scheduler"] != "none" and not is_default and early["grace_epochs"] >= epochs:
        path = ("search", "early_stopping", "grace_epochs")
        problems.add(path, f"must be below train.epochs, {epochs}", epochs - 1 or "")


def check_sampler(values: Values, problems: Problems) -> None:
    """One that proposes needs a number of trials; one that lists, values to list and equal budgets."""
    search = values["search"]
    sampler = search["sampler"]
    if search["warm_start"] is not INVALID:
        _check_warm_start(search["warm_start"], sampler, problems)
    if sampler not in LISTING:
        if search["trials"] is None:
            allowed = f"missing: how many trials {sampler} proposes, a whole number"
            more = "; to end by another budget alone, one that is not reached, such as 100000"
            problems.add(("search", "trials"), allowed + more)
        if search["seeds"] > 1:
            allowed = (
                f"1 with sampler {sampler}, whose trials all differ: give sampler: grid or one_at_a_time"
            )
            problems.add(("search", "seeds"), allowed, 1)
        return
    early = search["early_stopping"]
    if early is not INVALID and early["scheduler"] not in (None, "none"):
        allowed = f"none with sampler {sampler}: it compares trials of equal budget"
        problems.add(("search", "early_stopping"), allowed, "none")
    if values["confirm"]["seeds"]:
        allowed = f"0 with sampler {sampler}, which repeats its own trials: give search.seeds"
        problems.add(("confirm", "seeds"), allowed, 0)
    for section in ("student", "distill", "train"):
        for path, dimension in _dimensions(values[section], (section,)):
            if isinstance(dimension, Float) and dimension.step is None and dimension.low < dimension.high:
                allowed = (
                    f"continuous, and sampler {sampler} lists every value: give it a step, or "
                    "{type: categorical, choices: [...]}"
                )
                problems.add(path, allowed)
    for path in _searched_weights(values["teacher"], ("teacher",)):
        allowed = f"equal with sampler {sampler}, which lists every value: these are continuous"
        problems.add(path, allowed, "equal")


def _searched_weights(values: Any, path: Keys) -> Iterator[Keys]:
    """Where an ensemble's weights are searched, anywhere in the `teacher` section."""
    for name, part in values.items() if isinstance(values, Mapping) else ():
        if name == "ensemble" and isinstance(part, Mapping) and part.get("weights") == "searched":
            yield (*path, name, "weights")
        yield from _searched_weights(part, (*path, name))


def _check_warm_start(folders: tuple[Any, ...], sampler: str, problems: Problems) -> None:
    path = ("search", "warm_start")
    if folders and sampler in LISTING:
        problems.add(
            path, f"goes with sampler ehvi or tpe; {sampler} lists what it runs", value=list(folders)
        )
    for position, folder in enumerate(folders):
        if not isinstance(folder, str) or not folder:
            problems.add((*path, position), "the folder of a sweep, as in reports/cifar100", value=folder)


def _dimensions(values: Any, path: Keys) -> Iterator[tuple[Keys, Any]]:
    """Every dimension below a section, with its path."""
    if isinstance(values, Mapping):
        for name, part in values.items():
            yield from _dimensions(part, (*path, name))
    elif isinstance(values, Distribution):
        yield path, values
