"""How temperature, alpha and the terms' weights move through a training, importable without torch.

Goes in: a `TrialConfig` and an epoch. Comes out: `Now`, the values of that epoch. `SCHEDULES` is the table
behind the spec's `distill.schedule`. Epochs count from 1: the first epoch has a schedule's start, the last
one its end, so a schedule of one epoch is at its end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kdsearch.options import Option
from kdsearch.records import TrialConfig


@dataclass(frozen=True)
class Schedule:
    """One entry of the table: its settings, and in words what moves."""

    doc: str
    options: Mapping[str, Option] = field(default_factory=dict)


@dataclass(frozen=True)
class Now:
    """One epoch's values. `factor` multiplies the weight of every term but the response's."""

    alpha: float | None
    temperature: float | None
    factor: float


def _end(what: str) -> Option:
    return Option("float", None, f"{what} at the last epoch; default: it stays", low=0.0, high=1000.0)


def _ends() -> dict[str, Option]:
    temperature = "temperature of the last epoch, from `temperature` in the first; default: it stays"
    return {
        "alpha_to": _end("alpha"),
        "temperature_to": Option("float", None, temperature, low=0.01, high=1000.0),
        "weights_to": _end("factor of the other terms' weights, from 1,"),
    }


# Sorted by key.
SCHEDULES: dict[str, Schedule] = {
    "constant": Schedule("nothing moves"),
    "cosine": Schedule("half a cosine from the trial's values to the given ends", _ends()),
    "linear": Schedule("a straight line from the trial's values to the given ends", _ends()),
    "progressive": Schedule(
        "the temperature falls in a straight line, from soft targets to the teacher's answer, while alpha "
        "rises to the trial's own; the temperature of the trial is not used",
        {
            "alpha_from": Option("float", 0.1, "alpha of the first epoch", low=0.0, high=1000.0),
            "temperature_from": Option(
                "float", 10.0, "temperature of the first epoch", low=0.01, high=1000.0
            ),
            "temperature_to": Option("float", 1.0, "temperature of the last epoch", low=0.01, high=1000.0),
        },
    ),
    "warmup": Schedule(
        "alpha and the other terms' weights grow in a straight line from 0",
        {
            "share": Option(
                "float",
                20 / 240,
                "share of the epochs until they are reached; 20 of 240 in DKD's and ReviewKD's sources",
                low=0.0,
                high=1.0,
            )
        },
    ),
}


def applies(option: str, slots: Iterable[str]) -> bool:
    """Whether a schedule's option moves anything in a trial with these slots filled.

    alpha and the temperature are the response term's, the weights those of all other terms.
    """
    if option.startswith(("alpha", "temperature")):
        return "response" in slots
    return bool(set(slots) - {"response"}) if option.startswith("weights") else bool(set(slots))


def now(config: TrialConfig, epoch: int) -> Now:
    """The values of an epoch, counted from 1. Raises KeyError for an unknown schedule."""
    name, options = config.schedule.name, config.schedule.options
    given = {key: option.default for key, option in SCHEDULES[name].options.items()} | dict(options)
    alpha, temperature = config.alpha, config.temperature
    progress = (epoch - 1) / (config.train.epochs - 1) if config.train.epochs > 1 else 1.0
    if name == "warmup":
        grown = min(1.0, epoch / max(1.0, given["share"] * config.train.epochs))
        return Now(_times(alpha, grown), temperature, grown)
    if name == "progressive":
        rising = None if alpha is None else _between(given["alpha_from"], alpha, progress)
        falling = _between(given["temperature_from"], given["temperature_to"], progress)
        return Now(rising, None if temperature is None else falling, 1.0)
    if name == "constant":
        return Now(alpha, temperature, 1.0)
    if name == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    return Now(
        _towards(alpha, given["alpha_to"], progress),
        _towards(temperature, given["temperature_to"], progress),
        1.0 if given["weights_to"] is None else _between(1.0, given["weights_to"], progress),
    )


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _towards(start: float | None, end: float | None, progress: float) -> float | None:
    return start if start is None or end is None else _between(start, end, progress)


def _between(start: float, end: float, progress: float) -> float:
    return start + (end - start) * progress
