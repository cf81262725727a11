"""A sweep's teachers: laid out from its spec, loaded or trained in turn, checked, and journalled.

Goes in: a spec and the data. Comes out: a `Faculty`, and what is worth a warning before students learn of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from kdsearch import cli, guards, spec_teacher
from kdsearch import lineup as lineups
from kdsearch import spec as specs
from kdsearch import teacher as teachers
from kdsearch.confidence import mean_confidences
from kdsearch.data import AUGMENT_VERSION, ImageData
from kdsearch.device import device_policy
from kdsearch.journal import Journal
from kdsearch.lineup import Lineup, Part
from kdsearch.models import family
from kdsearch.progress import Progress
from kdsearch.records import Choice
from kdsearch.search import driver
from kdsearch.search.bands import CostOf, extreme_students
from kdsearch.spec import SweepSpec
from kdsearch.teacher import Teacher
from kdsearch.teachers import Faculty


def lay_out(spec: SweepSpec, cost_of: CostOf) -> Lineup:
    """The networks that the teacher is made of. Raises UsageError where one does not suit the images."""
    try:
        return lineups.lay_out(spec, cost_of)
    except ValueError as error:
        raise cli.UsageError(f"teacher: {error}") from None


def load_teachers(spec: SweepSpec, images: ImageData, lineup: Lineup) -> dict[str, Teacher]:
    """The teachers that come from a checkpoint, by name. Raises UsageError where one does not fit."""
    try:
        loaded = {
            part.name: teachers.load_checkpoint_teacher(teachers.with_network(spec, part.network), images)
            for part in lineup.parts
            if part.network.checkpoint is not None
        }
        leaders = [spec_teacher.leader(choice) for choice in spec_teacher.choices(spec.teacher).values()]
        leading = {part.name for part in lineup.parts if part.network in leaders}
        specs.check_layer_maps(spec, {n: num_stages(t) for n, t in loaded.items() if n in leading})
        for name in leading & loaded.keys():
            specs.check_teacher_family(spec, loaded[name].family)
    except (teachers.TeacherError, specs.SpecError) as error:
        raise cli.UsageError(str(error)) from None
    return loaded


def stages_of(lineup: Lineup, loaded: Mapping[str, Teacher]) -> specs.Stages:
    """How many stages each teacher has, whether it is there by now or still to be trained."""
    return lineup.stages({name: num_stages(teacher) for name, teacher in loaded.items()})


def train_teachers(
    spec: SweepSpec,
    images: ImageData,
    lineup: Lineup,
    loaded: Mapping[str, Teacher],
    journal: Journal,
    progress: Progress,
) -> Faculty:
    """Every network that teaches, in turn: loaded, stored, or trained by Ray where the resources are.

    They are trained on the labelled images alone.
    """
    images = dataclasses.replace(images, unlabelled=None)
    networks: dict[str, Teacher] = {}
    for number, part in enumerate(lineup.parts, start=1):
        own = teachers.with_network(spec, part.network)
        if part.name:
            progress.say(f"{part.words} ({number} of {len(lineup.parts)})")
        above = None if part.learns_from is None else networks[part.learns_from]
        teacher = loaded.get(part.name) or teachers.prepare(
            own, images, progress=progress.teacher_epoch, trainer=driver.train_teacher, above=above
        )
        networks[part.name] = teacher
        asked = part.network.min_accuracy
        accept(teacher, asked, journal, progress, part.name, part.recipe, **about(part))
    faculty = Faculty(spec.teacher, networks)
    recipes = {part.name: part.recipe for part in lineup.parts}
    for whole in faculty.wholes(images):
        progress.say(f"teacher {whole.name or 'in all'}: {', '.join(whole.of)}")
        is_teacher = whole.role == "teacher"
        asked = spec_teacher.choices(spec.teacher)[whole.name].min_accuracy if is_teacher else None
        more = {"of": list(whole.of)} | ({} if is_teacher else {"role": whole.role})
        accept(whole.teacher, asked, journal, progress, whole.name, recipes[whole.of[-1]], **more)
    return faculty


def about(part: Part) -> dict[str, Any]:
    """What the journal says of a network beyond its name: nothing of one that is a teacher by itself."""
    lesson = part.network.learns_from
    role = {} if part.role == "teacher" else {"role": part.role}
    if lesson is None:
        return role
    weights = {name: getattr(lesson, name) for name in teachers.LESSON}
    return {**role, "learns_from": part.learns_from, "lesson": weights}


def accept(
    teacher: Teacher,
    asked: float | None,
    journal: Journal,
    progress: Progress,
    name: str,
    recipe: str,
    **more: Any,
) -> None:
    """Show the teacher and journal it. Refuses one that did not converge, or is not the one of before."""
    whole = "role" not in more
    for line in teachers.describe(teacher) if whole else [teachers.summarised(teacher)]:
        progress.say(line)
    teachers.check_converged(teacher, asked, recipe)
    ready = [event for event in journal.events if event["kind"] == "teacher_ready"]
    before = [event["key"] for event in ready if event.get("name", "") == name]
    if before and before[-1] != teacher.key:
        which = f"the teacher {name}" if name else "the teacher"
        raise teachers.TeacherError(f"{which} is not the one that this sweep began with")
    named = {"name": name} if name else {}
    journal.append("teacher_ready", **named, **described(teacher), **more)


def cautions(spec: SweepSpec, images: ImageData, faculty: Faculty, lineup: Lineup) -> list[guards.Caution]:
    """What is worth a warning before the search, from the spec, the sizes and a look at every teacher."""
    cost_of = lineup.cost_of
    smallest = extreme_students(spec, cost_of)[0]
    found = guards.of_spec(spec, images.num_classes)
    for part in lineup.parts:
        report, epochs = faculty.networks[part.name].report, f"{part.recipe}.epochs"
        found += guards.of_teacher(report, images.mean, images.std, f"the {part.words}", epochs)
    for name, source in spec_teacher.choices(spec.teacher).items():
        teacher = faculty.networks[faculty.leader(Choice(name))]
        sure = confidences(teacher, images, spec.data.augment)
        found += guards.of_confidence(sure, guards.named(name))
        if not isinstance(source, specs.Assistants):
            params = cost_of(smallest)["params"], teacher.report["params"]
            found += guards.of_sizes(smallest.name, *params, guards.named(name))
    return found


def confidences(
    teacher: Teacher, images: ImageData, augment: Sequence[tuple[str, Mapping[str, Any]]]
) -> dict[str, float]:
    """`mean_confidences`, which the first sweep of the teacher on these images measures for all others."""
    device = device_policy().device
    identity = {
        "what": "mean confidences",
        "version": AUGMENT_VERSION,
        "teacher": teacher.key,
        "data": images.key,
        "unlabelled": None if images.unlabelled is None else images.unlabelled.key,
        "augment": [[name, dict(options)] for name, options in augment],
        "device": device.type,
    }
    return teachers.remembered(
        identity,
        lambda: mean_confidences(teacher.build(str(device)), images, augment, device),
        teachers.default_store(),
    )


def num_stages(teacher: Teacher) -> int:
    return len(family(teacher.family).stages(teacher.options))


def described(teacher: Teacher) -> dict[str, Any]:
    """A teacher as the journal keeps it."""
    return {"key": teacher.key, "family": teacher.family, "options": dict(teacher.options), **teacher.report}
