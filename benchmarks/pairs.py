"""Two ways of doing the same, measured in turn: every finished pair is kept, and the ratio has an interval.

Goes in: a benchmark's name, what is measured, and two functions. Comes out: `benchmarks/results/NAME.jsonl`,
a line a pair, to which a later run adds more. The sides take turns in going first, so that a machine that
drifts favours neither.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import resource
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "ray", "optuna", "mlflow", "numpy")
RESAMPLES = 10_000

Line = dict[str, Any]


@dataclass(frozen=True)
class Spent:
    """Seconds on the wall clock, and of processor time of this process and of the children it waited for."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Ratio:
    """A median with its bootstrap interval of 95 %."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def spent(run: Callable[[], object]) -> Spent:
    """What a call takes."""
    wall, cpu = time.perf_counter(), _cpu_s()
    run()
    return Spent(time.perf_counter() - wall, _cpu_s() - cpu)


def _cpu_s() -> float:
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def ratio(values: Sequence[float]) -> Ratio:
    """The median of ratios, resampled with a fixed seed."""
    found = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(0).integers(len(found), size=(RESAMPLES, len(found)))
    low, high = np.quantile(np.median(found[draws], axis=1), [0.025, 0.975])
    return Ratio(float(np.median(found)), float(low), float(high))


def measure(
    name: str,
    about: Mapping[str, Any],
    a: Callable[[], Spent],
    b: Callable[[], Spent],
    num_pairs: int,
    beside: Callable[[], Mapping[str, float]] | None = None,
) -> list[Line]:
    """Run pairs until there are `num_pairs` of this `about`, each appended when it is finished.

    Returns all of them, as they stand in the file: `a` and `b` are dicts of wall_s and cpu_s. Where there is
    something to measure `beside` them, it is measured before and after each pair, and is a list of the two.
    """

    def pair(number: int) -> Line:
        sides = {"a": a, "b": b} if number % 2 == 0 else {"b": b, "a": a}
        before = None if beside is None else beside()
        found = {side: asdict(run()) for side, run in sides.items()}
        further = {} if beside is None else {"beside": [before, beside()]}
        return {"a": found["a"], "b": found["b"], **further}

    return collect(name, about, pair, num_pairs)


def collect(name: str, about: Mapping[str, Any], pair: Callable[[int], Line], num_pairs: int) -> list[Line]:
    """All lines of this `about`, of which `pair` measures what is missing, each appended when it is there."""
    done = recorded(name, about)
    for number in range(len(done), num_pairs):
        load = round(os.getloadavg()[0], 2)
        found = pair(number)
        line = {**about, "pair": number, **found, "load_before": load} | machine()
        append(name, line)
        done.append(line)
        print(f"pair {number + 1} of {num_pairs}: {found}", flush=True)
    return done


def recorded(name: str, about: Mapping[str, Any]) -> list[Line]:
    """The lines so far that were measured under the same conditions; a torn last line is taken off."""
    lines = whole_lines(RESULTS / f"{name}.jsonl")
    wanted = json.loads(json.dumps(about))
    return [line for line in lines if all(line.get(key) == value for key, value in wanted.items())]


def whole_lines(path: Path) -> list[Line]:
    """A file of JSON lines, [] where there is none; a last line cut short by a crash is taken off it."""
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]


def append(name: str, line: Mapping[str, Any]) -> None:
    """Add a line to a benchmark's results; one that a crash cut short is taken off first."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.jsonl"
    whole_lines(path)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def of_pairs(lines: Sequence[Line], figure: str = "cpu_s") -> Ratio:
    """a / b of a figure, pair by pair."""
    return ratio([line["a"][figure] / line["b"][figure] for line in lines])


def machine() -> Line:
    """What a figure depends on besides the code."""
    root = Path(__file__).parents[1]
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "cores": os.cpu_count(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "load": round(os.getloadavg()[0], 2),
        "commit": found.stdout.strip()[:12],
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    }
