"""Where the MLflow store is, in words that can be shown.

Goes in: a tracking URI, given or from the environment. Comes out: a resolved one, one without secrets, and
the command that shows the store. Without mlflow.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from kdsearch.sqlite_file import sqlite_path

DEFAULT_URI = "sqlite:///mlflow.db"


def resolve_uri(uri: str | None = None) -> str:
    """The given URI, else MLFLOW_TRACKING_URI, else the default; a path in it made absolute."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    path = sqlite_path(uri)
    return f"sqlite:///{path}" if path else uri


def redact(text: str) -> str:
    """Without the passwords and tokens that URIs in it may hold."""
    text = re.sub(r"://[^/\s]+@", "://***@", text)
    return re.sub(r"(?i)\b(password|passwd|pwd|token|secret)=[^&\s]+", r"\1=***", text)


def ui_command(uri: str | None = None) -> str:
    """The command that shows the store on this machine alone, or the address of a tracking server."""
    resolved = resolve_uri(uri)
    if resolved.startswith(("http://", "https://")):
        return redact(resolved)
    command = "mlflow ui --host 127.0.0.1"
    # Where an older MLflow left its file store, `mlflow ui` shows that one unless told otherwise.
    if resolved == resolve_uri(DEFAULT_URI) and not any(Path("mlruns").glob("*/meta.yaml")):
        return command
    shown = shlex.quote(resolved) if redact(resolved) == resolved else '"$MLFLOW_TRACKING_URI"'
    return f"{command} --backend-store-uri {shown}"
