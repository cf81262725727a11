"""MLflow stores for tests: new ones without paying for the migrations each time, and what is in one.

Goes in: a folder. Comes out: the URI of an empty, migrated SQLite store in it.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any


@functools.cache
def _template() -> tuple[Path, tempfile.TemporaryDirectory[str]]:
    """Made once a session; the folder goes with the process."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    folder = tempfile.TemporaryDirectory(prefix="kdsearch-mlflow-")
    path = Path(folder.name) / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path, folder


def new_store(folder: Path) -> str:
    """Put a new store at `folder/mlflow.db`, in place of any that is there, and return its URI."""
    fresh = folder / "mlflow.db.new"
    shutil.copy(_template()[0], fresh)
    os.replace(fresh, folder / "mlflow.db")
    return f"sqlite:///{folder}/mlflow.db"


class Stored:
    """A sweep as its users see it in MLflow."""

    def __init__(self, uri: str, name: str = "cifar100") -> None:
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(tracking_uri=uri)
        self.experiment = self.client.get_experiment_by_name(name)
        runs = self.client.search_runs([self.experiment.experiment_id])
        self.parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        self.children = {run.data.tags["kdsearch.trial_id"]: run for run in runs if run not in self.parents}
        self.num_runs = len(runs)

    @property
    def parent(self) -> Any:
        (parent,) = self.parents
        return parent

    def statuses(self) -> dict[str, str]:
        return {trial_id: run.info.status for trial_id, run in sorted(self.children.items())}

    def history(self, trial_id: str, metric: str = "val_accuracy") -> list[tuple[int, float]]:
        points = self.client.get_metric_history(self.children[trial_id].info.run_id, metric)
        return sorted((point.step, point.value) for point in points)

    def artifacts(self, folder: str = "") -> list[str]:
        return sorted(file.path for file in self.client.list_artifacts(self.parent.info.run_id, folder))
