"""`python -m kdsearch.report DIR`: every file of a sweep's report, rebuilt from its journal alone.

Goes in: the folder of a sweep, finished or not. Comes out: trials.csv, curves.csv, pareto.csv, summary.json,
report.md, report.html and figures/; methods.csv where methods were compared on equal terms, confirmed.csv
where students were trained again with fresh seeds. The same journal gives the same files; each is replaced
whole.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from kdsearch import chapters, cli, comparison, document, figures, results
from kdsearch import summary as summaries
from kdsearch.figure_style import DARK, LIGHT
from kdsearch.records import SweepRecord


@dataclass(frozen=True)
class Report:
    """What was written. The frames have the columns of their CSV files, None where nothing applies."""

    folder: Path
    sweep: SweepRecord
    trials: pd.DataFrame
    curves: pd.DataFrame
    front: pd.DataFrame
    summary: dict[str, Any]
    files: tuple[Path, ...]


def write(folder: Path) -> Report:
    """Rebuild the report in `folder` from its `events.jsonl`.

    Raises UsageError without a journal, NotFinishedError for an empty or damaged one.
    """
    sweep, events = results.load(folder)
    trial_rows, curve_rows = results.trial_rows(sweep), results.curve_rows(sweep)
    columns = results.trial_columns(trial_rows)
    frames = {
        "trials.csv": _frame(trial_rows, columns),
        "curves.csv": _frame(curve_rows, results.curve_columns(curve_rows)),
        "pareto.csv": _frame(results.pareto_rows(sweep), [*columns, *results.CONFIRM_COLUMNS]),
    }
    confirmed = results.confirmed_rows(sweep)
    if confirmed:
        names = [*columns, *results.CONFIRM_COLUMNS, *results.CONFIRMED_COLUMNS]
        frames["confirmed.csv"] = _frame(confirmed, names)
    compared = comparison.compare(sweep)
    if compared is not None:
        method_rows = comparison.method_rows(compared)
        frames["methods.csv"] = _frame(method_rows, comparison.method_columns(method_rows))
    summary = summaries.summary(sweep, events)
    drawn = figures.draw(sweep, LIGHT, DARK)
    pages = chapters.chapters(sweep, events, {d.name: _picture(d, drawn[d.name]) for d in figures.DRAWINGS})
    content: dict[str, bytes] = {name: _csv(frame).encode() for name, frame in frames.items()}
    content |= {f"figures/{name}.png": pngs[0] for name, pngs in drawn.items() if not isinstance(pngs, str)}
    content["summary.json"] = (json.dumps(summary, indent=2) + "\n").encode()
    content["report.md"] = document.to_markdown(pages).encode()
    content["report.html"] = document.to_html(f"{sweep.header['name']}: kdsearch report", pages).encode()
    if not (folder / "spec.yaml").exists():
        content["spec.yaml"] = yaml.safe_dump(
            sweep.header["spec"], sort_keys=False, allow_unicode=True
        ).encode()
    for name, data in content.items():
        _replace(folder / name, data)
    for drawing in figures.DRAWINGS:
        if isinstance(drawn[drawing.name], str):  # an earlier journal in this folder may have had it
            (folder / "figures" / drawing.file).unlink(missing_ok=True)
    return Report(
        folder,
        sweep,
        trials=frames["trials.csv"],
        curves=frames["curves.csv"],
        front=frames["pareto.csv"],
        summary=summary,
        files=tuple(folder / name for name in content),
    )


def _frame(rows: Sequence[results.Row], columns: Sequence[str]) -> pd.DataFrame:
    """Cells stay the Python values they are: no integer becomes a float because its column has a gap."""
    cells = [[row.get(name) for name in columns] for row in rows]
    return pd.DataFrame(cells, columns=list(columns), dtype=object)


def _csv(frame: pd.DataFrame) -> str:
    return frame.map(_cell).to_csv(index=False, lineterminator="\n")


def _cell(value: Any) -> str:
    """Numbers so that they read back exactly, booleans as true and false, blank where nothing applies."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _picture(drawing: figures.Drawing, drawn: tuple[bytes, ...] | str) -> document.Picture | str:
    if isinstance(drawn, str):
        return drawn
    light, dark = drawn
    return document.Picture(drawing.file, drawing.title, drawing.caption, light, dark)


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a kill, never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        half.write_bytes(data)
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)


def command(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="kdsearch report", description="Rebuild a sweep's report from its journal."
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="the sweep's folder, finished or not")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(arguments)
    report = write(options.folder)
    completed = report.summary["trials"]["search"]["completed"]
    print(f"{len(report.front)} students on the front of {completed} completed search trials")
    names = [file.name for file in report.files if file.parent == report.folder]
    print(f"{report.folder}: {', '.join(sorted(names))}, figures/")
    return cli.DONE


def main() -> int:
    return cli.guarded(command)


if __name__ == "__main__":
    sys.exit(main())
