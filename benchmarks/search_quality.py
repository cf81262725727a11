"""How much training a search needs to find the front: kdsearch against what else one could do.

`python -m benchmarks.search_quality digits [--slots 8] [--seeds 20] [--processes 2]` runs every side on the
recorded curves of `benchmarks/tables` with simulated workers, appends each finished run to
`benchmarks/results/search_quality.jsonl` (what is there already is not run again) and writes a table and a
figure of that table beside it. `--set search.early_stopping.X=V` changes kdsearch's own side: a variation,
kept apart under that name. Nothing trains, and Ray is not started.

Useful work is epochs times MACs over all trials, stopped and control ones included. A run that never gets
there counts as the whole table's work, which is at least what it would have needed to be sure.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks import comparison, pairs, sides, table
from benchmarks.simulation import Side, simulate
from benchmarks.table import Table
from kdsearch import session
from kdsearch.spec import SweepSpec

RESULTS = Path(__file__).parent / "results"
FILE = RESULTS / "search_quality.jsonl"
PACKAGES = ("kdsearch", "numpy", "optuna", "ray")
SEARCH = Path(session.__file__).parent / "search"

Make = Callable[[Table, SweepSpec], Side]


def _one_epoch_then_top(k: int) -> Make:
    return lambda found, spec: sides.OneEpochThenTop(found, sides.shuffled(found, spec), k)


OWN = "kdsearch"
SIDES: dict[str, Make] = {
    OWN: sides.Conducted,
    "oracle": lambda found, spec: sides.Listed(sides.oracle(found)),
    "random": lambda found, spec: sides.Listed(sides.shuffled(found, spec)),
    **{f"one epoch, top {k} of {sides.ROUND}": _one_epoch_then_top(k) for k in sides.TOP_KS},
    "kdsearch, no stopping": lambda found, spec: sides.Conducted(found, sides.without_stopping(spec)),
    "tpe, no stopping": lambda found, spec: sides.Conducted(found, sides.without_stopping(spec, "tpe")),
    "asha on accuracy": lambda found, spec: sides.Proposed(found, spec, sides.ray_asha(found.epochs)),
    "mo-asha": lambda found, spec: sides.Proposed(found, spec, sides.MultiObjectiveAsha(found)),
}


CONDUCTED = (OWN, "kdsearch, no stopping", "tpe, no stopping")  # what changes kdsearch/search changes these


@dataclass(frozen=True)
class Wanted:
    """One run: its place in the results."""

    table: str
    side: str
    slots: int
    seed: int
    changes: tuple[str, ...] = ()  # to kdsearch's own settings

    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


@lru_cache(maxsize=1)
def load(name: str) -> Table:
    return table.load(name)


def spec_of(wanted: Wanted) -> SweepSpec:
    """The search's spec: the table's space, this seed, one grace and reduction factor for all."""
    early = {"grace_epochs": sides.GRACE, "reduction_factor": sides.REDUCTION}
    shared = [f"search.early_stopping.{name}={value}" for name, value in early.items()]
    own = [f"search.early_stopping.scheduler={sides.SCHEDULER}", *shared, *wanted.changes]
    return table.spec_of(wanted.table, [f"search.seed={wanted.seed}", *own])


def code_of(wanted: Wanted) -> str:
    """What decides a run besides its place: another code, and it is run again.

    The table's content and the version of the sides; of kdsearch's own side all of kdsearch/search, of the
    others the points from which they start.
    """
    digest = hashlib.sha256((table.FOLDER / f"{wanted.table}.jsonl").read_bytes())
    digest.update(str(sides.VERSION).encode())
    if wanted.side in CONDUCTED:
        for path in sorted(SEARCH.glob("*.py")):
            digest.update(path.read_bytes())
    else:
        digest.update(json.dumps(sides.starting_points(load(wanted.table), spec_of(wanted))).encode())
    return digest.hexdigest()[:12]


def run(wanted: Wanted) -> dict[str, Any]:
    """One search, as a line of the results; works are shares of the whole table's."""
    started = time.process_time()
    found = load(wanted.table)
    side = SIDES[wanted.side](found, spec_of(wanted))
    trace = simulate(side, found, wanted.slots, budget=found.work)
    return {
        **asdict(wanted),
        "code": code_of(wanted),
        "commit": session.commit()[:12],
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "work": round(trace.work / found.work, 6),
        "num_trials": trace.num_trials,
        "num_full": trace.num_full,
        "num_epochs": trace.num_epochs,
        "halted_front": trace.halted_front,
        "steps": [
            [round(work / found.work, 6), round(share, 5), round(gap, 4)] for work, share, gap in trace.steps
        ],
        "cpu_s": round(time.process_time() - started, 1),
    }


def recorded(path: Path = FILE) -> dict[tuple[str, str], dict[str, Any]]:
    """The results so far by place and code."""
    return {(_place(line).key(), line["code"]): line for line in pairs.whole_lines(path)}


def _place(line: dict[str, Any]) -> Wanted:
    changes = tuple(line["changes"])
    return Wanted(line["table"], line["side"], line["slots"], line["seed"], changes)


def run_all(wanted: Sequence[Wanted], processes: int, path: Path = FILE) -> list[dict[str, Any]]:
    """The results of all of these, in their order; what is missing is run and appended."""
    path.parent.mkdir(exist_ok=True)
    done = recorded(path)
    codes = {one: code_of(one) for one in wanted}
    left = [one for one in wanted if (one.key(), codes[one]) not in done]
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(processes) as pool, path.open("a") as file:
        for count, line in enumerate(pool.imap_unordered(run, left), start=1):
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
            file.flush()
            done[_place(line).key(), line["code"]] = line
            spent = time.monotonic() - started
            about = spent / count * (len(left) - count)
            print(f"{count} of {len(left)}: {line['side']}, seed {line['seed']}; about {about:.0f} s left")
    return [done[one.key(), codes[one]] for one in wanted]


def plan(
    name: str, slots: int, seeds: Iterable[int], changes: Sequence[str] = (), names: Sequence[str] = ()
) -> list[Wanted]:
    """Every side, or kdsearch and those named, with every seed; the oracle needs no seed but one."""
    return [
        Wanted(name, side, slots, seed, tuple(changes) if side == OWN else ())
        for side in (dict.fromkeys((OWN, *names)) if names else SIDES)
        for seed in (list(seeds)[:1] if side == "oracle" else seeds)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", help="a name in benchmarks/tables, without .yaml")
    parser.add_argument("--slots", type=int, default=8, help="workers: 1, 8 or 64")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=V", help="a variation of kdsearch")
    parser.add_argument(
        "--side", action="append", default=[], choices=list(SIDES), help="only these and kdsearch"
    )
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes: numpy reads it when it is imported
    wanted = plan(options.table, options.slots, range(options.seeds), options.set, options.side)
    lines = run_all(wanted, options.processes)
    found = load(options.table)
    text = comparison.markdown(lines, found, OWN)
    print(text)
    if not options.set and not options.side:
        name = f"search_quality_{options.table}_{options.slots}"
        (RESULTS / f"{name}.md").write_text(text)
        (RESULTS / f"{name}.png").write_bytes(comparison.figure(lines, OWN))


if __name__ == "__main__":
    main()
