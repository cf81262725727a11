"""Warm start: the best students of earlier sweeps, to be trained again here before anything is proposed.

Goes in: a spec, and the folders of earlier sweeps. Comes out: their front and confirmed students as points of
this spec's space, and what was left out and why. Nothing is clipped: a point fits as it is or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdsearch import cli, results, space
from kdsearch.journal import Journal
from kdsearch.losses import SLOTS
from kdsearch.records import Choice, Scalar, SweepRecord, TrialConfig, TrialRecord
from kdsearch.search.answers import Answers, MisfitError
from kdsearch.spec import Stages, SweepSpec

# A sweep's own: how long its trials are, and what follows from that.
OF_THE_BUDGET = frozenset({"train.epochs", "train.warmup_epochs", "train.milestones"})
Settle = Callable[[TrialConfig], TrialConfig]


@dataclass(frozen=True)
class Point:
    """A configuration to begin with: Optuna's params, and where it is from."""

    origin: str
    params: dict[str, Scalar]


def points(
    spec: SweepSpec, num_teacher_stages: Stages, settle: Settle = lambda config: config
) -> tuple[list[Point], list[str]]:
    """The points of all folders of `search.warm_start`, and a line for each that does not fit.

    `settle` is the conductor's: journalled configurations have their chain of assistants.
    Raises UsageError, a line for each folder that is none of a sweep, or of one on other data.
    """
    sweeps: dict[Path, SweepRecord] = {}
    problems = []
    for text in spec.search.warm_start:
        folder = Path(text).expanduser()
        try:
            sweeps[folder] = _read(folder, spec)
        except (cli.UsageError, cli.NotFinishedError) as error:
            problems.append(f"search.warm_start: {error}")
    if problems:
        raise cli.UsageError("\n".join(problems))
    found: dict[str, Point] = {}
    left_out = []
    for folder, sweep in sweeps.items():
        for trial in best(sweep):
            where = f"{folder.name}/{trial.trial_id}"
            try:
                params = fitted(spec, num_teacher_stages, trial, settle)
            except MisfitError as error:
                left_out.append(f"{where} left out: {error}")
            else:
                found.setdefault(repr(sorted(params.items())), Point(f"warm start from {where}", params))
    return list(found.values()), left_out


def _read(folder: Path, spec: SweepSpec) -> SweepRecord:
    sweep, _ = results.load(folder)
    dataset = sweep.header["spec"].get("data", {}).get("dataset")
    if dataset != spec.data.dataset:
        raise cli.UsageError(f"{folder}: a sweep on {dataset}, this one is on {spec.data.dataset}")
    return sweep


def best(sweep: SweepRecord) -> list[TrialRecord]:
    """The trials of the front's students and of those that were confirmed, by number."""
    names = {student.trial_id for student in results.front(sweep)}
    names |= {trial.partner for trial in sweep.of_role("confirm")}
    return [trial for trial in sweep.of_role("search") if trial.trial_id in names]


def fitted(
    spec: SweepSpec, num_teacher_stages: Stages, trial: TrialRecord, settle: Settle = lambda config: config
) -> dict[str, Scalar]:
    """The trial's configuration as params of this spec's space. Raises MisfitError where it is not in it.

    The number of epochs and what follows from it are this sweep's.
    """
    known = {**answers(trial.config), **trial.params}
    asked = Answers(lambda name, _: known.get(name))
    config = settle(space.suggest(asked, spec, num_teacher_stages, seed=0))
    here, there = config.flat(), trial.config.flat()
    for key in sorted((here.keys() | there.keys()) - OF_THE_BUDGET):
        if here.get(key) != there.get(key):
            raise MisfitError(f"{key}: {there.get(key, 'not set')}, here {here.get(key, 'not set')}")
    return asked.params


def answers(config: TrialConfig) -> dict[str, Any]:
    """The configuration's values under the names of every space that it may lie in."""
    known: dict[str, Any] = {f"train.{name}": value for name, value in vars(config.train).items()}
    numbers = {name: getattr(config, name) for name in ("alpha", "temperature", "label_weight")}
    numbers["teacher_views"] = config.teacher_views
    known |= {f"distill.{name}": value for name, value in numbers.items()}
    response = config.distill.get("response")
    if response is not None:  # its own numbers, where it has any
        known |= {f"distill.response.{response.name}.{name}": value for name, value in numbers.items()}
    slots: Mapping[str, Choice] = {
        "student": config.student,
        **{f"distill.{slot}": config.distill.get(slot, Choice("none")) for slot in SLOTS},
        **{f"distill.{slot}": getattr(config, slot) for slot in ("schedule", "curriculum", "online")},
    }
    for slot, choice in slots.items():
        known |= {slot: choice.name, **_options(f"{slot}.{choice.name}", choice)}
    teacher = config.teacher
    named = f"teacher.{teacher.name}" if teacher.name else "teacher"
    return {**known, "teacher": teacher.name, **_options(named, teacher)}


def _options(prefix: str, choice: Choice) -> dict[str, Any]:
    return {f"{prefix}.{name}": value for name, value in choice.options.items()}


def journalled(journal: Journal) -> bool:
    """Whether this sweep has its points: they are in the journal, and the folders may be gone."""
    return any(event["kind"] == "warm_start" for event in journal.events)


def announce(
    found: Sequence[Point], left_out: Sequence[str], journal: Journal, say: Callable[[str], None]
) -> None:
    """Journal what the search begins with, and say what it is and what not."""
    entries = [{"origin": point.origin, "params": point.params} for point in found]
    journal.append("warm_start", points=entries, left_out=list(left_out))
    say(f"warm start: {len(found)} students of earlier sweeps are trained again first")
    for line in left_out:
        say(f"warm start: {line}")
