"""The straight line from a checked spec to the report: data, teacher, search, report.

Goes in: a spec and an open journal. Comes out: the sweep's folder. What happened is in the journal
before anything acts on it, so the line can be cut anywhere and taken up again with `--resume`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from kdsearch import cli, data, guards, listing, session, space, tracking_uri, warm_start
from kdsearch import spec as specs
from kdsearch import teacher as teachers
from kdsearch.confirmation import front_of_record
from kdsearch.data import ImageData
from kdsearch.data.large import files_of
from kdsearch.journal import Journal
from kdsearch.layout import Shape, choose, journalled
from kdsearch.lineup import Lineup
from kdsearch.models.build import cost
from kdsearch.progress import Progress, all_failed, front_table
from kdsearch.records import Choice
from kdsearch.search import cluster, driver
from kdsearch.search.bands import CostOf
from kdsearch.search.conductor import Conductor
from kdsearch.search.sealed import SealedTest
from kdsearch.spec import SweepSpec
from kdsearch.teacher_phase import cautions, lay_out, load_teachers, stages_of, train_teachers
from kdsearch.teachers import Faculty
from kdsearch.tracking_process import TrackingProcess

if TYPE_CHECKING:
    from kdsearch.report import Report

# What a user can do something about: said without a traceback.
EXPECTED = (cluster.ClusterError, teachers.TeacherError, specs.SpecError, OSError, cli.NotFinishedError)
FINISH_DEADLINE_S = 60.0
INTERRUPT_DEADLINE_S = 10.0  # a person who pressed Ctrl-C waits no longer for MLflow


class AllFailedError(cli.NotFinishedError):
    """Of a search's trials none ended well; the message says why, and what can be done."""


def run(spec: SweepSpec, output: Path, journal: Journal, address: str | None, progress: Progress) -> None:
    """Raises UsageError and NotFinishedError; an interruption is journalled and passed on."""
    phases = Phases()
    with phases.of("data"):
        images, test = load_data(spec), load_test(spec)
    if images.unlabelled is not None:
        progress.say(f"without labels: {images.unlabelled.words}")
    cost_of = cost_function(images)
    lineup = lay_out(spec, cost_of)
    loaded = load_teachers(spec, images, lineup)
    stages = stages_of(lineup, loaded)
    check_num_trials(spec, stages)
    has_begun = warm_start.journalled(journal)
    begin_with = None if has_begun else warm_start.points(spec, stages, lineup.settled)
    if spec.confirm.seeds and not len(test):
        progress.say(f"{spec.data.dataset} has no test split: the front is confirmed on validation alone")
    session.begin(spec, journal, cost_of, sizes(images) | {"num_test": len(test)})
    if begin_with is not None and spec.search.warm_start:
        warm_start.announce(*begin_with, journal, progress.say)
    (output / "spec.yaml").write_text(yaml.safe_dump(specs.to_dict(spec), sort_keys=False))
    tracker = TrackingProcess(journal)
    try:
        with cluster.connected(address, cluster.cores_to_use(spec.resources)):
            if address:
                cluster.check_nodes(output, files_of([images.train.images, images.validation.images]))
            cluster.check_gpus(spec.resources)
            with phases.of("teacher"):
                faculty = train_teachers(spec, images, lineup, loaded, journal, progress)
                guards.announce(cautions(spec, images, faculty, lineup), journal, progress.say)
            with phases.of("layout"):
                layouts = choose_layouts(spec, images, address, journal, progress)
            with phases.of("search"):
                search(spec, images, faculty, test, lineup, output, journal, progress, layouts)
    except BaseException as error:
        is_interrupt = isinstance(error, KeyboardInterrupt)
        status = "interrupted" if is_interrupt else "failed"
        with contextlib.suppress(OSError):  # a full disk may be why we are here
            journal.append("sweep_ended", status=status, reason=repr(error), phases=phases.seconds)
        a_report = f"python -m kdsearch.report {shown(output)} for a report of what there is"
        if isinstance(error, teachers.TeacherError):
            progress.say(f"{status}; with another teacher it is another sweep: give it another --output")
        elif isinstance(error, AllFailedError):
            progress.say(f"{status}; everything is kept: {a_report}")
        else:
            progress.say(f"{status}; everything so far is kept: run the same command with --resume to go on,")
            progress.say(f"or {a_report}")
        tracker.finish(INTERRUPT_DEADLINE_S if is_interrupt else FINISH_DEADLINE_S)
        if isinstance(error, EXPECTED):
            raise cli.NotFinishedError(str(error)) from error
        raise
    journal.append("sweep_ended", status="finished", reason="", phases=phases.seconds)
    progress.say("writing the report")
    from kdsearch import report  # matplotlib takes a second: not before the first trial

    tracker.catch_up()
    try:
        conclude(report.write(output), progress)
        driver.remove_work(output)
    except OSError as error:
        advice = (
            f"the sweep is finished and kept: python -m kdsearch.report {shown(output)} writes the report"
        )
        raise cli.NotFinishedError(f"{error}; {advice}") from error
    finally:
        tracker.finish(FINISH_DEADLINE_S)


