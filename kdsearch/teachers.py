"""All that can teach in a sweep, and the one network that teaches a trial.

Goes in: a `Lineup` and its trained networks. Comes out: a `Faculty` that travels to the workers, what was
measured of ensembles, and for each trial a `Classifier` that never learns.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kdsearch import lineup, spec_teacher
from kdsearch import teacher as teachers
from kdsearch.data import ImageData
from kdsearch.device import device_policy
from kdsearch.home import default_store
from kdsearch.models.build import Classifier
from kdsearch.output_cache import Shelf
from kdsearch.records import Choice, joined, teacher_name
from kdsearch.spec import BornAgain, Ensemble, TeacherSource
from kdsearch.teacher_model import Averaged, Frozen, Teacher


@dataclass(frozen=True, eq=False)
class Faculty:
    """Every network by name; '' is the only one's. Weights are numpy: Ray shares them on a node uncopied."""

    source: TeacherSource
    networks: Mapping[str, Teacher]

    def names(self, choice: Choice) -> list[str]:
        """The networks that teach a trial together."""
        source = spec_teacher.choices(self.source)[choice.name]
        match source:
            case Ensemble():
                return [joined(choice.name, member) for member in source.of]
            case BornAgain():
                return self._generations(choice.name, source)
        return [teacher_name(choice)]

    def _generations(self, name: str, source: BornAgain) -> list[str]:
        """The last generation, all of them, or the most accurate one: of equal ones the earliest."""
        every = self._every(name, source)
        if source.use == "best":
            return [max(every, key=lambda one: self.networks[one].report["accuracy"])]
        return every if source.use == "ensemble" else every[-1:]

    def _every(self, name: str, source: BornAgain) -> list[str]:
        return [lineup.generation(name, number) for number in range(source.generations + 1)]

    def combined(self, choice: Choice, models: Sequence[Frozen]) -> Classifier:
        """One classifier of the models that `names` lists."""
        source = spec_teacher.choices(self.source)[choice.name]
        if len(models) == 1:
            return models[0]
        if isinstance(source, BornAgain):
            return Averaged(models, [1 / len(models)] * len(models), "probabilities", lead=len(models) - 1)
        assert isinstance(source, Ensemble), "only ensembles and generations are averaged"
        weights = [choice.options.get(f"weights.{m}", 1 / len(models)) for m in source.of]
        return Averaged(models, weights, source.combine, lead=list(source.of).index(source.features_from))

    def leader(self, choice: Choice) -> str:
        """The network that the students' layer maps meet."""
        source = spec_teacher.choices(self.source)[choice.name]
        if isinstance(source, Ensemble):
            return joined(choice.name, source.features_from)
        return self.names(choice)[-1]

    def content(self, choice: Choice) -> str:
        """What decides what can be kept of those who teach a trial: of averaged probabilities, each one's."""
        names = self.names(choice)
        keys = [self.networks[name].key for name in names]
        if len(keys) == 1:
            return keys[0]
        source = spec_teacher.choices(self.source)[choice.name]
        is_mean = isinstance(source, Ensemble) and source.combine == "logits"
        weights = dict(choice.options) if is_mean else "apart"
        text = json.dumps([keys, self.networks[self.leader(choice)].key, weights], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def wholes(self, data: ImageData, device: str = "auto") -> Iterator[Whole]:
        """What teaches, but is not one network of its own: ensembles, the generation that is used.

        An ensemble with searched weights is measured with equal ones. Its params, MACs and megabytes are the
        sums of its members'. Of generations there is also the mean of all, whichever of them is used.
        """
        for name, source in spec_teacher.choices(self.source).items():
            if isinstance(source, BornAgain) and source.use != "ensemble":
                every = self._every(name, source)
                average = joined(name, "all generations")
                yield Whole(average, "average", self._measured(name, every, data, device), tuple(every))
            if isinstance(source, Ensemble | BornAgain):
                used = self.names(Choice(name))
                yield Whole(name, "teacher", self._measured(name, used, data, device), tuple(used))

    def _measured(self, name: str, names: Sequence[str], data: ImageData, device: str) -> Teacher:
        parts = [self.networks[one] for one in names]
        if len(parts) == 1:
            return parts[0]
        where = str(device_policy(device).device)
        model = self.combined(Choice(name), [part.build(where) for part in parts])
        sums = {one: sum(part.report[one] for part in parts) for one in ("params", "macs", "size_mb")}
        spent = {one: sum(part.report[one] for part in parts) for one in ("epochs", "time_s", "cpu_s")}
        untrained = {"source": "combined", "curve": [], "still_improving": False}
        report = {**teachers.validated(model, data, device), **sums, **spent, **untrained}
        source = spec_teacher.choices(self.source)[name]
        leading = self.networks[self.leader(Choice(name))] if isinstance(source, Ensemble) else parts[-1]
        combine = source.combine if isinstance(source, Ensemble) else "probabilities"
        content = json.dumps([combine, leading.key, [part.key for part in parts]])
        key = hashlib.sha256(content.encode()).hexdigest()
        return dataclasses.replace(leading, key=key, weights={}, report=report)


@dataclass(frozen=True, eq=False)
class Whole:
    """A teacher made of others: its name, what was measured, and the networks that it is made of."""

    name: str
    role: str
    teacher: Teacher
    of: tuple[str, ...]


class Classroom:
    """The teachers of one process: networks stay built for as long as one trial after another needs them."""

    def __init__(self, faculty: Faculty, device: str) -> None:
        self._faculty = faculty
        self._device = device
        self._built: dict[str, Frozen] = {}
        self._checked: set[str] = set()  # of the files of their outputs

    def shelf(self, choice: Choice, budget_bytes: float) -> Shelf | None:
        """Where the outputs of a trial's teacher are kept on this machine, None where they are not."""
        if not budget_bytes:
            return None
        return Shelf(default_store(), self._faculty.content(choice), budget_bytes, self._checked)

    def teacher(self, choice: Choice) -> Classifier:
        names, built = self._faculty.names(choice), self._built
        self._built = {name: built[name] for name in names if name in built}  # the others make room first
        del built
        for name in names:
            if name not in self._built:
                self._built[name] = self._faculty.networks[name].build(self._device)
        return self._faculty.combined(choice, [self._built[name] for name in names])
