"""The straight line from a checked spec to the report: data, teacher, search, report.

Goes in: a spec and an open journal. Comes out: the sweep's folder. What happened is in the journal
before anything acts on it, so the line can be cut anywhere and taken up again with `--resume`.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from kdsearch import cli, data, report, session, space, tracking
from kdsearch import spec as specs
from kdsearch import teacher as teachers
from kdsearch.data import ImageData
from kdsearch.journal import Journal
from kdsearch.models import family
from kdsearch.models.build import cost
from kdsearch.progress import Progress, count, front_table
from kdsearch.records import Choice
from kdsearch.search import cluster, driver
from kdsearch.search.bands import CostOf
from kdsearch.search.conductor import Conductor
from kdsearch.spec import SweepSpec
from kdsearch.teacher import Teacher

# What a user can do something about: said without a traceback.
EXPECTED = (cluster.ClusterError, teachers.TeacherError, specs.SpecError, OSError, cli.NotFinishedError)
FINISH_DEADLINE_S = 60.0
INTERRUPT_DEADLINE_S = 10.0  # a person who pressed Ctrl-C waits no longer for MLflow


def run(spec: SweepSpec, output: Path, journal: Journal, address: str | None, progress: Progress) -> None:
    """Raises UsageError and NotFinishedError; an interruption is journalled and passed on."""
    phases = Phases()
    with phases.of("data"):
        images = load_data(spec)
    loaded = load_teacher(spec, images)
    check_num_trials(spec, loaded)
    if spec.confirm.seeds:
        progress.say("confirm.seeds is not used yet: the front is not retrained, and the report says so")
    cost_of = cost_function(images)
    session.begin(spec, journal, cost_of, sizes(images))
    (output / "spec.yaml").write_text(yaml.safe_dump(specs.to_dict(spec), sort_keys=False))
    tracker = tracking.Tracker(list(journal.events), functools.partial(journal.append, "mlflow_run"))
    journal.listeners.append(tracker.put)
    try:
        with cluster.connected(address, cluster.cores_to_use(spec.resources)):
            if address:
                cluster.check_nodes(output)
            with phases.of("teacher"):
                teacher = loaded or train_teacher(spec, images, progress)
                accept(teacher, spec, journal, progress)
            with phases.of("search"):
                search(spec, images, teacher, output, journal, cost_of, progress)
    except BaseException as error:
        is_interrupt = isinstance(error, KeyboardInterrupt)
        status = "interrupted" if is_interrupt else "failed"
        with contextlib.suppress(OSError):  # a full disk may be why we are here
            journal.append("sweep_ended", status=status, reason=repr(error), phases=phases.seconds)
        where = shown(output)
        progress.say(f"{status}; everything so far is kept: run the same command with --resume to go on,")
        progress.say(f"or python -m kdsearch.report {where} for a report of what there is")
        tracker.finish(output, INTERRUPT_DEADLINE_S if is_interrupt else FINISH_DEADLINE_S)
        if isinstance(error, EXPECTED):
            raise cli.NotFinishedError(str(error)) from error
        raise
    journal.append("sweep_ended", status="finished", reason="", phases=phases.seconds)
    progress.say("writing the report")
    tracker.catch_up()
    conclude(report.write(output), progress)
    driver.remove_work(output)
    tracker.finish(output, FINISH_DEADLINE_S)


def conclude(done: report.Report, progress: Progress) -> None:
    """The front, and what to do with it."""
    progress.show(front_table(done.sweep))
    where = shown(done.folder)
    progress.say(f"report  {where}/report.html")
    progress.say(f"browse  {tracking.ui_command()}")
    limit = count(done.sweep.header["bands"]["edges"][-2])
    progress.say(f"pick    python -m kdsearch.pick {where} --max-params {limit}")


def shown(path: Path) -> str:
    """A path as a person would type it here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