def conclude(done: Report, progress: Progress) -> None:
    """The front, and what to do with it."""
    progress.show(front_table(done.sweep))
    where = shown(done.folder)
    progress.say(f"report  {where}/report.html")
    progress.say(f"browse  {tracking_uri.ui_command()}   (there: Model training)")
    sizes = [student.cost["params"] for student in front_of_record(done.sweep)]
    if sizes:
        progress.say(
            f"pick    python -m kdsearch.pick {where} --max-params {statistics.median_low(sizes):.0f}"
        )


def shown(path: Path) -> str:
    """A path as a person would type it here."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


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


def load_test(spec: SweepSpec) -> SealedTest:
    """The test split, read once and sealed; none where nothing is confirmed, or the data set has none."""
    try:
        has_any = spec.confirm.seeds > 0 and data.has_test(spec.data)
        return SealedTest(data.load_test(spec.data) if has_any else None)
    except data.DataError as error:
        raise cli.UsageError(str(error)) from None


def sizes(images: ImageData) -> dict[str, Any]:
    """What the report says of the data."""
    more = images.unlabelled
    unlabelled = more and {"num": len(more), "words": more.words, "ratio": more.ratio, "key": more.key}
    return {
        "num_train": len(images.train),
        "num_validation": len(images.validation),
        "num_classes": images.num_classes,
        "image_size": images.image_size,
        "key": images.key,
        "unlabelled": unlabelled,
    }


def cost_function(images: ImageData) -> CostOf:
    """Size and work of a student on these images, without training it."""

    def cost_of(student: Choice) -> dict[str, float]:
        return cost(student.name, student.options, images.num_classes, images.in_channels, images.image_size)

    return cost_of


def check_num_trials(spec: SweepSpec, stages: specs.Stages) -> None:
    """Raises UsageError where the sampler lists more configurations than anyone can have meant."""
    try:
        listing.num_search_trials(spec, stages)
    except ValueError as error:
        raise cli.UsageError(f"search.sampler: {spec.search.sampler} lists {error}") from None


def choose_layouts(
    spec: SweepSpec, images: ImageData, address: str | None, journal: Journal, progress: Progress
) -> dict[str, str]:
    """The students' memory layout by family: measured when the sweep begins, in the journal ever after.

    A result depends on it in its last digits, so a sweep that has trials keeps what they were trained in.
    """
    kinds = {event["kind"] for event in journal.events}
    if not kinds & {"layout_chosen", "trial_started"} and not cluster.gpus_per_trial(spec.resources):
        shape = Shape(images.num_classes, images.in_channels, images.image_size)
        students = space.corner_students(spec)
        if address:
            found = driver.choose_layouts(students, shape)
        else:  # trials run on this machine, and a Ray process of their own would import torch for seconds
            found = choose(students, shape, teachers.default_store())
        journal.append("layout_chosen", layouts=[dataclasses.asdict(one) for one in found])
        for one in found:
            progress.say(f"layout  {one}")
    return journalled(journal.events)


def search(
    spec: SweepSpec,
    images: ImageData,
    faculty: Faculty,
    test: SealedTest,
    lineup: Lineup,
    output: Path,
    journal: Journal,
    progress: Progress,
    layouts: Mapping[str, str],
) -> None:
    """Run every trial that the spec still wants, of the search and after it.

    Raises AllFailedError.
    """
    stages = stages_of(lineup, faculty.networks)
    conductor = Conductor(spec, journal, stages, lineup.cost_of, settle=lineup.settled, num_test=len(test))
    progress.start_search(conductor.sweep, conductor.num_trials, lambda: conductor.left)
    try:
        driver.run_search(spec, conductor, images, faculty, test, output, progress.tick, layouts)
    finally:
        progress.end_search()
        reached = conductor.sweep.budget_reached
        if reached is not None:
            progress.say(f"  the search ended when {reached['text']} (search.{reached['budget']})")
    if conductor.all_failed():
        raise AllFailedError(all_failed(conductor.sweep, conductor.num_trials))
