"""A configuration, a share, a date as a person reads them in reports.

Goes in: values. Comes out: short texts on one line.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdsearch.curriculum import CURRICULA
from kdsearch.document import literal
from kdsearch.losses import METHODS, SLOTS
from kdsearch.models import family
from kdsearch.online import ONLINE
from kdsearch.options import Option
from kdsearch.records import Choice, TrialConfig
from kdsearch.schedules import SCHEDULES


def student(choice: Choice) -> str:
    """`resnet depth 20, width 0.5`: the size always, other options where they are not the default."""
    known = family(choice.name).options
    sizes = {name: choice.options[name] for name in ("depth", "width") if name in choice.options}
    said = sizes | _unusual(choice.options, known)
    return literal(f"{choice.name} {_settings(said)}".strip())


def recipe(config: TrialConfig) -> str:
    """`kd alpha 0.9, temperature 4 + fitnet layer_map 1>1,3>3`; nothing that is at its default."""
    return literal(" + ".join(_terms(config)) or "no distillation")


def _terms(config: TrialConfig) -> Iterable[str]:
    for slot in SLOTS:
        if slot in config.distill:
            choice = config.distill[slot]
            shared = {"alpha": config.alpha, "temperature": config.temperature} if slot == "response" else {}
            said = {name: value for name, value in shared.items() if value is not None}
            said |= _unusual(choice.options, METHODS[choice.name].options)
            yield f"{choice.name} {_settings(said)}".strip().replace("stage", "")  # only layer maps say it
    if config.schedule.name != "constant":
        known = SCHEDULES[config.schedule.name].options
        yield f"{config.schedule.name} schedule {_settings(_unusual(config.schedule.options, known))}".strip()
    if config.curriculum.name != "none":
        known = CURRICULA[config.curriculum.name].options
        yield f"curriculum {_settings(_unusual(config.curriculum.options, known))}".strip()
    if config.online.name != "none":
        said = _unusual(config.online.options, ONLINE[config.online.name].options)
        yield f"{config.online.name} {_settings(said)}".strip()


def _unusual(options: Mapping[str, Any], known: Mapping[str, Option]) -> dict[str, Any]:
    """The options whose values are not the table's defaults."""
    return {
        name: value for name, value in options.items() if name not in known or value != known[name].default
    }


def _settings(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number(value)}" for name, value in sorted(options.items()))


def number(value: Any) -> str:
    """Three digits of a float, without an exponent where thousands will do."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e7 else f"{value:.3g}"


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def times(factor: float | None) -> str:
    return "" if factor is None else f"{factor:.1f}×"


def date(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
