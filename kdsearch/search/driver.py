"""Ray runs what the conductor decides.

Goes in: the spec, data, teachers and a `Conductor`. Comes out: nothing but journal events. The searcher
and the scheduler are shells: Tune calls the scheduler first with every result, so the journal is written
there, before anything else hears of it.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdsearch.search import cluster  # before ray.tune: sets its environment

import ray  # isort: skip
import torch
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from kdsearch import layout
from kdsearch import teacher as teachers
from kdsearch.checkpoint import State
from kdsearch.data import ImageData
from kdsearch.device import GPUS_UNUSED, device_policy
from kdsearch.home import default_store
from kdsearch.layout import Layout
from kdsearch.records import Choice
from kdsearch.search.conductor import Conductor
from kdsearch.search.messages import Report
from kdsearch.search.sealed import SealedTest
from kdsearch.search.worker import StudentWorker
from kdsearch.spec import SweepSpec
from kdsearch.teacher_model import Teacher
from kdsearch.teachers import Faculty

logger = logging.getLogger(__name__)


def lookahead(slots: int) -> int:
    """Trials proposed ahead of a free slot, so that a worker process finds its next task at once.

    Without a waiting task Tune ends the process and starts another, which imports torch for seconds.
    """
    return math.ceil(slots / 4)


def run_search(
    spec: SweepSpec,
    conductor: Conductor,
    data: ImageData,
    faculty: Faculty,
    test: SealedTest,
    output: Path,
    tick: Callable[[], None],
    layouts: Mapping[str, str],
) -> None:
    """Train students until the conductor has no more trials. `tick` and errors are those of `run_trials`.

    `layouts` are the memory layouts of the families that do not keep the usual one.
    """
    if ray.cluster_resources().get("GPU", 0) and not spec.resources.gpus_per_trial:
        logger.warning(GPUS_UNUSED)
    trainable = tune.with_parameters(
        StudentWorker,
        data=data,
        faculty=faculty,
        test=test,
        augment=spec.data.augment,
        output=str(output),
        cpus=cluster.cpus_per_trial(spec.resources),
        gpus=cluster.gpus_per_trial(spec.resources),
        cache_gb=spec.resources.cache_gb,
        layouts=layouts,
    )
    run_trials(spec, conductor, trainable, output, tick)


def run_trials(
    spec: SweepSpec, conductor: Conductor, trainable: Any, output: Path, tick: Callable[[], None]
) -> None:
    """Hand the conductor's tasks to Ray actors of `trainable`, and their reports back to the conductor.

    An actor gets a `Task` with its configuration or with `reset_config`, and answers each `step` with a
    `Report`, both as JSON, until it is stopped. `tick` is called about ten times a second.
    Raises ClusterError when Ray gives up, OSError when the sweep's folder cannot be written.
    """
    fitting = cluster.num_fitting(spec.resources)
    slots = min(fitting, spec.resources.max_concurrent or fitting)
    max_live = slots + lookahead(slots) if slots == fitting else slots  # else the next trial would run, too
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(max_live)  # else Tune starts one process after another
    resources = {"cpu": cluster.cpus_per_trial(spec.resources), "gpu": cluster.gpus_per_trial(spec.resources)}
    shells = _Shells(conductor, max_live, output, tick)
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            search_alg=_QueueSearcher(shells),
            scheduler=_JournalScheduler(shells),
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.config["name"],
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(output / "work"),
            verbose=0,
            stop=_Stop(shells),
            callbacks=[_Ticker(shells)],
            failure_config=tune.FailureConfig(max_failures=0, fail_fast=False),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )
    try:
        tuner.fit()
    except Exception as error:
        if shells.problem is None:
            raise cluster.ClusterError(f"Ray Tune stopped: {last_line(str(error))}") from error
    if shells.problem is not None:
        raise shells.problem


class _Shells:
    """What Tune's parts share. Tune wraps exceptions in its own: the conductor's first is kept here."""

    def __init__(self, conductor: Conductor, max_live: int, output: Path, tick: Callable[[], None]) -> None:
        self.conductor = conductor
        self.max_live = max_live
        self.output = output
        self.tick = tick
        self.names: dict[str, str] = {}  # Ray's trial id -> ours
        self.live: set[str] = set()
        self.problem: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its parts for a restore of its own, which is never used."""
        return {}


