"""The spec's `teacher`: one network, or several that are chosen from, averaged or chained.

Goes in: the values of the `teacher` section as `spec_read` read them. Comes out: a `TeacherSource` of plain
frozen values, the problems that its parts make together, and its form in YAML. Without torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from kdsearch.models import family
from kdsearch.schema_networks import TEACHER, TRAIN_OPTIONS
from kdsearch.spec_read import INVALID, Dimension, Distribution
from kdsearch.spec_yaml import Keys, Problems, nearest_name

Values = Mapping[str, Any]
Options = dict[str, Any]

COMBINED = ("assistants", "born_again", "ensemble")


@dataclass(frozen=True)
class TeacherSpec:
    """One network: a family trained by `train`, or a family with the weights in `checkpoint`.

    Without a family the checkpoint is kdsearch's own and says the rest. `learns_from` is not written in a
    spec: generations and assistants get it when they are laid out (`kdsearch.lineup`).
    """

    family: str | None
    options: Options
    train: Options
    checkpoint: str | None
    min_accuracy: float | None
    seed: int = 0
    learns_from: Lesson | None = None


@dataclass(frozen=True)
class Lesson:
    """Plain kd from `teacher`: alpha * T^2 KL + label_weight * cross-entropy."""

    teacher: TeacherSpec
    temperature: float
    alpha: float
    label_weight: float


@dataclass(frozen=True)
class Ensemble:
    """`combine`: probabilities or logits; `weights`: equal or searched; `features_from` is a member."""

    of: dict[str, TeacherSpec]
    combine: str
    weights: str
    features_from: str
    min_accuracy: float | None


@dataclass(frozen=True)
class BornAgain:
    """`network` is generation 0, trained on labels; `temperatures` has one for each generation after it."""

    network: TeacherSpec
    temperatures: tuple[float, ...]
    label_weight: float
    use: str
    min_accuracy: float | None

    @property
    def generations(self) -> int:
        return len(self.temperatures)


@dataclass(frozen=True)
class Assistants:
    """`steps` None: as many as `max_compression` needs. `train` is the assistants' recipe."""

    network: TeacherSpec
    steps: Dimension
    max_compression: float
    temperature: float
    alpha: float
    train: Options
    min_accuracy: float | None


TeacherChoice: TypeAlias = TeacherSpec | Ensemble | BornAgain | Assistants


@dataclass(frozen=True)
class OneOf:
    """Teachers by name, a searched choice."""

    choices: dict[str, TeacherChoice]


TeacherSource: TypeAlias = TeacherChoice | OneOf


def choices(source: TeacherSource) -> dict[str, TeacherChoice]:
    """The teachers to choose from by name; the only one has the name ''."""
    return source.choices if isinstance(source, OneOf) else {"": source}


def leader(choice: TeacherChoice) -> TeacherSpec:
    """The network whose stages the students' layer maps meet."""
    match choice:
        case TeacherSpec():
            return choice
        case Ensemble():
            return choice.of[choice.features_from]
        case BornAgain() | Assistants():
            return choice.network


# Reading ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """A network somewhere in the section. `leads`: layer maps and spatial methods meet it."""

    path: Keys
    family: str
    options: Values
    leads: bool


def found_networks(section: Values, path: Keys = ("teacher",), leads: bool = True) -> Iterator[Found]:
    """Every family that is named anywhere in a `teacher` section that may hold INVALID values."""
    for name, entry in section.items():
        if name in TEACHER.fields or not isinstance(entry, Mapping):
            continue
        below = (*path, name)
        if name == "one_of":
            for key, choice in entry.items():
                yield from found_networks(_mapping(choice), (*below, key), leads)
        elif name == "ensemble":
            members = _mapping(entry["of"])
            first = entry["features_from"] or min(members, default="")
            for key, member in members.items():
                yield from found_networks(_mapping(member), (*below, "of", key), leads and key == first)
        elif name in COMBINED:
            for key, options in _families(entry):
                yield Found((*below, key), key, options, leads)
        else:
            yield Found(below, name, entry, leads)


