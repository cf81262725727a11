"""Students that end in their teacher's classifier (SimKD), named `simkd:<its family>:<the teacher's family>`.

Goes in: the `Choice`s of a student and a teacher. Comes out: one `Choice` whose options are both families'
under `student.` and `teacher.`, flat as JSON and the caches want them, and the `Family` behind such a name.
Importable without torch; not in FAMILIES, since a spec asks for it with the method `simkd`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from kdsearch.models import Family
from kdsearch.records import Choice

PREFIX = "simkd:"
# torchvision's classifiers whose last linear layer sees nothing but the average over the last stage's map.
AVERAGING = ("regnet_", "resnet", "resnext", "wide_resnet")
NOT_AVERAGING = frozenset({"vit"})  # of our own families


def reusing(student: Choice, choice: Choice, teacher: Choice | None) -> Choice:
    """The student with a projector and the teacher's classifier. Raises ValueError where one cannot have it.

    `choice` is the method's; it has no options that matter here.
    """
    assert teacher is not None, "simkd reads the teacher"
    for role, name in (("student", student.name), ("teacher", teacher.name)):
        complaint = unsuitable(name)
        if complaint:
            raise ValueError(f"simkd: the {role} {complaint}")
    options = {f"student.{key}": value for key, value in student.options.items()}
    options |= {f"teacher.{key}": value for key, value in teacher.options.items()}
    return Choice(f"{PREFIX}{student.name}:{teacher.name}", options)


def unsuitable(name: str) -> str | None:
    """Why a family cannot be either side, None where it can: its classifier must see an averaged map."""
    prefix, _, model = name.partition("/")
    averages = model.startswith(AVERAGING) if prefix == "torchvision" else name not in NOT_AVERAGING
    if averages:
        return None
    return (
        f"{name} has no map whose average feeds its classifier; take a family of convolutions or "
        f"torchvision/{', '.join(f'{start}*' for start in AVERAGING)}"
    )


def parts(name: str, options: Mapping[str, Any]) -> tuple[Choice, Choice]:
    """The student and the teacher of such a name."""
    _, student, teacher = name.split(":")

    def part(role: str, family: str) -> Choice:
        own = {key: value for key, value in options.items() if key.startswith(role)}
        return Choice(family, {key.removeprefix(role): value for key, value in own.items()})

    return part("student.", student), part("teacher.", teacher)


def composed(name: str, family: Callable[[str], Family]) -> Family:
    """The entry of such a name. Raises KeyError where it is none, or one of its families is unknown."""
    if name.count(":") != 2:
        raise KeyError(name)
    _, *names = name.split(":")
    roles = dict(zip(("student", "teacher"), map(family, names), strict=True))
    student = roles["student"]

    def check(options: Mapping[str, Any]) -> str | None:
        complaints = (
            entry.check(choice.options)
            for entry, choice in zip(roles.values(), parts(name, options), strict=True)
        )
        return next(filter(None, complaints), None)

    return replace(
        student,
        build="kdsearch.models.simkd:build",
        options={
            f"{role}.{key}": option for role, entry in roles.items() for key, option in entry.options.items()
        },
        stages=lambda options: student.stages(parts(name, options)[0].options),
        check=check,
        doc=f"{names[0]} that ends in the classifier of {names[1]}: Chen et al., 2022, arXiv 2203.14001.",
    )
