"""The benchmark of searches on recorded curves, on a made-up table: no training, no Ray cluster."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import comparison, search_quality, sides
from benchmarks.search_quality import Wanted
from benchmarks.simulation import Job, Trace, simulate
from benchmarks.table import Table, key_of, num_stages, student_of, table
from kdsearch import listing, space
from kdsearch import spec as specs
from kdsearch.records import TrialConfig
from kdsearch.search import asha
from kdsearch.spec import SweepSpec

SPEC = """
name: made_up
data: {dataset: digits}
teacher: {resnet: {depth: 8, train: {epochs: 1}}}
student: {resnet: {depth: 8, width: {type: float, low: 0.125, high: 0.625, step: 0.125}}}
distill:
  alpha: {type: float, low: 0.1, high: 0.9, step: 0.2}
  temperature: 4
  response: kd
train: {epochs: 9, lr: {type: categorical, choices: [0.1, 0.01, 0.3, 1.0]}}
search: {trials: 100, early_stopping: {scheduler: asha}}
confirm: {seeds: 0}
"""


def accuracy(config: TrialConfig, epoch: int) -> float:
    """Larger students are better, and at other rates; alpha helps; a good recipe is ahead from the start."""
    width, lr = config.student.options["width"], config.train.lr
    recipe = abs(math.log10(lr) - math.log10(0.05 / width)) + 0.2 * abs((config.alpha or 0) - 0.9 + width / 2)
    return round((0.7 + 0.3 * width - 0.1 * recipe) * (1 - 0.6 * math.exp(-epoch / 2)), 4)


def runs(spec: SweepSpec) -> list[dict[str, Any]]:
    configs = listing.configurations(spec, num_stages(spec))
    found: list[dict[str, Any]] = [
        {"role": "search", "params": params, "config": config} for params, config in configs
    ]
    for width in sorted({config.student.options["width"] for _, config in configs}):
        student = next(c.student for _, c in configs if c.student.options["width"] == width)
        control = space.control(spec, student, 0)
        found.append({"role": "control", "student": student_of(control), "config": control})
    lines = []
    for run in found:
        config = run.pop("config")
        params = 10_000 * config.student.options["width"] ** 2
        sizes = {"params": params, "macs": 10 * params, "size_mb": params / 250_000}
        curve = [accuracy(config, epoch) for epoch in range(1, 10)]
        lines.append({**run, "seed": 0, "cost": sizes, "val_accuracy": curve})
    return lines


@pytest.fixture
def spec(tmp_path: Path) -> SweepSpec:
    path = tmp_path / "made_up.yaml"
    path.write_text(SPEC)
    return specs.load(path)


@pytest.fixture
def made_up(spec: SweepSpec) -> Table:
    return table(spec, runs(spec))


def all_of(found: Table) -> sides.Listed:
    return sides.Listed(cell.config for cell in found.cells.values())


def reached(trace: Trace) -> float:
    return trace.steps[-1][1]


def test_training_every_cell_finds_all_of_the_hypervolume_and_costs_the_whole_table(made_up: Table) -> None:
    trace = simulate(all_of(made_up), made_up, slots=4, budget=math.inf, enough=math.inf)

    assert reached(trace) == pytest.approx(1)
    assert trace.work == pytest.approx(made_up.work)
    assert trace.steps[-1][2] == pytest.approx(0)
    assert (trace.num_trials, trace.num_full, trace.num_epochs) == (100, 100, 900)


@pytest.mark.parametrize("slots", [1, 8])
def test_no_side_needs_less_work_than_the_oracle(made_up: Table, spec: SweepSpec, slots: int) -> None:
    needed = {}
    for name, make in search_quality.SIDES.items():
        trace = simulate(make(made_up, spec), made_up, slots, budget=made_up.work)
        work = next((work for work, share, _ in trace.steps if share >= 0.95), made_up.work)
        needed[name] = work

    assert min(needed, key=lambda name: needed[name]) == "oracle"


def test_useful_work_counts_stopped_trials_and_controls(made_up: Table, spec: SweepSpec) -> None:
    side = sides.Conducted(made_up, spec)

    trace = simulate(side, made_up, slots=4, budget=math.inf, enough=math.inf)

    trials = side.conductor.sweep.trials.values()
    assert {trial.role for trial in trials} == {"control", "search"}
    assert {trial.status for trial in trials} == {"completed", "stopped"}
    assert trace.work == pytest.approx(sum(trial.num_epochs * trial.cost["macs"] for trial in trials))
    completed = [t for t in trials if t.status == "completed" and t.role == "search"]
    assert trace.num_full == len(completed)
    assert reached(trace) * made_up.best_hypervolume == pytest.approx(
        made_up.hypervolume((t.val_accuracy or 0, t.cost["params"]) for t in completed)
    )


def test_a_training_that_breaks_off_is_work_and_no_point(spec: SweepSpec) -> None:
    broken = [line | {"val_accuracy": [], "error": "diverged"} for line in runs(spec)]
    whole = [line for line in runs(spec) if line["role"] == "control"]
    found = table(spec, [line for line in broken if line["role"] == "search"] + whole)
    side = sides.Conducted(found, spec)

    trace = simulate(side, found, slots=1, budget=math.inf)

    assert trace.steps == []
    assert trace.num_full == 0
    assert side.conductor.mass_failure
    trials = side.conductor.sweep.trials.values()
    assert trace.work == sum(t.cost["macs"] * (1 if t.status == "failed" else 9) for t in trials)


def test_a_lucky_first_seed_counts_as_its_cell_does_on_average(spec: SweepSpec) -> None:
    first = runs(spec)
    lucky = next(line for line in first if line["role"] == "search")
    unlucky = [{**lucky, "seed": seed, "val_accuracy": [0.1] * 9} for seed in (1, 2)]

    found = table(spec, [*first, *unlucky])
    trace = simulate(all_of(found), found, slots=1, budget=math.inf, enough=math.inf)

    cell = next(cell for cell in found.cells.values() if cell.params == lucky["params"])
    assert cell.curve(0).accuracies == tuple(lucky["val_accuracy"])
    assert cell.final == pytest.approx((lucky["val_accuracy"][-1] + 0.2) / 3)
    assert reached(trace) == pytest.approx(1)


def test_a_table_without_one_of_its_cells_is_refused(spec: SweepSpec) -> None:
    with pytest.raises(ValueError, match="not recorded"):
        table(spec, runs(spec)[1:])


def test_slots_share_the_time_and_not_the_work(made_up: Table) -> None:
    class Watch(sides.Listed):
        running = most = 0

        def next(self) -> Job | None:
            job = super().next()
            self.running += job is not None
            self.most = max(self.most, self.running)
            return job

        def report(self, job: Job, epoch: int, accuracy: float | None) -> bool:
            self.running -= epoch == 9
            return True

    watch = Watch(cell.config for cell in made_up.cells.values())

    trace = simulate(watch, made_up, slots=8, budget=math.inf, enough=math.inf)

    assert watch.most == 8
    assert trace.work == pytest.approx(made_up.work)


def test_rays_asha_gives_the_verdicts_of_the_same_rule_written_out(made_up: Table) -> None:
    accuracies = np.random.default_rng(0).random((100, 2))
    goes_on = sides.ray_asha(max_epochs=27)
    config = next(iter(made_up.cells.values())).config

    for number, (early, late) in enumerate(accuracies):
        seen = accuracies[:number]
        assert goes_on(Job(number, config), 3, early) == (not asha.is_stopped(early, seen[:, 0].tolist(), 3))
        assert goes_on(Job(number, config), 4, 0.0)  # no rung
        assert goes_on(Job(number, config), 9, late) == (not asha.is_stopped(late, seen[:, 1].tolist(), 3))
    assert not goes_on(Job(0, config), 27, 1.0)  # the end


def test_mo_asha_keeps_a_trial_that_nothing_dominates_whatever_its_accuracy(made_up: Table) -> None:
    goes_on = sides.MultiObjectiveAsha(made_up)
    by_size = sorted(made_up.cells.values(), key=lambda cell: -cell.cost["params"])
    accuracies = [0.9, 0.8, 0.7, 0.95, 0.5]
    largest, smaller = by_size[0].config, by_size[-1].config

    verdicts = [goes_on(Job(n, largest), 3, value) for n, value in enumerate(accuracies)]

    assert verdicts == [True, False, False, True, False]
    assert goes_on(Job(9, smaller), 3, 0.1)
    assert goes_on(Job(9, smaller), 4, 0.0)  # no rung


def test_one_epoch_then_top_k_trains_k_of_a_round_to_the_end(made_up: Table, spec: SweepSpec) -> None:
    side = sides.OneEpochThenTop(made_up, sides.shuffled(made_up, spec), k=6)

    trace = simulate(side, made_up, slots=8, budget=math.inf, enough=math.inf)

    assert trace.num_trials == 100
    assert trace.num_full == 6 + 4  # rounds of 96 and of the 4 that are left
    assert trace.num_epochs == 100 + 8 * 10


def test_all_sides_begin_at_the_same_points(made_up: Table, spec: SweepSpec) -> None:
    def first(name: str) -> list[str]:
        side = search_quality.SIDES[name](made_up, spec)
        jobs = [job for job in (side.next() for _ in range(20)) if job is not None and job.counts]
        return [key_of(job.config) for job in jobs[:10]]

    expected = [key_of(config) for config in sides.shuffled(made_up, spec)][:10]
    names = [name for name in search_quality.SIDES if name != "oracle"]

    assert [first(name) for name in names] == [expected] * len(names)


def test_a_benchmark_resumes_and_runs_again_what_other_code_ran(
    made_up: Table, spec: SweepSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Wanted] = []

    def run(wanted: Wanted) -> dict[str, Any]:
        ran.append(wanted)
        place = json.loads(wanted.key())
        return {**place, "code": search_quality.code_of(wanted), "steps": [[0.1, 1.0, 0.0]]}

    class Pool:
        def __enter__(self) -> SimpleNamespace:
            return SimpleNamespace(imap_unordered=map)

        def __exit__(self, *error: object) -> None: ...

    monkeypatch.setattr(search_quality, "run", run)
    monkeypatch.setattr(
        search_quality.multiprocessing, "get_context", lambda kind: SimpleNamespace(Pool=lambda n: Pool())
    )
    monkeypatch.setattr(search_quality, "code_of", lambda wanted: "old")
    wanted = search_quality.plan("made_up", 8, range(2), names=["random", "kdsearch"])
    path = tmp_path / "results" / "runs.jsonl"

    search_quality.run_all(wanted[:3], 1, path)
    with path.open("a") as file:
        file.write('{"cut short')
    search_quality.run_all(wanted, 1, path)
    assert ran == wanted

    monkeypatch.setattr(search_quality, "code_of", lambda wanted: "new")
    search_quality.run_all(wanted, 1, path)
    assert ran == wanted * 2


def lines(side: str, steps: Sequence[Sequence[Sequence[float]]]) -> list[dict[str, Any]]:
    more = {"table": "made_up", "slots": 8, "changes": [], "num_trials": 9, "num_full": 3, "halted_front": {}}
    return [{"side": side, "seed": seed, "steps": list(own), **more} for seed, own in enumerate(steps)]


def test_a_run_that_never_got_there_counts_as_the_whole_table() -> None:
    found = lines("random", [[[0.1, 0.9, 0.1], [0.4, 0.96, 0.1]], [[0.2, 0.94, 0.1]]])

    assert comparison.works(found, 0.95).tolist() == [0.4, 1.0]
    assert comparison.missed(found, 0.95) == 1


def test_the_ratio_is_the_median_over_seeds_of_paired_ratios() -> None:
    own = np.array([0.1, 0.2, 0.1, 0.1])

    found = comparison.ratio(np.array([0.2, 0.4, 0.4, 0.2]), own)

    assert found.median == 2
    assert 2 <= found.low <= found.high <= 4
    assert comparison.ratio(np.array([0.05]), own).median == 0.5


def test_the_log_distance_is_a_part_of_the_way_from_random_to_the_oracle() -> None:
    assert comparison.log_distance(1.0, 0.1, 0.01) == pytest.approx(0.5)


def test_the_table_and_the_figure_show_every_side(made_up: Table) -> None:
    step = [[0.1, 0.9, 0.01], [0.2, 0.995, 0.001]]
    found = (
        lines("kdsearch", [step] * 3) + lines("random", [step] * 3) + lines("oracle", [[[0.01, 1.0, 0.0]]])
    )

    text = comparison.markdown(found, made_up, "kdsearch")

    assert "| random | 0.1000 | 1.00 (1.00 to 1.00) | 0.2000 | 1.00 (1.00 to 1.00) |" in text
    assert "| oracle | 0.0100 | 0.10 (0.10 to 0.10) | 0.0100 | 0.05 (0.05 to 0.05) |" in text
    assert comparison.figure(found, "kdsearch").startswith(b"\x89PNG")