class _QueueSearcher(Searcher):
    """Feeds Tune one attempt at a time from the conductor's queue."""

    def __init__(self, shells: _Shells) -> None:
        super().__init__()
        self._shells = shells

    def suggest(self, trial_id: str) -> Any:
        shells = self._shells
        if len(shells.live) >= shells.max_live:
            return None
        try:
            task = shells.conductor.next_task()
        except Exception as error:
            shells.problem = shells.problem or error
            return Searcher.FINISHED
        if task is None:
            return Searcher.FINISHED if shells.conductor.finished else None
        shells.names[trial_id] = task.trial_id
        shells.live.add(trial_id)
        return {"task": task.to_json(), "name": f"{task.trial_id}-{task.attempt}"}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self._shells.live.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the journal has everything."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep resumes from its journal")


class _JournalScheduler(FIFOScheduler):
    """Hands every result to the conductor, which journals it and decides."""

    def __init__(self, shells: _Shells) -> None:
        super().__init__()
        self._shells = shells

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        shells = self._shells
        name = shells.names[trial.trial_id]
        goes_on = False
        try:
            goes_on = shells.conductor.on_report(name, result["attempt"], Report.from_json(result["report"]))
        except Exception as error:
            shells.problem = shells.problem or error
        else:
            if not goes_on:
                shutil.rmtree(shells.output / "work" / name, ignore_errors=True)
        return str(FIFOScheduler.CONTINUE if goes_on else FIFOScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """A worker reports its own failures, so an error here is a lost worker."""
        shells = self._shells
        try:
            shells.conductor.on_lost_worker(shells.names[trial.trial_id], _cause(trial))
        except Exception as error:
            shells.problem = shells.problem or error


class _Stop(tune.Stopper):
    """Ends Tune's loop at once when the conductor cannot go on."""

    def __init__(self, shells: _Shells) -> None:
        self._shells = shells

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._shells.problem is not None


class _Ticker(tune.Callback):
    """Keeps the screen alive. It must not raise: an exception in a callback ends Tune's loop."""

    def __init__(self, shells: _Shells) -> None:
        self._shells = shells

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        try:
            self._shells.tick()
        except Exception as error:  # a closed pipe, a full log
            logger.debug("no progress shown: %s", error)


def _cause(trial: Any) -> str:
    """Why a worker was lost, from the file that Tune writes of it."""
    try:
        return last_line(Path(trial.error_file).read_text())
    except (OSError, TypeError):
        return last_line("")


def last_line(text: str) -> str:
    """Of a traceback, what it says in the end."""
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "unknown cause"


def train_teacher(
    spec: SweepSpec, data: ImageData, state: State | None, above: Teacher | None
) -> Iterator[teachers.Epoch]:
    """`kdsearch.teacher.train` as a Ray task, where the resources are; its epochs are streamed back."""
    num_gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
    # A stream of references.
    epochs = teacher_task(num_gpus).remote(spec, ray.put(data), state, above)
    try:
        for epoch in epochs:
            yield ray.get(epoch)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise cluster.ClusterError(f"the teacher's training was lost: {last_line(str(error))}") from None


def teacher_task(num_gpus: int) -> Any:
    """The task, of a process that ends with it where it has a GPU: else it would keep the GPU's memory.

    Ray sees to that only where the decorator asks for the GPU, not where `options` do (ray#47767).
    """
    decorate = ray.remote(num_returns="streaming", max_retries=0, num_gpus=num_gpus, num_cpus=1)
    return decorate(_train_teacher)


def _train_teacher(
    spec: SweepSpec, data: ImageData, state: State | None, above: Teacher | None
) -> Iterator[Any]:
    # One thread: its sums are the same on every run, and two threads that share their cores with anything
    # else ran a step 25 times slower than one.
    torch.set_num_threads(1)
    yield from teachers.train(spec, data, device_policy().device.type, state, above)


def choose_layouts(students: Sequence[Choice], shape: layout.Shape) -> list[Layout]:
    """`kdsearch.layout.choose` on a core where trials run."""
    try:
        found: list[Layout] = ray.get(_choose_layouts.remote(students, shape))
    except ray.exceptions.RayError as error:
        raise cluster.ClusterError(f"no layout could be measured: {last_line(str(error))}") from None
    return found


@ray.remote(num_cpus=1)
def _choose_layouts(students: Sequence[Choice], shape: layout.Shape) -> list[Layout]:
    return layout.choose(students, shape, default_store())


def remove_work(output: Path) -> None:
    """Delete what is needed only while a sweep runs: checkpoints, Tune's files, half-written students."""
    shutil.rmtree(output / "work", ignore_errors=True)
    for draft in (output / "students").glob(".*"):
        shutil.rmtree(draft, ignore_errors=True)
