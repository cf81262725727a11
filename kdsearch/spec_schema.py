"""What a spec may say, as data: the description that both the reader and the JSON Schema follow.

Goes in: the tables of families, data sets, augmentations and methods. Comes out: `SPEC`, a tree of
`Section`, `Listing` and `Option`, and `json_schema()`, the same for editors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kdsearch.curriculum import CURRICULA
from kdsearch.data import AUGMENTATIONS, DATASETS
from kdsearch.losses import METHODS, SLOTS
from kdsearch.models import FAMILIES, TORCHVISION, Family, family
from kdsearch.online import ONLINE
from kdsearch.options import REQUIRED, Option
from kdsearch.schedules import SCHEDULES


@dataclass(frozen=True)
class Section:
    """A mapping. `fields` are its own settings, filled with their defaults; `entries` are the names of a
    slot, of which only those given appear.

    A word in place of the mapping is the name of an entry, or else the value of the field `word`; `absent`
    is that word where the section is missing. `variants` adds fields by the value of one: (field, {value:
    fields}). `elsewhere` says of a name that is not known here where it belongs. Below a `fixed` section
    nothing can be searched. One with a `name` stands once in the JSON Schema, however often it is used.
    """

    doc: str
    fields: Mapping[str, Item] = field(default_factory=dict)
    entries: Mapping[str, Item] = field(default_factory=dict)
    variants: tuple[str, Mapping[str, Mapping[str, Option]]] = ("", {})
    word: str = ""
    absent: str = ""
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    fixed: bool = False
    name: str = ""


@dataclass(frozen=True)
class Listing:
    """A list, each item one entry of the section, by its word or as `{name: {setting: value}}`."""

    doc: str
    item: Section


@dataclass(frozen=True)
class Named:
    """A mapping from names of the user's own to the section that each stands for, `low` of them at least."""

    doc: str
    item: Section
    low: int = 1


Item = Section | Listing | Named | Option


def _fixed(kind: Any, default: Any = REQUIRED, doc: str = "", **bounds: Any) -> Option:
    return Option(kind, default, doc, searchable=False, **bounds)


def _seed(doc: str) -> Option:
    return _fixed("int", 0, doc, low=0, high=2**31 - 1)


