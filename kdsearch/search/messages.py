"""What the driver and its workers say to each other: a `Task` goes out, `Report`s come back, both as JSON.

A module of its own, so that a worker process does not load what only the driver needs to search.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from kdsearch.records import TrialConfig


@dataclass(frozen=True)
class Task:
    """One attempt at one trial, as a worker receives it. Paths are relative to the sweep's folder."""

    trial_id: str
    attempt: int
    config: TrialConfig
    checkpoint_epochs: tuple[int, ...]  # rungs: report and checkpoint there, for the stopping rule
    from_checkpoint: str = ""
    from_sha256: str = ""
    opens_test: bool = False  # may evaluate the test split in the end; the journal says so already
    evaluated_epochs: tuple[int, ...] | None = None  # and the last; None: all

    def evaluates(self, epoch: int) -> bool:
        """Whether the students are validated after this epoch."""
        evaluated = self.evaluated_epochs
        return evaluated is None or epoch in evaluated or epoch == self.config.train.epochs

    @property
    def folder(self) -> str:
        """Where this attempt checkpoints; an orphan of an earlier attempt cannot overwrite it."""
        return f"work/{self.trial_id}/attempt-{self.attempt}"

    def to_json(self) -> str:
        return json.dumps(self, default=vars)  # a tenth of the time of dataclasses.asdict

    @staticmethod
    def from_json(text: str) -> Task:
        data = json.loads(text)
        data["config"] = TrialConfig.from_json(data["config"])
        data["checkpoint_epochs"] = tuple(data["checkpoint_epochs"])
        if data["evaluated_epochs"] is not None:
            data["evaluated_epochs"] = tuple(data["evaluated_epochs"])
        return Task(**data)


@dataclass(frozen=True)
class Report:
    """What a worker says: all epochs since its last report, and how the attempt ended if it did."""

    epochs: list[dict[str, Any]] = field(default_factory=list)  # EpochResult.to_json()
    checkpoint: dict[str, Any] | None = None  # epoch, path, sha256
    finished: bool = False
    student: str = ""  # folder of the saved student, the first of several
    node: str = ""  # host name of the worker's machine
    gpus: float | None = None  # that the epochs ran on, 0 on the CPU; None: not said
    error: str = ""  # why the training failed
    reason: str = ""  # "diverged", "error", or "storage": the sweep's folder cannot be written
    test_accuracies: list[float] = field(default_factory=list)  # of every student, where the task allowed it

    def to_json(self) -> str:
        return json.dumps(self, default=vars)

    @staticmethod
    def from_json(text: str) -> Report:
        return Report(**json.loads(text))
