"""The straight line from a checked spec to the report: data, teacher, search, report.

Goes in: a spec and an open journal. Comes out: the sweep's folder. What happened is in the journal
before anything acts on it, so the line can be cut anywhere and taken up again with `--resume`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from kdsearch import cli, data, report, session, tracking
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

INTERRUPT_DEADLINE_S = 10.0  # a person who pressed Ctrl-C waits no longer for MLflow


def run(spec: SweepSpec, output: Path, journal: Journal, address: str | None, progress: Progress) -> None:
    """Raises UsageError and NotFinishedError; an interruption is journalled and passed on."""
    phases = Phases()
    with phases.of("data"):
        images = load_data(spec)
    cost_of = cost_function(images)
    session.begin(spec, journal, cost_of, sizes(images))
    (output / "spec.yaml").write_text(yaml.safe_dump(specs.to_dict(spec), sort_keys=False))
    tracker = tracking.Tracker(list(journal.events), functools.partial(journal.append, "mlflow_run"))
    journal.listeners.append(tracker.put)
    try:
        with cluster.connected(address):
            if address:
                cluster.check_nodes(output)
            slots = cluster.num_slots(spec.resources)
            with phases.of("teacher"):
                teacher = prepare_teacher(spec, images, progress)
            journal.append("teacher_ready", **described(teacher))
            with phases.of("search"):
                search(spec, images, teacher, output, journal, cost_of, progress)
        journal.append("sweep_ended", status="finished", reason="", phases=phases.seconds, slots=slots)
        progress.say("writing the report")
        tracker.catch_up()
        conclude(report.write(output), progress)
        driver.remove_work(output)
    except (KeyboardInterrupt, cli.Terminated):
        journal.append("sweep_ended", status="interrupted", reason="signal", phases=phases.seconds, slots=0)
        progress.say(f"interrupted; everything up to here is kept. {how_to_go_on(output)}")
        tracker.finish(output, INTERRUPT_DEADLINE_S)
        raise
    except (
        cluster.ClusterError,
        teachers.TeacherError,
        specs.SpecError,
        OSError,
        cli.NotFinishedError,
    ) as error:
        journal.append("sweep_ended", status="failed", reason=str(error), phases=phases.seconds, slots=0)
        tracker.finish(output)
        raise cli.NotFinishedError(f"{error}\n  {how_to_go_on(output)}") from error
    tracker.finish(output)


def conclude(done: report.Report, progress: Progress) -> None:
    """The front, and what to do with it."""
    progress.show(front_table(done.sweep))
    where = shown(done.folder)
    progress.say(f"report  {where}/report.html")
    progress.say(f"browse  {tracking.ui_command()}")
    limit = count(done.sweep.header["bands"]["edges"][-2])
    progress.say(f"pick    python -m kdsearch.pick {where} --max-params {limit}")


def how_to_go_on(output: Path) -> str:
    return (
        f"Mend the cause if there is one and run the same command with --resume (--output {shown(output)})."
    )


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


def prepare_teacher(spec: SweepSpec, images: ImageData, progress: Progress) -> Teacher:
    """Find, load or train the teacher, show what it is, and refuse one that did not converge."""
    teacher = teachers.prepare(spec, images, progress=progress.teacher_epoch, trainer=driver.train_teacher)
    for line in teachers.describe(teacher):
        progress.say(line)
    teachers.check_converged(teacher, spec)
    return teacher


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
    """Run every trial that the spec still wants. Raises NotFinishedError on mass failure."""
    num_stages = len(family(teacher.family).stages(teacher.options))
    specs.check_layer_maps(spec, num_stages)
    conductor = Conductor(spec, journal, num_stages, cost_of)
    progress.start_search(conductor.sweep, spec.search.trials)
    try:
        driver.run_search(spec, conductor, images, teacher, output, progress.tick)
    finally:
        progress.end_search()
    if conductor.mass_failure:
        errors = sorted({trial.error for trial in conductor.sweep.trials.values() if trial.error})
        raise cli.NotFinishedError(
            "every search trial failed:\n" + "\n".join(f"  {error}" for error in errors[:3])
        )