# The published recipe of CIFAR distillation where there is one: batch 64 to 128, SGD momentum 0.9,
# lr 0.05, weight decay 5e-4 (RepDistiller, train_student.py).
TRAIN_OPTIONS: dict[str, Option] = {
    "epochs": _fixed("int", doc="passes over the training split; the full budget of a trial", low=1),
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
    "milestones": _fixed("list", (), "finished epochs after which schedule step lowers lr, increasing"),
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

# What a response method may have of its own, because each paper has its own.
RESPONSE_NUMBERS = {
    "alpha": Option(
        "float", None, "weight of this method's term, in place of distill.alpha", low=0, high=1000
    ),
    "temperature": Option(
        "float", None, "of this method, in place of distill.temperature", low=0.01, high=1000
    ),
}

COSTS = ("macs", "params", "size_mb")
SAMPLERS = ("grid", "one_at_a_time", "tpe")

_NONE = Section("nothing in this slot")


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


def _methods(slot: str) -> Section:
    own = RESPONSE_NUMBERS if slot == "response" else {}
    methods = {name: Section(m.doc, {**m.options, **own}) for name, m in METHODS.items() if m.slot == slot}
    others = {name: f"{name} belongs in distill.{m.slot}" for name, m in METHODS.items() if m.slot != slot}
    doc = f"{slot} distillation: a method, or several to choose from"
    return Section(doc, entries={"none": _NONE, **methods}, absent="none", elsewhere=others)


def _given(option: Option) -> Option:
    """The same setting with no default of its own: None where it is not given."""
    return replace(option, default=None, searchable=False)


UNLABELLED = Section(
    "images without labels beside the labelled ones, with the teacher's outputs as their only target",
    {
        "dataset": _fixed(
            "str",
            None,
            "rest, the images that subset leaves out, or the training part of another data set",
            choices=("rest", *(name for name in DATASETS if name != "image_folder")),
        ),
        "folder": _fixed("str", None, "in place of a data set: every image at or below this folder"),
        "root": _fixed("str", None, "folder of the data set's files; default the data's own root"),
        "share": _fixed("float", 1.0, "share of these images to use", low=0.0001, high=1),
        "ratio": _fixed("float", 1.0, "images without labels for each one with", low=0.01, high=100),
    },
    word="dataset",
)

DATA = Section(
    "the images",
    {
        "dataset": _fixed("str", doc="kind of data set", choices=tuple(DATASETS)),
        "root": _fixed("str", "data", "folder that holds the files, or gets them"),
        "validation": _fixed(
            "float",
            None,
            "images held out of the training part to choose by: a count, or a fraction below 1; "
            "default: the data set's own split or share",
            low=0,
        ),
        "subset": _fixed("int", None, "training images to keep, classes in proportion; default all", low=1),
        "resize": _fixed("int", None, "pixels a side; default as they are", low=4, high=1024),
        "augment": Listing(
            "random changes of training images",
            Section(
                "augmentations", entries={n: Section(n, options) for n, options in AUGMENTATIONS.items()}
            ),
        ),
        "unlabelled": UNLABELLED,
        "seed": _seed("draws validation and subset"),
    },
    variants=("dataset", {name: kind.options for name, kind in DATASETS.items()}),
    word="dataset",
    fixed=True,
)

TEACHER_TRAIN = Section(
    "the teacher's recipe; epochs, batch size, optimizer, schedule and weight decay default to the students'",
    {name: _given(option) for name, option in TRAIN_OPTIONS.items()},
    name="teacher_train",
)

_TRAINED: dict[str, Item] = {"train": TEACHER_TRAIN}
_TRAINED_OR_LOADED: dict[str, Item] = {
    **_TRAINED,
    "checkpoint": _fixed("str", None, "a weights file made elsewhere, instead of training"),
}
_ANY_FAMILY = _families(_TRAINED_OR_LOADED, "teacher_")
_NETWORK: dict[str, Item] = {
    "checkpoint": _fixed("str", None, "a student or teacher that kdsearch wrote: its folder or .safetensors"),
    "min_accuracy": _fixed("float", None, "validation accuracy it must reach", low=0, high=1),
    "seed": _seed("of initial weights and order"),
}

MEMBER = Section(
    "one network: a family to train, or the checkpoint of a trained one",
    fields=_NETWORK,
    entries=_ANY_FAMILY,
    name="teacher_network",
)

ENSEMBLE = Section(
    "several networks whose outputs are combined",
    name="ensemble",
    fields={
        "of": Named("the members", MEMBER, low=2),
        "combine": _fixed(
            "str",
            "probabilities",
            "what is averaged: probabilities at the trial's temperature, or logits",
            choices=("logits", "probabilities"),
        ),
        "weights": _fixed(
            "str",
            "equal",
            "of the members in the mean; searched: one dimension a member, scaled to a sum of 1",
            choices=("equal", "searched"),
        ),
        "features_from": _fixed(
            "str", None, "the member that feature maps and embeddings come from; default the first by name"
        ),
    },
)

_KD_TEMPERATURE = "softens both sides of a generation's kd; a list has one value for each"

BORN_AGAIN = Section(
    "generations of one network, each a pupil of the one before (Furlanello et al., arXiv 1805.04770)",
    {
        "generations": _fixed("int", doc="how many are born again, after the one trained on labels", low=1),
        "temperature": _fixed("numbers", (1.0,), f"{_KD_TEMPERATURE}; 1 in the paper", low=0.01, high=1000),
        "label_weight": _fixed(
            "float",
            0.0,
            "weight of the labels beside kd's 1: 0 in the paper, 1 in its BAN+L",
            low=0,
            high=1000,
        ),
        "use": _fixed(
            "str",
            "last",
            "whom the students learn from: the last generation, the most accurate one, or the mean of all",
            choices=("best", "ensemble", "last"),
        ),
    },
    entries=_families(_TRAINED, "trained_"),
    name="born_again",
    elsewhere={"checkpoint": "born_again trains every generation: give a family and no checkpoint"},
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
        "max_compression": _fixed("float", 4.5, "most that one step may shrink params by", low=1.5, high=1e6),
        "temperature": _fixed("float", 4.0, "softens both sides of an assistant's kd", low=0.01, high=1000),
        "alpha": _fixed("float", 0.9, "weight of an assistant's kd; 1 - alpha is the labels'", low=0, high=1),
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
    name="teacher_choice",
)

TEACHER = Section(
    "whom the students learn from: a family to train, the checkpoint of a trained one, or more than one",
    fields=_NETWORK,
    entries={
        "one_of": Named("teachers by name: a searched choice", TEACHER_CHOICE, low=2),
        **TEACHER_CHOICE.entries,
    },
)

STUDENT = Section("the families to search, each with its settings", entries=_families({}))

DISTILL = Section(
    "loss = label_weight * cross-entropy + alpha * response + sum of weight * term",
    {
        "alpha": Option("float", 0.9, "weight of the response term", low=0, high=1000),
        "temperature": Option("float", 4.0, "softens both sides of the response term", low=0.01, high=1000),
        "label_weight": Option(
            "float",
            None,
            "weight of the labels; default the method's own, 1 - alpha for kd",
            low=0,
            high=1000,
        ),
        "teacher_views": Option(
            "int",
            1,
            "views of an image, augmented each in its own way, over which the teacher's probabilities are "
            "averaged; a pass of the teacher for each",
            low=1,
            high=64,
        ),
        **{slot: _methods(slot) for slot in SLOTS},
        "schedule": Section(
            "how temperature, alpha and weights move over the epochs",
            entries={name: Section(s.doc, s.options) for name, s in SCHEDULES.items()},
            absent="constant",
        ),
        "curriculum": Section(
            "which samples an epoch trains on",
            entries={name: Section(c.doc, c.options) for name, c in CURRICULA.items()},
            absent="none",
        ),
        "online": Section(
            "students that learn from one another in one trial, each one a student of its own in the "
            "results; the other slots apply to every one of them",
            entries={"none": _NONE, **{name: Section(o.doc, o.options) for name, o in ONLINE.items()}},
            absent="none",
        ),
    },
)

EARLY_STOPPING = Section(
    "which trials give up early",
    {
        "scheduler": _fixed("str", "none", "the rule that stops trials", choices=("asha", "none")),
        "grace_epochs": _fixed("int", 1, "epochs before the first decision", low=1),
        "reduction_factor": _fixed("int", 3, "one in so many goes on at each rung; rungs grow by it", low=2),
    },
    word="scheduler",
)

SEARCH = Section(
    "how long, and for what",
    {
        "trials": _fixed(
            "int",
            None,
            "search trials, failed ones included; other roles come on top; grid and one_at_a_time have as "
            "many as there are where it is not given",
            low=1,
        ),
        "seed": _seed("of the whole search"),
        "objectives": _fixed(
            "list", ("val_accuracy", "params"), f"val_accuracy first, then one or more of {', '.join(COSTS)}"
        ),
        "early_stopping": EARLY_STOPPING,
        "time_s": _fixed("float", None, "seconds after which no further trial starts", low=1),
        "sampler": _fixed(
            "str",
            "tpe",
            "tpe proposes by what it has seen; grid lists every configuration; one_at_a_time lists the first "
            "value of everything (of a slot none, else the first by name) and each further value alone",
            choices=SAMPLERS,
        ),
        "seeds": _fixed(
            "int", 1, "trainings of every listed configuration; the k-th seed is the same for all", low=1
        ),
    },
    fixed=True,
)

CONFIRM = Section(
    "training the front again",
    {"seeds": _fixed("int", 0, "fresh seeds for each student on the front", low=0)},
    fixed=True,
)

RESOURCES = Section(
    "what one trial occupies",
    {
        "cpus_per_trial": _fixed("float", 1.0, "CPU cores", low=0),
        "gpus_per_trial": _fixed("float", 0.0, "GPUs; several trials share one below 1", low=0),
        "max_concurrent": _fixed("int", None, "trials at once; default as many as fit", low=1),
    },
    fixed=True,
)

SPEC = Section(
    "A kdsearch sweep",
    {
        "name": _fixed("str", doc="the sweep's, its folder's and its MLflow experiment's"),
        "data": DATA,
        "teacher": TEACHER,
        "student": STUDENT,
        "distill": DISTILL,
        "train": Section("the students' recipe", TRAIN_OPTIONS),
        "search": SEARCH,
        "confirm": CONFIRM,
        "resources": RESOURCES,
    },
)

# The settings of a distribution, in Optuna's vocabulary, by its type.
DISTRIBUTIONS: dict[str, dict[str, Option]] = {
    "float": {
        "low": Option("float", doc="lower end, inclusive"),
        "high": Option("float", doc="upper end, inclusive"),
        "step": Option("float", None, "distance of the values; default continuous"),
        "log": Option("bool", False, "search on a logarithmic scale"),
    },
    "int": {
        "low": Option("int", doc="lower end, inclusive"),
        "high": Option("int", doc="upper end, inclusive"),
        "step": Option("int", 1, "distance of the values"),
        "log": Option("bool", False, "search on a logarithmic scale"),
    },
    "categorical": {"choices": Option("list", doc="the values to choose from", low=1)},
}


def distribution_types(option: Option) -> tuple[str, ...]:
    """The types of distribution that an option can be searched with."""
    return (option.type, "categorical") if option.type in DISTRIBUTIONS else ("categorical",)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a spec; what takes several keys to tell is left to `spec.load`."""
    definitions = {name: _distribution_schema(name) for name in DISTRIBUTIONS}
    root = _schema(SPEC, True, definitions)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **root, "$defs": definitions}


def _schema(item: Item, searchable: bool, definitions: dict[str, Any]) -> dict[str, Any]:
    match item:
        case Option():
            return _option_schema(item, searchable)
        case Listing():
            items = _schema(item.item, False, definitions)
            return {"description": item.doc, "type": ["array", "null"], "items": items}
        case Named():
            return {
                "description": item.doc,
                "type": "object",
                "additionalProperties": _schema(item.item, searchable, definitions),
                "minProperties": item.low,
            }
        case Section():
            schema = _section_schema(item, searchable and not item.fixed, definitions)
            if not item.name:
                return schema
            definitions[item.name] = schema
            return {"$ref": f"#/$defs/{item.name}"}


def _section_schema(section: Section, searchable: bool, definitions: dict[str, Any]) -> dict[str, Any]:
    required = [name for name, item in section.fields.items() if _is_required(item)]
    # The names that share an entry, torchvision's, are one pattern.
    names: dict[int, list[str]] = {}
    for name, entry in section.entries.items():
        names.setdefault(id(entry), []).append(name)
    mapping: dict[str, Any] = {
        "type": "object",
        "properties": {name: _schema(part, searchable, definitions) for name, part in section.fields.items()},
        "required": required,
        "unevaluatedProperties": False,
    }
    for group in names.values():
        schema = _schema(section.entries[group[0]], searchable, definitions)
        if len(group) == 1:
            mapping["properties"][group[0]] = schema
        else:
            mapping["patternProperties"] = {f"^({'|'.join(group)})$": schema}
    chosen_by, variants = section.variants
    if variants:
        mapping["allOf"] = [
            {
                "if": {"properties": {chosen_by: {"const": value}}},
                "then": {"properties": {name: _option_schema(o, searchable) for name, o in options.items()}},
            }
            for value, options in variants.items()
        ]
    shapes = [mapping]
    if section.entries:
        mapping["minProperties"] = 1
        shapes.append({"enum": list(section.entries)})
    elif section.word:
        shapes.append(_schema(section.fields[section.word], searchable, definitions))
    if not required and not section.entries:
        shapes.append({"type": "null"})
    return {"description": section.doc, **(mapping if len(shapes) == 1 else {"anyOf": shapes})}


_JSON_TYPES = {"float": "number", "int": "integer", "str": "string", "bool": "boolean", "list": "array"}


def _option_schema(option: Option, searchable: bool) -> dict[str, Any]:
    if option.type == "numbers":
        number = _option_schema(replace(option, type="float", default=REQUIRED, doc=""), False)
        several = {"type": "array", "items": number, "minItems": 1}
        return {"description": option.doc, "anyOf": [number, several]}
    choices = None if option.choices is None else list(option.choices)
    low, high = ("minItems", "maxItems") if option.type == "list" else ("minimum", "maximum")
    limits = {low: option.low, high: option.high, "enum": choices}
    scalar = {"type": _JSON_TYPES[option.type], **{name: v for name, v in limits.items() if v is not None}}
    shapes = [scalar]
    if option.default is None:
        shapes.append({"type": "null"})
    if searchable and option.searchable:
        shapes += [{"$ref": f"#/$defs/{name}"} for name in distribution_types(option)]
    silent = option.default is REQUIRED or option.default in (None, ())
    note = "" if silent else f"; default {json.dumps(option.default)}"
    return {"description": option.doc + note, **(scalar if len(shapes) == 1 else {"anyOf": shapes})}


def _distribution_schema(name: str) -> dict[str, Any]:
    settings = DISTRIBUTIONS[name]
    return {
        "description": f"a searched {name}",
        "type": "object",
        "properties": {
            "type": {"const": name},
            **{key: _option_schema(option, searchable=False) for key, option in settings.items()},
        },
        "required": ["type", *(key for key, option in settings.items() if option.default is REQUIRED)],
        "additionalProperties": False,
    }


def _is_required(item: Item) -> bool:
    """Whether an item must be given: it has no default, or a part of it has none."""
    match item:
        case Option():
            return item.default is REQUIRED
        case Listing():
            return False
        case Named():
            return True
        case Section():
            slot = bool(item.entries) and not item.absent
            return slot or any(_is_required(part) for part in item.fields.values())