class Phases:
    """Wall seconds by phase, in the order in which they began."""

    def __init__(self) -> None:
        self.seconds: dict[str, dict[str, float]] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        wall, cpu = time.monotonic(), time.process_time()
        try:
            yield
        finally:
            self.seconds[name] = {"wall_s": time.monotonic() - wall, "cpu_s": time.process_time() - cpu}


def load_data(spec: SweepSpec) -> ImageData:
    try:
        return data.load(spec.data)
    except data.DataError as error:
        raise cli.UsageError(str(error)) from None


def sizes(images: ImageData) -> dict[str, Any]:
    """What the report says of the data."""
    return {
        "num_train": len(images.train),
        "num_validation": len(images.validation),
        "num_classes": images.num_classes,
        "image_size": images.image_size,
        "key": images.key,
    }


def cost_function(images: ImageData) -> CostOf:
    """Size and work of a student on these images, without training it."""

    def cost_of(student: Choice) -> dict[str, float]:
        return cost(student.name, student.options, images.num_classes, images.in_channels, images.image_size)

    return cost_of


def load_teacher(spec: SweepSpec, images: ImageData) -> Teacher | None:
    """The teacher of `teacher.checkpoint`, None without one. Raises UsageError where it does not fit."""
    if spec.teacher.checkpoint is None:
        return None
    try:
        teacher = teachers.load_checkpoint_teacher(spec, images)
        specs.check_layer_maps(spec, num_stages(teacher))
        specs.check_teacher_family(spec, teacher.family)
    except (teachers.TeacherError, specs.SpecError) as error:
        raise cli.UsageError(str(error)) from None
    return teacher


def check_num_trials(spec: SweepSpec, loaded: Teacher | None) -> None:
    """Raises UsageError where the sampler lists more configurations than anyone can have meant."""
    stages = specs.num_teacher_stages(spec) if loaded is None else num_stages(loaded)
    assert stages is not None  # the spec names a family or a checkpoint
    try:
        space.num_search_trials(spec, stages)
    except ValueError as error:
        raise cli.UsageError(f"search.sampler: {spec.search.sampler} lists {error}") from None


def train_teacher(spec: SweepSpec, images: ImageData, progress: Progress) -> Teacher:
    """The stored teacher, or a new one, trained by Ray where the resources are."""
    return teachers.prepare(spec, images, progress=progress.teacher_epoch, trainer=driver.train_teacher)


def accept(teacher: Teacher, spec: SweepSpec, journal: Journal, progress: Progress) -> None:
    """Show the teacher and journal it. Refuses one that did not converge, or is not the one of before."""
    for line in teachers.describe(teacher):
        progress.say(line)
    teachers.check_converged(teacher, spec)
    before = [event["key"] for event in journal.events if event["kind"] == "teacher_ready"]
    if before and before[-1] != teacher.key:
        raise cli.NotFinishedError(
            "the teacher is not the one that this sweep began with; use another --output"
        )
    journal.append("teacher_ready", **described(teacher))


def num_stages(teacher: Teacher) -> int:
    return len(family(teacher.family).stages(teacher.options))


def described(teacher: Teacher) -> dict[str, Any]:
    """A teacher as the journal keeps it."""
    return {"key": teacher.key, "family": teacher.family, "options": dict(teacher.options), **teacher.report}


def search(
    spec: SweepSpec,
    images: ImageData,
    teacher: Teacher,
    output: Path,
    journal: Journal,
    cost_of: CostOf,
    progress: Progress,
) -> None:
    """Run every trial that the spec still wants. Raises NotFinishedError when all of them failed."""
    conductor = Conductor(spec, journal, num_stages(teacher), cost_of)
    progress.start_search(conductor.sweep, conductor.num_trials)
    try:
        driver.run_search(spec, conductor, images, teacher, output, progress.tick)
    finally:
        progress.end_search()
    if conductor.all_failed():
        errors = sorted({trial.error for trial in conductor.sweep.trials.values() if trial.error})
        raise cli.NotFinishedError(
            "every search trial failed:\n" + "\n".join(f"  {error}" for error in errors[:3])
        )
