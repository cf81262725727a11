"""What a spec may say, as data: the description that both the reader and the JSON Schema follow.

Goes in: the tables of data sets and augmentations, and the sections of `schema_networks` and
`schema_distill`. Comes out: `SPEC`, a tree of `schema_items`, and `json_schema()`, the same for editors.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from kdsearch.data import AUGMENTATIONS, DATASETS
from kdsearch.options import REQUIRED, Option
from kdsearch.schema_distill import DISTILL
from kdsearch.schema_items import Item, Listing, Named, Section
from kdsearch.schema_items import fixed as _fixed
from kdsearch.schema_items import seed as _seed
from kdsearch.schema_networks import STUDENT, TEACHER, TRAIN_OPTIONS

COSTS = ("macs", "params", "size_mb")
LISTING = ("grid", "one_at_a_time")  # samplers that know their trials from the start
SAMPLERS = ("ehvi", *LISTING, "tpe")

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

EARLY_STOPPING = Section(
    "which trials give up early",
    {
        "scheduler": _fixed(
            "str",
            None,
            "the rule that stops trials: pareto keeps what is near the front or good for its size, asha what "
            "is accurate, whatever its size; default pareto, none with grid and one_at_a_time",
            choices=("asha", "none", "pareto"),
        ),
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
        "time_s": _fixed(
            "float", None, "seconds of searching after which no further search trial starts", low=1
        ),
        "device_s": _fixed(
            "float",
            None,
            "GPU-seconds of the epochs of search trials and floors, CPU-seconds of those without a GPU, "
            "after which no further search trial starts",
            low=1,
        ),
        "hypervolume": _fixed(
            "float",
            None,
            "as in summary.json: once it is reached no further search trial starts",
            low=0.001,
            high=1,
        ),
        "patience": _fixed(
            "int",
            None,
            "trials that end without improving the hypervolume, before no further one starts",
            low=1,
        ),
        "warm_start": _fixed(
            "list", (), "folders of earlier sweeps on this data set, whose best students are tried first"
        ),
        "sampler": _fixed(
            "str",
            "ehvi",
            "ehvi proposes what should enlarge the front most for its work; tpe is Optuna's; grid lists "
            "every configuration; one_at_a_time lists the first value of everything (of a slot none, else "
            "the first by name) and each further value alone",
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
    {
        "seeds": _fixed(
            "int",
            None,
            "fresh seeds for each student on the front, each beside two controls; by default 3, and 0 where "
            "the sampler lists its trials; 0: the front stays as the search found it",
            low=0,
        ),
        "tuning": _fixed(
            "int",
            4,
            "trials for the lr and weight decay of each kind of control, in every size band that has "
            "students near the front; none where the spec searches neither",
            low=1,
        ),
    },
    fixed=True,
)

EVALUATE = _fixed(
    "str",
    "rungs",
    "when students are validated: where early stopping compares them and at the end, or after every epoch, "
    "which learning curves need",
    choices=("every_epoch", "rungs"),
)

RESOURCES = Section(
    "what one trial occupies",
    {
        "cpus_per_trial": _fixed("float", 1.0, "CPU cores", low=0),
        "gpus_per_trial": _fixed(
            "float", 0.0, "share of a GPU; below 1 several trials use one", low=0, high=1
        ),
        "max_concurrent": _fixed("int", None, "trials at once; default as many as fit", low=1),
        "cache_gb": _fixed(
            "float",
            10.0,
            "10^9 bytes of teacher outputs kept on each machine; 0: the teacher runs live",
            low=0,
        ),
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
        "train": Section("the students' recipe", TRAIN_OPTIONS | {"evaluate": EVALUATE}),
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
