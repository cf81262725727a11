"""What a spec may say of networks, as data: the students, their recipe and whom they learn from.

Goes in: the table of families. Comes out: the sections `STUDENT` and `TEACHER`, and `TRAIN_OPTIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kdsearch.models import FAMILIES, TORCHVISION, Family, family
from kdsearch.options import Option
from kdsearch.schema_items import Item, Named, Section, fixed, seed

# The published recipe of CIFAR distillation where there is one: batch 64 to 128, SGD momentum 0.9,
# lr 0.05, weight decay 5e-4 (RepDistiller, train_student.py).
TRAIN_OPTIONS: dict[str, Option] = {
    "epochs": fixed("int", doc="passes over the training split; the full budget of a trial", low=1),
    "batch_size": Option("int", 128, "images in a step", low=1, high=65536),
    "optimizer": Option("str", "sgd", "update rule", choices=("adam", "adamw", "sgd")),
    "lr": Option("float", 0.05, "peak learning rate", low=1e-8, high=100),
    "momentum": Option("float", 0.9, "of sgd; the others ignore it", low=0, high=0.9999),
    "nesterov": Option("bool", False, "Nesterov's form of sgd's momentum"),
    "weight_decay": Option("float", 5e-4, "L2 penalty, decoupled in adamw", low=0, high=10),
    "schedule": Option(
        "str",
        "cosine",
        "course of the learning rate after the warm-up: step multiplies by gamma at each milestone",
        choices=("constant", "cosine", "linear", "step"),
    ),
    "warmup_epochs": Option("int", 0, "epochs of linear increase up to lr", low=0),
    "milestones": fixed("list", (), "finished epochs after which schedule step lowers lr, increasing"),
    "gamma": Option("float", 0.1, "factor of schedule step at each milestone", low=1e-6, high=1),
    "label_smoothing": Option("float", 0.0, "share of the label spread over all classes", low=0, high=0.99),
}

# Training options that mean something only where another has this value.
TRAIN_NEEDS = {
    "momentum": ("optimizer", "sgd"),
    "nesterov": ("optimizer", "sgd"),
    "milestones": ("schedule", "step"),
    "gamma": ("schedule", "step"),
}


def _families(more: Mapping[str, Item], prefix: str = "") -> dict[str, Item]:
    """The model families, each with `more` settings; all of torchvision's share one section.

    With a `prefix` nothing in them can be searched, and it names them in the JSON Schema.
    """

    def section(name: str, kind: Family) -> Section:
        named = f"{prefix}{name}" if prefix else ""
        return Section(kind.doc, {**kind.options, **more}, fixed=bool(prefix), name=named)

    entries: dict[str, Item] = {name: section(name, kind) for name, kind in FAMILIES.items()}
    shared = section("torchvision", family(f"torchvision/{TORCHVISION[0]}"))
    return entries | {f"torchvision/{name}": shared for name in TORCHVISION}


def _given(option: Option) -> Option:
    """The same setting with no default of its own: None where it is not given."""
    return replace(option, default=None, searchable=False)


TEACHER_TRAIN = Section(
    "the teacher's recipe; epochs, batch size, optimizer, schedule and weight decay default to the students'",
    {name: _given(option) for name, option in TRAIN_OPTIONS.items()},
    name="teacher_train",
)

_TRAINED: dict[str, Item] = {"train": TEACHER_TRAIN}
_TRAINED_OR_LOADED: dict[str, Item] = {
    **_TRAINED,
    "checkpoint": fixed("str", None, "a weights file made elsewhere, instead of training"),
}
_ANY_FAMILY = _families(_TRAINED_OR_LOADED, "teacher_")
_NETWORK: dict[str, Item] = {
    "checkpoint": fixed("str", None, "a student or teacher that kdsearch wrote: its folder or .safetensors"),
    "min_accuracy": fixed("float", None, "validation accuracy it must reach", low=0, high=1),
    "seed": seed("of initial weights and order"),
}
_TRAIN_ELSEWHERE = {"train": "belongs below the family, as in resnet: {train: ...}"}

MEMBER = Section(
    "one network: a family to train, or the checkpoint of a trained one",
    fields=_NETWORK,
    entries=_ANY_FAMILY,
    elsewhere=_TRAIN_ELSEWHERE,
    name="teacher_network",
)

ENSEMBLE = Section(
    "several networks whose outputs are combined",
    name="ensemble",
    fields={
        "of": Named("the members", MEMBER, low=2),
        "combine": fixed(
            "str",
            "probabilities",
            "what is averaged: probabilities at the trial's temperature, or logits",
            choices=("logits", "probabilities"),
        ),
        "weights": fixed(
            "str",
            "equal",
            "of the members in the mean; searched: one dimension a member, scaled to a sum of 1",
            choices=("equal", "searched"),
        ),
        "features_from": fixed(
            "str", None, "the member that feature maps and embeddings come from; default the first by name"
        ),
    },
)

_KD_TEMPERATURE = "softens both sides of a generation's kd; a list has one value for each"

BORN_AGAIN = Section(
    "generations of one network, each a pupil of the one before (Furlanello et al., arXiv 1805.04770)",
    {
        "generations": fixed("int", doc="how many are born again, after the one trained on labels", low=1),
        "temperature": fixed("numbers", (1.0,), f"{_KD_TEMPERATURE}; 1 in the paper", low=0.01, high=1000),
        "label_weight": fixed(
            "float",
            0.0,
            "weight of the labels beside kd's 1: 0 in the paper, 1 in its BAN+L",
            low=0,
            high=1000,
        ),
        "use": fixed(
            "str",
            "last",
            "whom the students learn from: the last generation, the most accurate one, or the mean of all",
            choices=("best", "ensemble", "last"),
        ),
    },
    entries=_families(_TRAINED, "trained_"),
    name="born_again",
    elsewhere={
        "checkpoint": "born_again trains every generation: give a family and no checkpoint",
        **_TRAIN_ELSEWHERE,
    },
)

ASSISTANTS = Section(
    "a chain of ever smaller networks down to the student (Mirzadeh et al., arXiv 1902.03393)",
    {
        "steps": Option(
            "int",
            None,
            "assistants between teacher and student, more where a step would compress more than "
            "max_compression; default as many as that needs",
            low=0,
            high=8,
        ),
        "max_compression": fixed("float", 4.5, "most that one step may shrink params by", low=1.5, high=1e6),
        "temperature": fixed("float", 4.0, "softens both sides of an assistant's kd", low=0.01, high=1000),
        "alpha": fixed("float", 0.9, "weight of an assistant's kd; 1 - alpha is the labels'", low=0, high=1),
        "train": TEACHER_TRAIN,
    },
    entries=_ANY_FAMILY,
    name="assistants",
    elsewhere={"checkpoint": "assistants need the family: resnet: {checkpoint: ...}"},
)

_COMBINED: dict[str, Item] = {"assistants": ASSISTANTS, "born_again": BORN_AGAIN, "ensemble": ENSEMBLE}

TEACHER_CHOICE = Section(
    "one teacher: a network, an ensemble, generations born again, or a chain of assistants",
    fields=_NETWORK,
    entries={**_COMBINED, **MEMBER.entries},
    elsewhere=_TRAIN_ELSEWHERE,
    name="teacher_choice",
)

TEACHER = Section(
    "whom the students learn from: a family to train, the checkpoint of a trained one, or more than one",
    fields=_NETWORK,
    entries={
        "one_of": Named("teachers by name: a searched choice", TEACHER_CHOICE, low=2),
        **TEACHER_CHOICE.entries,
    },
    elsewhere={"train": "belongs below the family: teacher.<family>.train"},
)

STUDENT = Section("the families to search, each with its settings", entries=_families({}))
