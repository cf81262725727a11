"""What the methods of a spec ask of the networks, of the data and of the labels' weight, without torch.

Goes in: the values that `spec_read` read by `spec_schema.SPEC`, INVALID among them, and the families that
student and teacher can be. Comes out: more `Problems`, with the valid choices.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from kdsearch import layer_map
from kdsearch.losses import METHODS, SLOTS
from kdsearch.models import FAMILIES, TRANSFORMER_DETAILS, Family, family
from kdsearch.records import Choice
from kdsearch.spec_checks import UNKNOWN_STAGES
from kdsearch.spec_dimensions import option_sets, reachable
from kdsearch.spec_read import INVALID
from kdsearch.spec_yaml import Problems

Values = Mapping[str, Any]
Roles = Sequence[tuple[str, str]]  # (student or teacher, family)

# Methods that put their target in the place of a part of the label: the settings whose product is that part.
LABEL_SHARES = {"ps_kd": ("weight", "alpha"), "tfkd": ("weight",)}


def check(values: Values, roles: Roles, problems: Problems) -> None:
    """Add every problem that a method makes with the rest of the spec."""
    check_networks(values, roles, problems)
    _check_stages(values, problems)
    _check_pairs(values, problems)
    _check_mixup(values, problems)
    _check_label_shares(values, problems)
    _check_teacher_views(values, problems)


def check_networks(values: Values, roles: Roles, problems: Problems) -> None:
    """Every family must publish what every method reads of it, and take what a method leaves in a student."""
    for slot, name, _ in _chosen(values):
        wrong = unmet(name, roles) or _undeployable(name, roles)
        if wrong:
            problems.add(("distill", slot, name), wrong)


def unmet(method: str, roles: Roles) -> str:
    """What the method reads that a family lacks, and which have it; '' where nothing is lacking."""
    entry = METHODS[method]
    read = [(role, name) for role, name in roles if entry.teacher or role == "student"]
    if entry.spatial:
        wrong = _lacking("maps of more than one pixel", read, lambda kind: kind.spatial)
        if wrong:
            return f"{method} compares {wrong}"
    details = entry.needs & TRANSFORMER_DETAILS
    wrong = _lacking(" and ".join(sorted(details)), read, lambda kind: details <= kind.details)
    return f"{method} reads {wrong}" if wrong else ""


def _lacking(what: str, roles: Roles, has: Callable[[Family], bool]) -> str:
    without = " and ".join(f"{role} {name}" for role, name in roles if not has(family(name)))
    if not without:
        return ""
    having = [name for name, kind in FAMILIES.items() if has(kind)]
    having += ["torchvision/<name>"] if has(family("torchvision/resnet18")) else []
    return f"{what}, not to be had from {without}; families with them: {', '.join(having)}"


def _undeployable(method: str, roles: Roles) -> str:
    """Why a method that saves more than the student cannot, with one of the students and teachers."""
    if not METHODS[method].deploys:
        return ""
    module, function = METHODS[method].deploys.split(":")
    deploy = getattr(import_module(module), function)
    students, teachers = ([name for one, name in roles if one == role] for role in ("student", "teacher"))
    # A teacher whose checkpoint was not opened yet is looked at when it is.
    for student, teacher in itertools.product(students, teachers or ["resnet"]):
        try:
            deploy(Choice(student), Choice(method), Choice(teacher))
        except ValueError as error:
            return str(error).removeprefix(f"{method}: ")
    return ""


def _check_stages(values: Values, problems: Problems) -> None:
    """A method may need several stages of every student that can be reached."""
    for slot, name, _ in _chosen(values):
        least = METHODS[name].min_stages
        for student, count in _fewest_stages(values):
            if count < least:
                allowed = f"{name} needs {least} stages or more, student {student} can have {count}"
                problems.add(("distill", slot, name), allowed)


def _check_pairs(values: Values, problems: Problems) -> None:
    """A method may need several pairs of stages, whichever of its layer maps meets whichever student."""
    for slot, name, options in _chosen(values):
        least, path = METHODS[name].min_pairs, ("distill", slot, name, "layer_map")
        if least == 1 or not _is_sound(options):
            continue
        for text in reachable(options["layer_map"]):
            for student, count in _fewest_stages(values):
                if _num_pairs(text, count) < least:
                    allowed = (
                        f"{name} needs a map of {least} pairs or more, for example all (student {student})"
                    )
                    problems.add(path, allowed, value=text)


def _fewest_stages(values: Values) -> Iterator[tuple[str, int]]:
    """Every student's family, and the fewest stages that it can have."""
    for student, dimensions in _mappings(values, "student"):
        if _is_sound(dimensions):
            yield student, min(len(family(student).stages(options)) for options in option_sets(dimensions))


