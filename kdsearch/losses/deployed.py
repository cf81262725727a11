"""What a trial's methods make of its networks: whether it runs a teacher, and which student it saves.

The student is mostly the one that the spec names, with some methods more than it.

Goes in: a `TrialConfig` and the teacher's family and options. Comes out: a `Choice` to build, measure and
save. Importable without torch.
"""

from __future__ import annotations

from importlib import import_module

from kdsearch.layer_map import EMBEDDING
from kdsearch.losses import METHODS
from kdsearch.models import family
from kdsearch.records import Choice, TrialConfig

# What a method may need for the teacher's part to come from files; labels and indices are the batch's.
KEPT = frozenset({"logits", "embedding", "labels", "indices"})


def is_taught(config: TrialConfig) -> bool:
    """Whether a trial runs a teacher: because a method reads it, or because the curriculum asks it."""
    reads = any(METHODS[choice.name].teacher for choice in config.distill.values())
    return reads or config.curriculum.name != "none"


def reads_outputs_alone(config: TrialConfig) -> bool:
    """Whether all that its methods read of the teacher are logits and embeddings, which can be kept."""
    return not any(map(reads_maps, config.distill.values()))


def reads_maps(choice: Choice) -> bool:
    """Whether a method reads more of its teacher than that: maps are a thousand times larger.

    One that compares embeddings or maps does where its layer map names, or may name, a stage.
    """
    method = METHODS[choice.name]
    needs = method.needs
    option = method.options.get("layer_map")
    if option is not None and option.default == EMBEDDING == choice.options.get("layer_map", EMBEDDING):
        needs -= {"features"}
    return method.teacher and not needs <= KEPT


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
