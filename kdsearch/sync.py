"""`python -m kdsearch.sync DIR`: log to MLflow what could not be logged while the sweep ran.

Goes in: a sweep's folder. Comes out: a store that holds what the journal says; twice changes nothing.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from kdsearch import cli, results, tracking, tracking_uri
from kdsearch.journal import Journal, JournalError


def command(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="kdsearch sync", description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="DIR", type=Path, help="the sweep's folder")
    parser.add_argument(
        "--uri", help="the MLflow store (default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(arguments)
    results.load(options.folder)  # a folder that is no sweep is left as it is
    try:
        with Journal(options.folder) as journal:
            result = tracking.sync(
                options.folder, options.uri, functools.partial(journal.append, "mlflow_run")
            )
    except JournalError as error:
        raise cli.UsageError(str(error)) from None
    if not result.is_complete:
        raise cli.NotFinishedError(f"MLflow ({result.uri}): {result.error}")
    print(f"{result.uri}: {result.runs} runs, {result.created} made and {result.changed} written to now")
    print(f"browse  {tracking_uri.ui_command(options.uri)}")
    return cli.DONE


def main() -> int:
    return cli.guarded(command)


if __name__ == "__main__":
    sys.exit(main())
