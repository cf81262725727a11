"""Which networks a sweep's teacher is made of, in the order in which they are trained, and who teaches whom.

Goes in: a `SweepSpec` and a function that measures a network without training it. Comes out: a `Lineup`.
Without torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kdsearch import assistants, space, spec_teacher
from kdsearch.assistants import Rung
from kdsearch.models import family
from kdsearch.records import Choice, TrialConfig, joined
from kdsearch.spec import (
    Assistants,
    BornAgain,
    Ensemble,
    OneOf,
    Stages,
    SweepSpec,
    TeacherSource,
    TeacherSpec,
)

CostOf = Callable[[Choice], Mapping[str, float]]  # params, macs and size_mb
PartRole = Literal["teacher", "member", "generation", "assistant"]


@dataclass(frozen=True)
class Part:
    """A network to train or to load. `name` is '' for the only one; `learns_from` is the name of a part.

    `recipe` says where the spec has what it is trained by: teacher.resnet.train.
    """

    name: str
    role: PartRole
    network: TeacherSpec
    recipe: str
    learns_from: str | None = None

    @property
    def words(self) -> str:
        return f"{'assistant' if self.role == 'assistant' else 'teacher'} {self.name}".rstrip()


@dataclass(frozen=True)
class Lineup:
    """`parts`: a network comes after the one that it learns from; `ladders`: assistants by their teacher."""

    source: TeacherSource
    parts: tuple[Part, ...]
    ladders: Mapping[str, tuple[tuple[Rung, ...], float]]  # rungs, and the teacher's params
    cost_of: CostOf

    def stages(self, known: Mapping[str, int]) -> Stages:
        """How many stages each teacher has; `known` has those of networks by name, at least the loaded."""
        counts: dict[str, int] = {}
        for name, choice in spec_teacher.choices(self.source).items():
            network = spec_teacher.leader(choice)
            own = [known[p.name] for p in self.parts if p.network == network and p.name in known]
            if own:
                counts[name] = own[0]
            else:
                assert network.family is not None, "a checkpoint that brings its family is loaded"
                counts[name] = len(family(network.family).stages(network.options))
        return counts if isinstance(self.source, OneOf) else counts[""]

    def settled(self, config: TrialConfig) -> TrialConfig:
        """The configuration with its chain of assistants, which depends on the student's size."""
        teacher = config.teacher
        if "steps" not in teacher.options:
            return config
        rungs, size = self.ladders[teacher.name]
        source = spec_teacher.choices(self.source)[teacher.name]
        assert isinstance(source, Assistants), "only a chain has steps"
        params = self.cost_of(config.student)["params"]
        student = assistants.rounded_down(params, size)
        some = assistants.chain(rungs, size, student, teacher.options["steps"], source.max_compression)
        some = tuple(rung for rung in some if rung.params > params)  # the scale is coarse
        options = {"assistants": assistants.name(some)} if some else {}
        return dataclasses.replace(config, teacher=Choice(teacher.name, options))


def lay_out(spec: SweepSpec, cost_of: CostOf) -> Lineup:
    """The networks behind the spec's teacher. Raises ValueError where one cannot see such images."""
    ladders: dict[str, tuple[tuple[Rung, ...], float]] = {}
    parts: list[Part] = []
    for name, choice in spec_teacher.choices(spec.teacher).items():
        path = f"teacher.one_of.{name}" if name else "teacher"
        match choice:
            case TeacherSpec():
                parts.append(Part(name, "teacher", choice, _recipe(path, choice)))
            case Ensemble():
                parts += [
                    Part(joined(name, m), "member", member, _recipe(f"{path}.ensemble.of.{m}", member))
                    for m, member in choice.of.items()
                ]
            case BornAgain():
                parts += _generations(name, choice, f"{path}.born_again")
            case Assistants():
                rungs, params = _ladder(spec, choice, cost_of)
                ladders[name] = tuple(rungs), params
                parts += _chain(spec, name, choice, rungs, params, cost_of, f"{path}.assistants")
    return Lineup(spec.teacher, tuple(parts), ladders, cost_of)


def _recipe(path: str, network: TeacherSpec) -> str:
    return f"{path}.{network.family}.train"


def generation(name: str, number: int) -> str:
    """The name of a generation; 0 is the one trained on labels."""
    return joined(name, f"generation {number}")


def _generations(name: str, source: BornAgain, path: str) -> Iterator[Part]:
    """Every generation begins with weights of its own: its seed is the first one's and its number."""
    network = dataclasses.replace(source.network, min_accuracy=None)
    recipe = _recipe(path, network)
    yield Part(generation(name, 0), "generation", network, recipe)
    for number, temperature in enumerate(source.temperatures, start=1):
        lesson = {"temperature": temperature, "alpha": 1.0, "label_weight": source.label_weight}
        fresh = dataclasses.replace(source.network, min_accuracy=None, seed=source.network.seed + number)
        network = spec_teacher.with_lesson(fresh, network, **lesson)
        yield Part(generation(name, number), "generation", network, recipe, generation(name, number - 1))


def _ladder(spec: SweepSpec, source: Assistants, cost_of: CostOf) -> tuple[list[Rung], float]:
    def size_of(family: str, options: Mapping[str, Any]) -> float:
        return cost_of(Choice(family, options))["params"]

    smallest, _ = _student_sizes(spec, cost_of)
    assert source.network.family is not None, "assistants name their family"
    return (
        assistants.ladder(source, size_of, smallest),
        size_of(source.network.family, source.network.options),
    )


def _student_sizes(spec: SweepSpec, cost_of: CostOf) -> tuple[float, float]:
    sizes = [cost_of(student)["params"] for student in space.corner_students(spec)]
    return min(sizes), max(sizes)


def _chain(
    spec: SweepSpec,
    name: str,
    source: Assistants,
    rungs: list[Rung],
    params: float,
    cost_of: CostOf,
    path: str,
) -> Iterator[Part]:
    """The teacher, then every assistant that some student may need, each after the one that teaches it."""
    lesson = {"temperature": source.temperature, "alpha": source.alpha, "label_weight": 1 - source.alpha}
    networks = {"": source.network}
    yield Part(name, "teacher", source.network, _recipe(path, source.network))
    for some in assistants.chains(source, rungs, params, *_student_sizes(spec, cost_of)):
        above, own = assistants.name(some[:-1]), assistants.name(some)
        options = {**source.network.options, "width": some[-1].width}
        if "pretrained" in options:
            options["pretrained"] = False
        bare = dataclasses.replace(
            source.network, options=options, train=source.train, checkpoint=None, min_accuracy=None
        )
        networks[own] = spec_teacher.with_lesson(bare, networks[above], **lesson)
        yield Part(joined(name, own), "assistant", networks[own], f"{path}.train", joined(name, above))
