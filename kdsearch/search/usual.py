"""The settings that papers use, as configurations to try beside what is proposed.

Goes in: a spec and the number of a search trial. Comes out: where one is due, the params of a configuration
with the methods' defaults, alpha and temperature among them.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kdsearch import space
from kdsearch.losses import METHODS, SLOTS
from kdsearch.records import Scalar, TrialConfig
from kdsearch.search.answers import Answers, MisfitError, Searched, lies_in
from kdsearch.spec import TRAIN_OPTIONS, Categorical, Float, Int, Stages, SweepSpec, grid_value

ORIGIN = "usual settings"
EVERY, MOST = 20, 4  # the 1st, 21st, 41st and 61st proposal: about one in twenty, and no more than four
NUM_DRAWN = 64  # students, of which the one of the size that is wanted is taken

Methods = Mapping[str, str]  # by slot

# distill's own settings that are no method's.
_DEFAULTS: Mapping[str, Any] = {
    "teacher_views": 1,
    "schedule": "constant",
    "curriculum": "none",
    "online": "none",
}


def is_due(number: int) -> bool:
    """Whether the `number`-th proposal, from 0, is a usual one."""
    return number % EVERY == 0 and number < EVERY * MOST


def params(
    spec: SweepSpec, num_teacher_stages: Stages, number: int, distance: Callable[[TrialConfig], float]
) -> dict[str, Scalar] | None:
    """The usual configuration of the `number`-th proposal, its student the nearest by `distance` of some.

    Each has other methods. None where the usual settings of no further ones lie inside the spec's ranges.
    """
    generator = random.Random(number)

    def drawn(methods: Methods) -> tuple[TrialConfig, dict[str, Scalar]]:
        asked = Answers(lambda name, dimension: _usual(name, dimension, methods, generator))
        return space.suggest(asked, spec, num_teacher_stages, seed=0), asked.params

    def fits(methods: Methods) -> bool:
        try:
            drawn(methods)
        except MisfitError:
            return False
        return True

    chosen = next(itertools.islice(filter(fits, _methods(spec)), number // EVERY, None), None)
    if chosen is None:
        return None
    return min((drawn(chosen) for _ in range(NUM_DRAWN)), key=lambda one: distance(one[0]))[1]


def _methods(spec: SweepSpec) -> Iterator[Methods]:
    """The plainest combination of methods, then each further method of a slot in its place."""
    names: dict[str, list[str]] = {slot: list(spec.distill.slots[slot]) for slot in SLOTS}
    plain = {
        slot: next((name for name in _plainest(slot) if name in found), found[0])
        for slot, found in names.items()
    }
    yield plain
    for slot, found in names.items():
        yield from ({**plain, slot: name} for name in found if name not in ("none", plain[slot]))


def _plainest(slot: str) -> tuple[str, ...]:
    return ("kd",) if slot == "response" else ("none",)


def _usual(name: str, dimension: Searched, methods: Methods, generator: random.Random) -> Any:
    """The usual value under a name of `space`. What has none (a student, a teacher) is drawn."""
    section, _, rest = name.partition(".")
    key, *deeper = rest.split(".")
    if section == "train":
        default = TRAIN_OPTIONS[key].default
        return default if lies_in(default, dimension) else space.middle(dimension)
    if section != "distill":
        return _any(dimension, generator)
    if not deeper:
        return methods[key] if key in methods else _of_distill(key, dimension, methods)
    if key not in methods:  # of a schedule, a curriculum or peers, where the usual one cannot be had
        return space.middle(dimension)
    method = METHODS[methods[key]]
    option = method.options.get(deeper[1])
    return getattr(method, deeper[1], None) if option is None or option.default is None else option.default


def _of_distill(key: str, dimension: Searched, methods: Methods) -> Any:
    response = METHODS.get(methods["response"])
    if key == "label_weight":
        own = 1.0 if response is None else response.label_weight
        return round(1 - response.alpha, 6) if response and own is None else own
    if key in ("alpha", "temperature"):  # asked for where there is a response method
        return getattr(response, key)
    usual = _DEFAULTS[key]
    is_slot = isinstance(usual, str)
    return space.middle(dimension) if is_slot and not lies_in(usual, dimension) else usual


def _any(dimension: Searched, generator: random.Random) -> Any:
    match dimension:
        case Categorical(choices):
            return generator.choice(choices)
        case Int(low, high, step):
            return generator.randrange(low, high + 1, step)
        case Float(low, high, step) if step is not None:
            return grid_value(low, step, generator.randrange(round((high - low) / step) + 1))
        case Float(low, high):
            return generator.uniform(low, high)
