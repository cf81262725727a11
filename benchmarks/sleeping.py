"""A trial that sleeps: what Ray runs where the driver is measured and not the training.

Goes in: tasks and seconds. Comes out: a report per task. Nothing here imports torch, so that sixty-four of
these processes fit on a machine.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ray import tune


class SleepingWorker(tune.Trainable):
    """Answers like the worker of a sweep. `born` is when its process was ready for its first task."""

    def setup(self, config: dict[str, Any], *, seconds: float) -> None:  # type: ignore[override]
        self._seconds, self._born = seconds, time.time()
        self._task = json.loads(config["task"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._task = json.loads(new_config["task"])
        return True

    def step(self) -> dict[str, Any]:
        began = time.time()
        time.sleep(self._seconds)
        last = self._task["config"]["train"]["epochs"]
        metrics = {"train_loss": 1.0, "val_accuracy": 0.5, "lr": 0.1}
        clocks = {"born": self._born, "began": began, "ended": time.time()}
        epochs = [
            {"epoch": n, "metrics": metrics, "terms": clocks, "time_s": self._seconds / last, "cpu_s": 0.0}
            for n in range(1, last + 1)
        ]
        report = {"epochs": epochs, "finished": True, "student": "none", "node": str(os.getpid())}
        return {"report": json.dumps(report), "attempt": self._task["attempt"]}
