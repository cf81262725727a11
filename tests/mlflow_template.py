"""MLflow stores for tests, without paying for the migrations of a new one each time.

Goes in: a folder. Comes out: the URI of an empty, migrated SQLite store in it.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from pathlib import Path


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
