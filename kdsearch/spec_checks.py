"""What only several keys of a spec together can tell.

Goes in: the values that `spec_read` read by `spec_schema.SPEC`, INVALID among them. Comes out: more
`Problems`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from kdsearch import layer_map, spec_search, spec_teacher
from kdsearch.losses import METHODS, SLOTS
from kdsearch.models import family
from kdsearch.schedules import applies
from kdsearch.spec_dimensions import option_sets, reachable
from kdsearch.spec_read import INVALID, Float, Int
from kdsearch.spec_teacher import Found, recipe
from kdsearch.spec_yaml import Keys, Problems

Values = Mapping[str, Any]

# Above any network's number of stages: stands for a teacher whose checkpoint was not opened yet.
UNKNOWN_STAGES = 999


def check(values: Values, problems: Problems) -> None:
    """Add every problem that the values make together. Each check needs some keys to be sound."""
    for keys, add_problems in CHECKS:
        if all(_is_sound(_value(values, key)) for key in keys):
            add_problems(values, problems)


def check_layer_maps(values: Values, num_teacher_stages: Iterable[int], problems: Problems) -> None:
    """Every map that can be reached must fit every student that can be reached, and every teacher."""
    counts = sorted(set(num_teacher_stages))
    stages = {
        (name, len(family(name).stages(options)))
        for name, dimensions in _entries(values, "student")
        if _is_sound(dimensions)
        for options in option_sets(dimensions)
    }
    for slot in SLOTS:
        for method, options in _entries(values, f"distill.{slot}"):
            texts = reachable(options["layer_map"]) if "layer_map" in options else []
            for text in (text for text in texts if not _is_embedding(text, method)):
                wrong = _first_misfit(text, method, sorted(stages), counts)
                if wrong:
                    problems.add(("distill", slot, method, "layer_map"), wrong, value=text)


def _is_embedding(text: Any, method: str) -> bool:
    """Whether this says embedding, to a method that can compare those instead of stages."""
    return bool(text == layer_map.EMBEDDING == METHODS[method].options["layer_map"].default)


def _first_misfit(
    text: Any, method: str, stages: Iterable[tuple[str, int]], num_teacher_stages: Iterable[int]
) -> str:
    if text in (INVALID, layer_map.SEARCHED):
        return ""
    embedding = [layer_map.EMBEDDING] if _is_embedding(layer_map.EMBEDDING, method) else []
    words = [layer_map.SEARCHED, *embedding]
    for (name, count), num_teacher in itertools.product(stages, num_teacher_stages):
        try:
            layer_map.parse(text, count, num_teacher, words)
        except ValueError as error:
            return f"{error} (student {name})"
    return ""


def _check_name(values: Values, problems: Problems) -> None:
    name = values["name"]
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", name):
        nearest = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:100]
        allowed = "a folder's name: up to 100 letters, digits and . _ -, the first not a dot"
        problems.add(("name",), allowed, nearest)


def _check_validation(values: Values, problems: Problems) -> None:
    validation = values["data"]["validation"]
    if validation is not None and (validation == 0 or (validation > 1 and validation % 1)):
        allowed = "a count of at least 1, or a fraction between 0 and 1"
        problems.add(("data", "validation"), allowed, round(validation) or "")


def _check_unlabelled(values: Values, problems: Problems) -> None:
    data, path = values["data"], ("data", "unlabelled")
    given = data["unlabelled"]
    if given["dataset"] is None and given["folder"] is None:
        if given["root"] is not None or (given["share"], given["ratio"]) != (1.0, 1.0):
            problems.add(path, "give a dataset (rest: the images that subset leaves out) or a folder")
        return
    if given["dataset"] is not None and given["folder"] is not None:
        problems.add(path, "give either a dataset or a folder")
    if given["dataset"] == "rest" and data["subset"] is None:
        problems.add(path, "rest is what subset leaves out: give data.subset")
    if given["dataset"] == data["dataset"]:  # whatever its root: that may be written in several ways
        problems.add(path, "these images have labels here; the ones that subset leaves out are rest", "rest")
    if data["dataset"] == "image_folder" and given["folder"] and _overlaps(given["folder"], data["root"]):
        allowed = "a folder without data.root's own train, validation (val) and test in it"
        problems.add((*path, "folder"), allowed)
    names = sorted({name for slot in SLOTS for name, _ in _entries(values, f"distill.{slot}")} - {"none"})
    if not any(METHODS[name].takes_unlabelled for name in names):
        why = f"{' and '.join(names)} cannot learn without labels" if names else "here there is none"
        problems.add(path, f"needs a method in distill that learns from the teacher alone, as kd does: {why}")


def _overlaps(folder: str, root: str) -> bool:
    """Whether a folder of images without labels holds some of an image folder's own, or lies among them."""
    asked, whole = (Path(path).expanduser().resolve() for path in (folder, root))
    own = [whole / part for part in ("train", "validation", "val", "test")]
    return any(asked.is_relative_to(part) or part.is_relative_to(asked) for part in own)