def check(values: Values, problems: Problems) -> None:
    """What the `teacher` section's parts make together."""
    section = values["teacher"]
    if isinstance(section, Mapping):
        _check_choice(section, ("teacher",), problems)


def _check_choice(section: Values, path: Keys, problems: Problems) -> None:
    given = [name for name in section if name not in TEACHER.fields]
    given += ["checkpoint"] if section["checkpoint"] is not None else []
    if len(given) != 1:
        if problems.clean(".".join(map(str, path))):
            allowed = f"give one family or one checkpoint, here: {', '.join(given) or 'neither'}"
            problems.add(path, allowed)
        return
    kind = given[0]
    entry = section[kind]
    if not isinstance(entry, Mapping):
        return
    if kind == "one_of":
        for name, choice in entry.items():
            _check_below(choice, (*path, kind, name), problems)
    elif kind == "ensemble":
        _check_ensemble(entry, (*path, kind), problems)
    elif kind in COMBINED:
        _check_family(kind, entry, (*path, kind), problems)
    if kind in ("one_of", "ensemble") and section["seed"]:
        problems.add((*path, "seed"), f"give each network of {kind} a seed of its own", 0)


def _check_below(section: Any, path: Keys, problems: Problems) -> None:
    if isinstance(section, Mapping):
        _check_choice(section, path, problems)


def _check_ensemble(ensemble: Values, path: Keys, problems: Problems) -> None:
    members, first = ensemble["of"], ensemble["features_from"]
    if not isinstance(members, Mapping):
        return
    for name, member in members.items():
        _check_below(member, (*path, "of", name), problems)
        twins = [other for other in members if other < name and members[other] == member]
        if twins:
            allowed = f"the same network as {twins[0]}: give it another seed"
            problems.add((*path, "of", name), allowed)
    if first not in (None, INVALID) and first not in members:
        allowed = f"a member: {', '.join(members)}"
        problems.add((*path, "features_from"), allowed, nearest_name(str(first), members))


def _check_family(kind: str, section: Values, path: Keys, problems: Problems) -> None:
    names = [name for name, _ in _families(section)]
    if len(names) != 1:
        if problems.clean(".".join(map(str, path))):
            problems.add(path, f"give one family, here: {', '.join(names) or 'none'}")
        return
    if kind == "assistants" and "width" not in family(names[0]).options:
        problems.add((*path, names[0]), "assistants need a family that has a width")
    temperature, generations = section["temperature"], section.get("generations")
    sound = kind == "born_again" and INVALID not in (temperature, generations)
    if sound and len(temperature) not in (1, generations):
        allowed = f"one number, or one for each of the {generations} generations"
        problems.add((*path, "temperature"), allowed, value=list(temperature))


def recipe(given: Values, train: Values) -> Options:
    """The teacher's training: what its section gives, then what is fixed for the students, then defaults."""
    shared = ("epochs", "batch_size", "optimizer", "weight_decay", "schedule", "milestones", "gamma")
    merged = {name: option.default for name, option in TRAIN_OPTIONS.items()}
    merged |= {name: train[name] for name in shared if not isinstance(train[name], Distribution)}
    merged |= {name: value for name, value in given.items() if value is not None}
    if given["milestones"] is None and merged["schedule"] != "step":
        merged["milestones"] = ()
    if given["lr"] is None:
        merged["lr"] = 0.1 if merged["optimizer"] == "sgd" else 1e-3
    return merged


def source(section: Values, train: Values) -> TeacherSource:
    """The values of a sound `teacher` section; `train` is the students' recipe."""
    if "one_of" not in section:
        return _choice(section, train)
    named = {name: _inherit(choice, section) for name, choice in section["one_of"].items()}
    return OneOf({name: _choice(choice, train) for name, choice in named.items()})


def _inherit(choice: Values, section: Values) -> Values:
    """A choice without a `min_accuracy` of its own takes the section's."""
    own = choice["min_accuracy"]
    return {**choice, "min_accuracy": section["min_accuracy"] if own is None else own}


