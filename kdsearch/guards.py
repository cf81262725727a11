"""What often goes wrong with distillation, noticed before the search: reasons and numbers, never a refusal.

Goes in: a spec, and what was measured of the teacher. Comes out: `Caution`s by pure
functions without torch (`kdsearch.confidence` measures); `announce` says and journals each of them once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdsearch.journal import Journal
from kdsearch.losses import METHODS
from kdsearch.spec import Dimension, DistillSpec, Float, SweepSpec
from kdsearch.spec_dimensions import reachable

# Hinton, Vinyals and Dean (arXiv 1503.02531) went up to 20.
HIGH_TEMPERATURE = 20.0
# Published at temperature 1, or without a temperature.
UNSOFTENED = frozenset({"deit", "dist", "pseudo_label"})
# Mirzadeh et al. (AAAI 2020, arXiv 1902.03393) put an assistant into larger gaps than this.
LARGE_GAP = 10.0
# As a share of a standard deviation: published CIFAR-100 statistics differ by 0.01 among each other.
OTHER_NORMALISATION = 0.05
# Mean confidence as a share of that on validation. With 600 images a side its standard error is below 0.02,
# and a teacher is at least as sure of its training images; a threshold by judgement, from no source.
FAR_LESS_SURE = 0.8


@dataclass(frozen=True)
class Caution:
    """One warning: `kind` for programs, `text` for people, with the reason and the number."""

    kind: str
    text: str


def announce(found: Iterable[Caution], journal: Journal, say: Callable[[str], None]) -> None:
    """Say and journal (kind `warning`) what this sweep has not said yet; a resumed one does not repeat it."""
    said = {(event["about"], event["text"]) for event in journal.events if event["kind"] == "warning"}
    for caution in found:
        if (caution.kind, caution.text) not in said:
            say(f"warning: {caution.text}")
            journal.append("warning", about=caution.kind, text=caution.text)


def named(teacher: str) -> str:
    """A teacher in a sentence; the only one has no name."""
    return f"the teacher {teacher}" if teacher else "the teacher"


def of_spec(spec: SweepSpec, num_classes: int) -> list[Caution]:
    """What the spec tells: temperatures that say little, labels unused, methods for more classes."""
    distill = spec.distill
    return [*_temperature(distill), *_labels(distill), *_two_classes(distill, num_classes)]


def of_sizes(student: str, params: float, teacher_params: float, who: str = "the teacher") -> list[Caution]:
    """Whether the smallest student is far smaller than the teacher that it learns from."""
    if params * LARGE_GAP >= teacher_params:
        return []
    return [
        Caution(
            "large_gap",
            f"the smallest student ({student}, {params:,.0f} params) is {teacher_params / params:.0f} times "
            f"smaller than {who} ({teacher_params:,.0f}) and has no assistant in between: beyond "
            f"{LARGE_GAP:g} times a smaller teacher often teaches more (Mirzadeh et al., arXiv 1902.03393)",
        )
    ]


def of_teacher(
    report: Mapping[str, Any],
    mean: Sequence[float],
    std: Sequence[float],
    who: str = "the teacher",
    epochs_key: str = "epochs",
) -> list[Caution]:
    """What the teacher's report tells, beside the normalisation (of images / 255) that students see.

    `epochs_key` says where the spec has its epochs.
    """
    found = []
    if report.get("still_improving"):
        found.append(
            Caution(
                "still_improving",
                f"{who} was still improving when its {report['epochs']} epochs ended (accuracy "
                f"{report['accuracy']:.4f}): with more of them ({epochs_key}) every student has more to "
                "learn",
            )
        )
    their_mean, their_std = report.get("mean"), report.get("std")
    if their_mean and their_std and _distance(their_mean, their_std, mean, std) > OTHER_NORMALISATION:
        found.append(
            Caution(
                "other_normalisation",
                f"{who} was trained on images with mean {_numbers(their_mean)} and standard deviation "
                f"{_numbers(their_std)}; here they come with {_numbers(mean)} and {_numbers(std)}: it "
                f"sees other contrasts than it knows (accuracy here {report['accuracy']:.4f})",
            )
        )
    return found


def of_confidence(confidences: Mapping[str, float], who: str = "the teacher") -> list[Caution]:
    """Where the teacher is far less sure than on validation, by the mean of its largest probability.

    `confidences` has `validation`, and those of the images that students train on.
    """
    validation = confidences["validation"]
    advice = {
        "training": "check data.augment: views that it cannot read teach noise",
        "unlabelled": "its answers may be noise there: use fewer, or images more like the labelled ones",
    }
    return [
        Caution(
            f"unsure_{where}",
            f"{who} is far less sure of the {where} views ({value:.2f}) than of validation images "
            f"({validation:.2f}, mean of the largest probability): {advice[where]}",
        )
        for where, value in confidences.items()
        if value < FAR_LESS_SURE * validation
    ]


def _temperature(distill: DistillSpec) -> Iterable[Caution]:
    methods = set(distill.slots["response"]) - {"none", "pseudo_label"}
    if not methods:
        return
    fixed = set(distill.schedule) <= {"constant", "warmup"}
    own = [METHODS[name].temperature for name in methods]
    given = own if distill.temperature is None else reachable(distill.temperature)
    temperatures = [*given, *_ends(distill, "temperature")]
    if max(temperatures) > HIGH_TEMPERATURE:
        yield Caution(
            "high_temperature",
            f"distill.temperature reaches {max(temperatures):g}: above {HIGH_TEMPERATURE:g} a teacher gives "
            "every class nearly the same probability, and little of what it knows is left to learn from",
        )
    if methods - UNSOFTENED and fixed and set(temperatures) == {1.0}:
        yield Caution(
            "temperature_1",
            "distill.temperature is only 1: a teacher that is sure of its answer then says little more than "
            "the label; 2 to 8 let it show what the other classes have in common",
        )


def _two_classes(distill: DistillSpec, num_classes: int) -> Iterable[Caution]:
    standardised = sorted({"logit_std", "logit_std_dkd"} & set(distill.slots["response"]))
    if num_classes == 2 and standardised:
        yield Caution(
            "two_classes",
            f"with two classes {' and '.join(standardised)} can teach nothing: two logits brought to one "
            "mean and one spread say which is the larger, and no more; kd says how much larger",
        )


def _labels(distill: DistillSpec) -> Iterable[Caution]:
    why = "the students learn the teacher's mistakes with its answers, and nothing corrects them"
    if 0.0 in _likely(distill.label_weight):
        yield Caution("labels_unused", f"distill.label_weight = 0 leaves the labels out: {why}")
        return
    subtracting = [name for name in distill.slots["response"] if name != "none" and _subtracts(name)]
    alphas = [*_likely(distill.alpha), *_ends(distill, "alpha", _likely)]
    if subtracting and distill.label_weight is None and 1.0 in alphas:
        yield Caution(
            "labels_unused",
            f"alpha = 1 leaves the labels out of {subtracting[0]}, which weighs them by 1 - alpha: {why}",
        )


def _subtracts(method: str) -> bool:
    return METHODS[method].label_weight is None


def _likely(dimension: Dimension) -> list[Any]:
    """The values that some trials will have: of a continuous range, none in particular."""
    if isinstance(dimension, Float) and dimension.step is None and dimension.low < dimension.high:
        return []
    return reachable(dimension)


def _ends(distill: DistillSpec, name: str, values: Any = reachable) -> list[Any]:
    """What schedules move alpha or the temperature from or to."""
    return [
        value
        for options in distill.schedule.values()
        for option in (f"{name}_from", f"{name}_to")
        if options.get(option) is not None
        for value in values(options[option])
    ]


def _distance(
    mean: Sequence[float], std: Sequence[float], here: Sequence[float], std_here: Sequence[float]
) -> float:
    """The largest difference of two normalisations, in standard deviations."""
    shifts = [abs(a - b) / s for a, b, s in zip(mean, here, std_here, strict=True)]
    scales = [abs(a / b - 1) for a, b in zip(std, std_here, strict=True)]
    return max([*shifts, *scales])


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)