def _num_pairs(text: str, num_student: int) -> int:
    """The fewest pairs of a layer map beside a teacher of many stages; a searched one may come to one."""
    if text == layer_map.SEARCHED:
        return 1
    try:
        return len(layer_map.parse(text, num_student, UNKNOWN_STAGES))
    except ValueError:  # a problem found elsewhere
        return UNKNOWN_STAGES


def _check_mixup(values: Values, problems: Problems) -> None:
    for slot, name, _ in _chosen(values):
        if name == "cs_kd" and "mixup" in _augmentations(values):
            allowed = (
                "cs_kd compares two images of one class, and mixup leaves none: take it out of data.augment"
            )
            problems.add(("distill", slot, name), allowed)


def _check_label_shares(values: Values, problems: Problems) -> None:
    """What takes a part of the label loss's place must not take more than there is, in any epoch."""
    for slot, name, options in _chosen(values):
        settings = [options[setting] for setting in LABEL_SHARES.get(name, ())]
        least = _least_label_weight(values, slot, name)
        if not settings or least is None or not _is_sound(settings):
            continue
        label, rival = least
        share = math.prod(max(reachable(value)) for value in settings)
        product = " * ".join(LABEL_SHARES[name])
        whose = "the weight of the labels"
        if rival:
            whose += f" beside {rival}: leave one of them out, or give distill.label_weight"
        if share > label:
            takes = f"{name} puts {product} of its own in the label's place, up to {share:g}"
            problems.add(("distill", slot, name), f"{takes}: at most {label:g}, {whose}")
            continue
        for schedule, factor in _growths(values, (slot, name)):
            if share * factor > label:
                takes = f"times this {name} puts {share * factor:g} of its own in the label's place"
                nearest = f"{math.floor(1000 * label / share) / 1000:g}"
                path = ("distill", "schedule", schedule, "weights_to")
                problems.add(path, f"{takes}: in all at most {label:g}, {whose}", nearest)


def _least_label_weight(values: Values, slot: str, name: str) -> tuple[float, str] | None:
    """The smallest weight of the labels in a trial of this method, and whose it is where another one says it.

    As `losses.terms.label_weight` has it. None where the spec's own is not sound.
    """
    given = _mapping(values, "distill").get("label_weight")
    if not _is_sound(given):
        return None
    if given is not None:
        return min(reachable(given)), ""
    own = METHODS[name].label_weight
    found = [(1.0 if own is None else own, "")]
    for other, rival, _ in _chosen(values):
        published = METHODS[rival].label_weight
        meets = other not in ("response", slot) and _meet(values, (slot, name), (other, rival))
        if published is not None and meets:
            found.append((published, rival))
    return min(found)


def _growths(values: Values, pick: tuple[str, str]) -> Iterator[tuple[str, float]]:
    """The schedules that a trial of this method may have, and the largest factor each puts on its weight."""
    for name, options in _mappings(_mapping(values, "distill"), "schedule"):
        factor = options.get("weights_to")
        if factor is not None and _is_sound(factor) and _meet(values, pick, ("schedule", name)):
            yield name, max(reachable(factor))


def _meet(values: Values, *picks: tuple[str, str]) -> bool:
    """Whether one trial can have these names of these slots: one_at_a_time keeps all but one at the first."""
    distill = _mapping(values, "distill")
    further = [name for slot, name in picks if name != next(iter(_mapping(distill, slot)), "")]
    return len(further) < 2 or _mapping(values, "search").get("sampler") != "one_at_a_time"


def _check_teacher_views(values: Values, problems: Problems) -> None:
    views, path = _mapping(values, "distill").get("teacher_views"), ("distill", "teacher_views")
    if not _is_sound(views) or max(reachable(views)) == 1:
        return
    if not any(METHODS[name].teacher for _, name, _ in _chosen(values)):
        problems.add(path, "needs a method in distill that has a teacher, here there is none", 1)
    if not _augmentations(values):
        problems.add(path, "every view is the same without data.augment", 1)
    if "mixup" in _augmentations(values):
        problems.add(path, "mixup shows another image in every view: take it out of data.augment", 1)


def _chosen(values: Values) -> Iterator[tuple[str, str, Values]]:
    """Slot, method and settings of everything that a trial can be given."""
    for slot in SLOTS:
        for name, options in _mappings(_mapping(values, "distill"), slot):
            if name != "none":
                yield slot, name, options


def _augmentations(values: Values) -> set[str]:
    augment = _mapping(values, "data").get("augment")
    return {name for name, _ in augment} if isinstance(augment, tuple) else set()


def _mapping(values: Values, key: str) -> Values:
    value = values.get(key)
    return value if isinstance(value, Mapping) else {}


def _mappings(values: Values, key: str) -> Iterable[tuple[str, Values]]:
    return [(name, entry) for name, entry in _mapping(values, key).items() if isinstance(entry, Mapping)]


def _is_sound(value: Any) -> bool:
    if isinstance(value, Mapping | list):
        return all(map(_is_sound, value.values() if isinstance(value, Mapping) else value))
    return value is not INVALID
