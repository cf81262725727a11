"""A Ray worker: one process that runs one attempt after another.

Goes in: a `Task`. Comes out: `Report`s. A failing training is reported, not raised, so that what Ray
calls an error is always a lost worker, and the process lives on to take the next task. Only one that finds
no room on its GPU ends the process, which is a lost worker, too.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import platform
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ray import tune

from kdsearch import online
from kdsearch.data import ImageData
from kdsearch.data.views import Views
from kdsearch.device import NCHW, device_policy, num_threads, use_share_of_gpu
from kdsearch.losses.deployed import is_taught
from kdsearch.models.build import save_student
from kdsearch.mutual import training_for
from kdsearch.records import EpochResult, of_student, student_ids
from kdsearch.search.messages import Report, Task
from kdsearch.search.sealed import SealedTest
from kdsearch.teachers import Classroom, Faculty
from kdsearch.training import CheckpointError, NonFiniteLoss, Training, load_checkpoint, save_checkpoint

logger = logging.getLogger(__name__)

REPORT_EVERY_S = 5.0  # many epochs of a small student travel in one report
CHECKPOINT_EVERY_S = 30.0


class OutOfGpuMemoryError(Exception):
    """A trial found no room on its GPU. It ends its worker, so that it is tried once more."""


class StudentWorker(tune.Trainable):
    """Runs tasks; reused for one after another, with the data and the teachers kept between them."""

    def setup(  # type: ignore[override]  # with_parameters adds the keywords
        self,
        config: dict[str, Any],
        *,
        data: ImageData,
        faculty: Faculty,
        test: SealedTest,
        augment: tuple[tuple[str, dict[str, Any]], ...],
        output: str,
        cpus: float,
        gpus: float,
        cache_gb: float,
        layouts: Mapping[str, str],
    ) -> None:
        torch.set_num_threads(num_threads(cpus))
        self._device = device_policy("auto" if gpus else "cpu", cpus).device
        self._gpus = gpus if self._device.type == "cuda" else 0.0
        use_share_of_gpu(self._gpus or 1.0)
        self._data, self._augment, self._output, self._test = data, augment, Path(output), test
        self._layouts = layouts
        self._classroom, self._cache_bytes = Classroom(faculty, str(self._device)), cache_gb * 1e9
        self._take(Task.from_json(config["task"]))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._take(Task.from_json(new_config["task"]))
        return True

    def _take(self, task: Task) -> None:
        self._task = task
        self._training: Training | None = None
        if self._device.type == "cuda":
            gc.collect()  # a training and its terms hold each other; that a GPU is full makes nobody look
            torch.cuda.empty_cache()  # who else trains on this GPU cannot use what torch keeps for itself
        self._metrics: Mapping[str, float] = {}
        self._last_checkpoint: Path | None = None
        self._checkpoint_time = time.monotonic()

    def step(self) -> dict[str, Any]:
        """One report. It never says `done`: Tune would hide it from the scheduler, which must see all."""
        report = dataclasses.replace(self._run(), node=platform.node(), gpus=self._gpus)
        return {"report": report.to_json(), "attempt": self._task.attempt}

    def _run(self) -> Report:
        """Train until there is something to say; an exception of the training becomes a failed report."""
        epochs: list[EpochResult] = []
        try:
            if self._training is None:
                self._training = self._start()
            started = time.monotonic()
            while not self._training.finished:
                evaluate = self._task.evaluates(self._training.epoch + 1)
                epochs.append(self._training.run_epoch(evaluate))
                self._metrics = epochs[-1].metrics
                if (
                    epochs[-1].epoch in self._task.checkpoint_epochs
                    or time.monotonic() - started > REPORT_EVERY_S
                ):
                    break
            return self._report(epochs)
        except NonFiniteLoss as error:
            return Report([epoch.to_json() for epoch in epochs], error=str(error), reason="diverged")
        except OSError as error:
            return Report([epoch.to_json() for epoch in epochs], error=str(error), reason="storage")
        except torch.cuda.OutOfMemoryError as error:  # with this process goes what it holds of the GPU
            raise OutOfGpuMemoryError(_words(error)) from error
        except Exception as error:  # whatever a training can raise costs one trial, not the sweep
            logger.exception("%s failed", self._task.trial_id)
            if self._device.type == "cuda":
                torch.cuda.synchronize()  # raises where the context is lost: then the process is, too
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
            return Report([epoch.to_json() for epoch in epochs], error=text, reason="error")

    def _start(self) -> Training:
        """The task's training, after its checkpoint where there is one that fits."""
        task, training = self._task, self._new_training()
        if task.from_checkpoint:
            try:
                training.load_state_dict(
                    load_checkpoint(self._output / task.from_checkpoint, task.from_sha256)
                )
            except CheckpointError as error:
                logger.warning("%s begins again at epoch 1: %s", task.trial_id, error)
                del training  # part of the state may be in it
                return self._new_training()
        return training

    def _new_training(self) -> Training:
        task = self._task
        taught = is_taught(task.config)
        teacher = self._classroom.teacher(task.config.teacher) if taught else None
        shelf = self._classroom.shelf(task.config.teacher, self._cache_bytes) if taught else None
        layout = self._layouts.get(task.config.student.name, NCHW)
        return training_for(task.config, self._data, self._augment, teacher, str(self._device), shelf, layout)

    def _report(self, epochs: list[EpochResult]) -> Report:
        assert self._training is not None
        results = [epoch.to_json() for epoch in epochs]
        if self._training.finished:
            tested = list(self._tested()) if self._task.opens_test else []
            return Report(
                epochs=results, finished=True, student=self._save_students(), test_accuracies=tested
            )
        rung = bool(epochs) and epochs[-1].epoch in self._task.checkpoint_epochs
        due = time.monotonic() - self._checkpoint_time > CHECKPOINT_EVERY_S
        return Report(epochs=results, checkpoint=self._save_checkpoint() if rung or due else None)

    def _tested(self) -> tuple[float, ...]:
        """Every student's accuracy on the test split, which is looked at here and nowhere else."""
        assert self._training is not None
        split = self._test.open(self._task)
        images = Views(split, self._data.mean, self._data.std, (), self._device)
        return self._training.accuracies_on(images, "test")

    def _save_checkpoint(self) -> dict[str, Any]:
        assert self._training is not None
        folder = self._output / self._task.folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"epoch-{self._training.epoch}.pt"
        sha256 = save_checkpoint(path, self._training)
        for other in folder.glob("epoch-*.pt"):  # the one before may be all that is journalled so far
            if other not in (path, self._last_checkpoint):
                other.unlink(missing_ok=True)
        self._last_checkpoint = path
        self._checkpoint_time = time.monotonic()
        return {"epoch": self._training.epoch, "path": str(path.relative_to(self._output)), "sha256": sha256}

    def _save_students(self) -> str:
        """Every student into a folder of its own; returns the first's, relative to the sweep's."""
        assert self._training is not None
        data, students = self._data, self._training.students
        configs = online.configs(self._task.config)
        ids = student_ids(self._task.trial_id, len(students))
        for number, (name, config, student) in enumerate(zip(ids, configs, students, strict=True), start=1):
            description = {
                "student_id": name,
                "config": config.flat(),
                "val_accuracy": self._metrics[of_student("val_accuracy", number)],
                "dataset": data.name,
                "class_names": list(data.class_names),
                "mean": list(data.mean),
                "std": list(data.std),
            }
            save_student(self._output / "students" / name, student, description)
        return f"students/{ids[0]}"

    def cleanup(self) -> None:
        self._training = None


def _words(error: Exception) -> str:
    """What torch says and what can be done about it, in one line: of a lost worker the last one is kept."""
    said = " ".join(str(error).split())
    return f"{said} (what helps: more resources.gpus_per_trial or less train.batch_size)"
