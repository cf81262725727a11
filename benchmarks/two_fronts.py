"""Two sweeps over the same space, at equal useful work: both fronts in one picture, and their hypervolumes.

`python -m benchmarks.two_fronts DIR DIR [--unit macs|cpu_s] [--out fronts.png]` replays both journals up to
the moment at which each had spent as much training as the cheaper of the two: epochs times MACs over search
trials and controls, stopped ones included, or these epochs' processor seconds, in which a student of few MACs
is not almost free. What follows the search (tuning, repeats, their controls) is left out on both sides.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from kdsearch import figure_parts, results
from kdsearch.figure_style import LIGHT, canvas, count_ticks, png, themed
from kdsearch.records import Event, SweepRecord, TrialRecord, replay
from kdsearch.summary import hypervolume

MACS, CPU_S = "macs", "cpu_s"
UNITS = {MACS: (1e9, "GMACs an image"), CPU_S: (1.0, "CPU s")}


def of_search(event: Event, sweep: SweepRecord) -> bool:
    """Whether the event is a trial's of the search itself, or of the controls at its start."""
    trial = sweep.trials.get(event["trial_id"] or "")
    return trial is not None and (trial.role == "search" or trial.purpose == "floor")


def work(sweep: SweepRecord, events: Sequence[Event], unit: str = MACS) -> Iterator[tuple[int, float]]:
    """After every epoch of the search: how many events there were, and what was spent by then.

    MACs are those of one image and of its forward pass.
    """
    spent = 0.0
    for count, event in enumerate(events, start=1):
        if event["kind"] == "epoch" and of_search(event, sweep):
            spent += event["cpu_s"] if unit == CPU_S else sweep.trials[event["trial_id"]].cost["macs"]
            yield count, spent


def at(
    events: Sequence[Event], sweep: SweepRecord, budget: float, unit: str = MACS
) -> tuple[SweepRecord, float]:
    """The sweep as it stood when it had spent the budget, and what it had spent by then."""
    spent = [(count, total) for count, total in work(sweep, events, unit) if total <= budget]
    last, total = spent[-1] if spent else (0, 0.0)
    following = next(
        (i for i, event in enumerate(events[last:], start=last) if event["kind"] == "epoch"), None
    )
    return replay(events[:following]), total


def label(sweep: SweepRecord) -> str:
    return str(sweep.header["spec"]["search"]["early_stopping"]["scheduler"])


def count_of(sweep: SweepRecord, status: str) -> int:
    return sum(trial.status == status for trial in sweep.of_role("search"))


def draw(sweeps: Sequence[SweepRecord], unit: str = MACS) -> Figure:
    """Accuracy against size: each sweep's completed trials and its front as a step line."""
    equal = "useful work" if unit == MACS else "processor time"
    figure, axes = canvas(
        f"Both fronts at equal {equal}", "params (log scale)", "validation accuracy (fraction)"
    )
    axes.set_xscale("log")
    count_ticks(axes.xaxis)
    handles = []
    for sweep, colour in zip(sweeps, LIGHT.methods, strict=False):
        found, front = results.completed(sweep, "search"), results.front(sweep)
        axes.plot(*places(found), "o", color=colour, alpha=0.35, markersize=4)
        axes.plot(*places(front), "o-", drawstyle="steps-post", color=colour, markersize=7)
        text = f"{label(sweep)}: hypervolume {hypervolume(sweep)['value']:.3f}, {len(found)} full trainings"
        handles.append(figure_parts.handle(text, color=colour, marker="o"))
    controls = [
        trial
        for sweep in sweeps
        for trial in results.completed(sweep, "control")
        if trial.purpose in ("", "floor")  # and not those that are tuned beside the last search trials
    ]
    axes.plot(*places(controls), "D", color=LIGHT.muted, markersize=5)
    handles.append(figure_parts.handle("no distillation", color=LIGHT.muted, marker="D"))
    axes.legend(handles=handles, loc="lower right")
    return figure


def places(trials: Sequence[TrialRecord]) -> tuple[list[float], list[float]]:
    return [trial.cost["params"] for trial in trials], [results.accuracy(trial) for trial in trials]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs=2, type=Path, metavar="DIR")
    parser.add_argument("--unit", choices=list(UNITS), default=MACS, help="of what both have spent alike")
    parser.add_argument("--out", type=Path, default=Path("fronts.png"))
    options = parser.parse_args()
    loaded = [results.load(folder) for folder in options.folders]
    unit, (scale, name) = options.unit, UNITS[options.unit]
    budget = min([total for _, total in work(sweep, events, unit)][-1] for sweep, events in loaded)
    cut = [at(events, sweep, budget, unit) for sweep, events in loaded]
    for (sweep, spent), folder in zip(cut, options.folders, strict=True):
        found = hypervolume(sweep)
        print(
            f"{label(sweep):8} {spent / scale:.3f} {name}, {count_of(sweep, 'completed')} completed, "
            f"{count_of(sweep, 'stopped')} stopped, hypervolume {found['value']:.4f} ({folder})"
        )
        for trial in results.front(sweep):
            print(f"  {trial.cost['params']:9,} params  {results.accuracy(trial):.4f}  {trial.trial_id}")
    with themed(LIGHT):
        options.out.write_bytes(png(draw([sweep for sweep, _ in cut], unit)))


if __name__ == "__main__":
    main()