def _check_teacher_recipe(values: Values, problems: Problems) -> None:
    for found in _teachers(values):
        path, given, checkpoint = (
            (*found.path, "train"),
            found.options["train"],
            found.options.get("checkpoint"),
        )
        if given is not INVALID and checkpoint is None:
            _check_recipe(recipe(given, values["train"]), path, problems)
        elif given is not INVALID and any(value is not None for value in given.values()):
            problems.add(path, "give either train or checkpoint")


def _check_families(values: Values, problems: Problems) -> None:
    """The families' own word on every set of options that can be reached; it begins with the option."""
    named = [(found.path, found.family, found.options) for found in _teachers(values)]
    named += [(("student", name), name, options) for name, options in _entries(values, "student")]
    for path, name, options in named:
        kind = family(name)
        dimensions = {key: options[key] for key in kind.options if _is_sound(options[key])}
        for concrete in option_sets(dimensions):
            wrong = kind.check(concrete)
            if not wrong:
                continue
            about = wrong.split()[0]
            at = (*path, about) if about in concrete else path
            problems.add(at, wrong, value=concrete.get(about))
            if isinstance(dimensions.get(about), Int | Float):
                break  # the other values of a range are no news


def _check_token(values: Values, problems: Problems) -> None:
    """A distillation token that no loss trains would still be half of the answer."""
    named: list[tuple[Keys, Values]] = [(found.path, found.options) for found in _teachers(values)]
    named += [(("student", name), options) for name, options in _entries(values, "student")]
    for path, options in named:
        if options.get("token") is True and options.get("checkpoint") is None:
            allowed = "leave it out: the response method deit adds the token to its students"
            problems.add((*path, "token"), allowed, value=True)


def _check_train(values: Values, problems: Problems) -> None:
    _check_recipe(values["train"], ("train",), problems)


def _check_recipe(train: Values, path: Keys, problems: Problems) -> None:
    epochs, milestones = train["epochs"], train["milestones"]
    if not _is_sound({name: train[name] for name in ("epochs", "warmup_epochs", "schedule", "milestones")}):
        return
    if max(reachable(train["warmup_epochs"])) >= epochs:
        problems.add((*path, "warmup_epochs"), f"must be below epochs, {epochs}", epochs - 1)
    steps = "step" in reachable(train["schedule"])
    if steps and not milestones:
        problems.add((*path, "milestones"), "schedule: step needs them, as in [150, 180, 210]")
    if milestones and not steps:
        problems.add((*path, "milestones"), "only schedule: step has milestones")
    whole = all(type(epoch) is int and 0 < epoch < epochs for epoch in milestones)
    if not whole or list(milestones) != sorted(set(milestones)):
        allowed = f"whole numbers from 1 to {epochs - 1}, increasing"
        problems.add((*path, "milestones"), allowed, value=list(milestones))


def _check_label_weight(values: Values, problems: Problems) -> None:
    """`1 - alpha` is the labels' weight with most response methods, and a weight is not negative."""
    distill = values["distill"]
    allowed = _subtracting(distill)
    for name in _subtracting_names(distill) if allowed else ():
        own = distill["response"][name]["alpha"]
        path = ("distill", "alpha") if own is None else ("distill", "response", name, "alpha")
        alpha = distill["alpha"] if own is None else own
        if alpha is not None and max(reachable(alpha)) > 1:
            problems.add(path, allowed)
            return


def _check_schedule(values: Values, problems: Problems) -> None:
    """What a schedule moves must be there in some trial, and a label weight of 1 - alpha stays above 0."""
    distill = values["distill"]
    filled = [slot for slot in SLOTS if set(distill[slot]) - {"none"}]
    subtracting = _subtracting(distill)
    for name, options in distill["schedule"].items():
        path = ("distill", "schedule", name)
        if name == "constant":
            continue
        given = {option: value for option, value in options.items() if value is not None}
        misfits = [option for option in given if not applies(option, filled)]
        if not given and problems.clean(".".join(path)):
            problems.add(path, f"moves nothing: give one or more of {', '.join(options)}")
        for option in misfits[:1] if misfits == list(given) else misfits:
            where = path if misfits == list(given) else (*path, option)
            problems.add(where, f"needs {_mover(option)} in distill, here there is none")
        for option in {"alpha_from", "alpha_to"} & given.keys():
            if subtracting and max(reachable(given[option])) > 1:
                problems.add((*path, option), subtracting)


