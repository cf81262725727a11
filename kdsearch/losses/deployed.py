"""What a trial's methods make of its networks: whether it runs a teacher, and which student it saves.

The student is mostly the one that the spec names, with some methods more than it.

Goes in: a `TrialConfig` and the teacher's family and options. Comes out: a `Choice` to build, measure and
save. Importable without torch.
"""

from __future__ import annotations

from importlib import import_module

from kdsearch.losses import METHODS
from kdsearch.models import family
from kdsearch.records import Choice, TrialConfig


def is_taught(config: TrialConfig) -> bool:
    """Whether a trial runs a teacher: because a method reads it, or because the curriculum asks it."""
    reads = any(METHODS[choice.name].teacher for choice in config.distill.values())
    return reads or config.curriculum.name != "none"


def deployed(config: TrialConfig, teacher: Choice | None) -> Choice:
    """The trial's student with what its methods leave in it: SimKD's projector, DeiT's token.

    `teacher` is None only where no method reads one.
    """
    student = config.student
    for choice in config.distill.values():
        name = METHODS[choice.name].deploys
        if name:
            module, function = name.split(":")
            student = getattr(import_module(module), function)(student, choice, teacher)
    return student


def with_token(student: Choice, choice: Choice, teacher: Choice | None) -> Choice:
    """DeiT's: a family that can have a distillation token gets it, any other stays as it is."""
    if "token" not in family(student.name).options:
        return student
    return Choice(student.name, {**student.options, "token": True})