def _choice(section: Values, train: Values) -> TeacherChoice:
    min_accuracy, seed = section["min_accuracy"], section["seed"]
    if "ensemble" in section:
        ensemble = section["ensemble"]
        return Ensemble(
            of={name: _network(member, train) for name, member in ensemble["of"].items()},
            combine=ensemble["combine"],
            weights=ensemble["weights"],
            features_from=ensemble["features_from"] or min(ensemble["of"]),
            min_accuracy=min_accuracy,
        )
    if "born_again" in section:
        born_again = section["born_again"]
        temperatures = born_again["temperature"]
        repeated = temperatures * born_again["generations"] if len(temperatures) == 1 else temperatures
        network = _family_network(born_again, None, seed, train)
        return BornAgain(network, repeated, born_again["label_weight"], born_again["use"], min_accuracy)
    if "assistants" in section:
        chain = section["assistants"]
        network = _family_network(chain, min_accuracy, seed, train)
        # What the assistants' own recipe leaves open, the teacher's says, where it has one.
        above = _families(chain)[0][1]["train"]
        given = {name: above[name] if value is None else value for name, value in chain["train"].items()}
        return Assistants(
            network=network,
            **{name: chain[name] for name in ("steps", "max_compression", "temperature", "alpha")},
            train=recipe(given, train),
            min_accuracy=min_accuracy,
        )
    return _network(section, train)


def _network(section: Values, train: Values) -> TeacherSpec:
    families = _families(section)
    if families:
        return _family_network(section, section["min_accuracy"], section["seed"], train)
    common = {name: section[name] for name in ("checkpoint", "min_accuracy", "seed")}
    return TeacherSpec(family=None, options={}, train={}, **common)


def _family_network(section: Values, min_accuracy: float | None, seed: int, train: Values) -> TeacherSpec:
    name, values = _families(section)[0]
    options = dict(values)
    given, checkpoint = options.pop("train"), options.pop("checkpoint", None)
    learned = {} if checkpoint is not None else recipe(given, train)
    return TeacherSpec(name, options, learned, checkpoint, min_accuracy, seed)


def _families(section: Values) -> list[tuple[str, Values]]:
    """The families that are given directly in a section."""
    return [
        (name, entry) for name, entry in section.items() if _is_family(name) and isinstance(entry, Mapping)
    ]


def _is_family(name: str) -> bool:
    try:
        return bool(family(name))
    except KeyError:
        return False


def _mapping(value: Any) -> Values:
    return value if isinstance(value, Mapping) else {}


# Writing ---------------------------------------------------------------------------------------------


def written(source: TeacherSource) -> Options:
    """The section in the form of the YAML; `source` reads it back."""
    match source:
        case OneOf(named):
            return {"one_of": {name: written(choice) for name, choice in named.items()}}
        case TeacherSpec():
            return {**_written_network(source), "min_accuracy": source.min_accuracy, "seed": source.seed}
        case Ensemble():
            entry: Options = {
                **{name: getattr(source, name) for name in ("combine", "weights", "features_from")},
                "of": {name: written(member) for name, member in source.of.items()},
            }
            return {"ensemble": entry, "min_accuracy": source.min_accuracy}
        case BornAgain():
            entry = {
                "generations": source.generations,
                "temperature": source.temperatures,
                **{name: getattr(source, name) for name in ("label_weight", "use")},
            }
            kind = "born_again"
        case Assistants():
            names = ("steps", "max_compression", "temperature", "alpha", "train")
            entry = {name: getattr(source, name) for name in names}
            kind = "assistants"
    network = source.network
    common = {"min_accuracy": source.min_accuracy, "seed": network.seed}
    return {kind: {**_written_network(network), **entry}, **common}


def _written_network(network: TeacherSpec) -> Options:
    if network.family is None:
        return {"checkpoint": network.checkpoint}
    if network.checkpoint is None:
        return {network.family: {**network.options, "train": network.train}}
    return {network.family: {**network.options, "checkpoint": network.checkpoint}}


def with_lesson(network: TeacherSpec, teacher: TeacherSpec, **lesson: float) -> TeacherSpec:
    """The same network, taught by another."""
    return dataclasses.replace(network, learns_from=Lesson(teacher, **lesson))