def _mover(option: str) -> str:
    """What a schedule's option moves, in the words of the spec."""
    if option.startswith(("alpha", "temperature")):
        return "a response"
    return "a term beside the response" if option.startswith("weights") else "a method"


def _check_curriculum(values: Values, problems: Problems) -> None:
    distill = values["distill"]
    names = {name for slot in SLOTS for name in distill[slot]} - {"none"}
    if set(distill["curriculum"]) - {"none"} and not names:
        allowed = "goes by the teacher's confidence and needs a method in distill, here there is none"
        problems.add(("distill", "curriculum"), allowed, "none")


def _subtracting(distill: Values) -> str:
    """What is allowed for alpha where a response method weighs the labels by 1 - alpha, else ''."""
    names = _subtracting_names(distill)
    if not names or distill["label_weight"] is not None:
        return ""
    return f"at most 1, or give label_weight: {names[0]} weighs the labels by 1 - alpha"


def _subtracting_names(distill: Values) -> list[str]:
    return [name for name in distill["response"] if name != "none" and METHODS[name].label_weight is None]


def roles(values: Values) -> list[tuple[str, str]]:
    """Every family that methods meet, as student or teacher: ("student", "resnet")."""
    found = [("student", name) for name, _ in _entries(values, "student")]
    found += [("teacher", one.family) for one in _teachers(values) if one.leads]
    return list(dict.fromkeys(found))


def _check_online(values: Values, problems: Problems) -> None:
    """Peers of other widths: every student must have a width, and no peer's may leave its bounds."""
    for method, options in _entries(values, "distill.online"):
        if method == "none" or not _is_sound(options):
            continue
        path = ("distill", "online", method, "peer_width")
        ratios, most = reachable(options["peer_width"]), max(reachable(options["peers"]))
        factors = [ratio ** (most - 1) for ratio in ratios]
        for name, dimensions in _entries(values, "student"):
            width = family(name).options.get("width")
            if width is None and set(ratios) != {1.0}:
                problems.add(
                    path, f"1: student {name} has no width, so that its peers can only be equal to it", 1
                )
            if width is None or not _is_sound(dimensions):
                continue
            found = [w * factor for w in reachable(dimensions["width"]) for factor in factors]
            low, high = width.low or 0.0, math.inf if width.high is None else width.high
            beyond = [w for w in found if not low <= w <= high]
            if beyond:
                allowed = (
                    f"student {name} has widths from {low:g} to {high:g}, and a peer would have {beyond[0]:g}"
                )
                problems.add(path, allowed)


def _check_maps(values: Values, problems: Problems) -> None:
    leading = [found for found in _teachers(values) if found.leads and _is_sound(found.options)]
    counts = [len(family(found.family).stages(found.options)) for found in leading]
    check_layer_maps(values, counts or [UNKNOWN_STAGES], problems)


def _check_resources(values: Values, problems: Problems) -> None:
    if values["resources"]["cpus_per_trial"] == 0 and values["resources"]["gpus_per_trial"] == 0:
        problems.add(("resources", "cpus_per_trial"), "above 0, or give gpus_per_trial", 1)


CHECKS: tuple[tuple[tuple[str, ...], Callable[[Values, Problems], None]], ...] = (
    (("name",), _check_name),
    (("data.validation",), _check_validation),
    (("data",), _check_unlabelled),
    ((), spec_teacher.check),
    (("train.epochs",), _check_teacher_recipe),
    ((), _check_families),
    ((), _check_token),
    (("train.epochs",), _check_train),
    (("search.objectives",), spec_search.check_objectives),
    (("search.early_stopping", "train.epochs"), spec_search.check_early_stopping),
    (("search.trials", "search.sampler", "search.seeds", "confirm.seeds"), spec_search.check_sampler),
    (("distill.alpha", "distill.label_weight", "distill.response"), _check_label_weight),
    (("distill",), _check_schedule),
    (("distill",), _check_curriculum),
    ((), _check_online),
    ((), _check_maps),
    (("resources",), _check_resources),
)


def _value(values: Any, key: str) -> Any:
    for step in key.split("."):
        values = values[step] if isinstance(values, Mapping) else INVALID
    return values


def _is_sound(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_sound, value.values()))
    return value is not INVALID


def _teachers(values: Values) -> list[Found]:
    section = values["teacher"]
    return list(spec_teacher.found_networks(section)) if isinstance(section, Mapping) else []


def _entries(values: Values, key: str) -> list[tuple[str, Values]]:
    """The names that are given in a slot, with their settings."""
    slot = _value(values, key)
    named = slot.items() if isinstance(slot, Mapping) else ()
    return [(name, entry) for name, entry in named if isinstance(entry, Mapping)]
