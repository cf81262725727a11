"""What a search begins with: the best of earlier sweeps, and the settings that papers use."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from journals import Story
from test_conductor import SPEC, Sweep, cost_of, outcome

from kdsearch import chapters, cli, front, space, warm_start
from kdsearch import spec as specs
from kdsearch.document import Paragraph
from kdsearch.mlflow_runs import trial_run
from kdsearch.records import Choice, SweepRecord, TrialConfig, replay
from kdsearch.search import usual
from kdsearch.search.answers import MisfitError
from kdsearch.spec import SweepSpec

FULL = "search.early_stopping={scheduler: none}"


def earlier(folder: Path, *changes: str) -> SweepRecord:
    folder.mkdir()
    return Sweep(folder, FULL, *changes).run()


def spec_here(folder: Path, *changes: str) -> SweepSpec:
    path = folder / "here.yaml"
    path.write_text(SPEC)
    return specs.load(path, list(changes))


def test_the_front_of_an_earlier_sweep_is_replayed_as_it_was(tmp_path: Path) -> None:
    before = earlier(tmp_path / "before")
    found, left_out = warm_start.points(
        spec_here(tmp_path, f"search.warm_start=[{tmp_path / 'before'}]", "train.epochs=9"), 3
    )

    best = sorted(student.trial_id for student in front.front(before))
    assert [point.origin for point in found] == [f"warm start from before/{name}" for name in best]
    assert [point.params for point in found] == [before.trials[name].params for name in best]
    assert left_out == []


def test_a_folder_may_begin_with_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    earlier(tmp_path / "before")
    found, _ = warm_start.points(spec_here(tmp_path, "search.warm_start=[~/before]"), 3)

    assert found


def test_a_confirmed_student_is_replayed_though_it_is_no_longer_on_the_front(tmp_path: Path) -> None:
    record = earlier(tmp_path / "before")
    loser = next(
        t for t in record.of_role("search") if t.trial_id not in {s.trial_id for s in front.front(record)}
    )
    confirm = dataclasses.replace(loser, trial_id="r0000", number=0, role="confirm", partner=loser.trial_id)
    record.trials["r0000"] = confirm

    assert loser.trial_id in [trial.trial_id for trial in warm_start.best(record)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            "train.lr={type: float, low: 1e-5, high: 1e-4, log: true}",
            "train.lr: {lr:g}, here 1e-05 to 0.0001",
        ),
        ("train.lr=0.077", "train.lr: {lr}, here 0.077"),
        ("train.batch_size=32", "train.batch_size: 128, here 32"),
        (
            "student={mlp: {width: {type: float, low: 5, high: 6, step: 0.5}}}",
            "student.mlp.width: {width:g}, here 5 to 6 in steps of 0.5",
        ),
        ("distill.feature=none", "distill.feature: fitnet, here not set"),
    ],
)
def test_a_point_outside_of_the_space_is_refused_with_key_value_and_range(
    tmp_path: Path, change: str, told: str
) -> None:
    only_mlp = "student={mlp: {width: {type: float, low: 0.25, high: 1.0, step: 0.25}}}"
    fitnet = "distill.feature={fitnet: {weight: 50}}"
    record = earlier(tmp_path / "before", only_mlp, fitnet)
    trial = record.of_role("search")[0]
    here = spec_here(tmp_path, only_mlp, fitnet, change)

    with pytest.raises(MisfitError) as caught:
        warm_start.fitted(here, 3, trial)

    width = trial.config.student.options["width"]
    assert str(caught.value).startswith(told.format(lr=trial.config.train.lr, width=width))


def test_what_was_fixed_before_and_is_searched_now_is_one_of_its_values(tmp_path: Path) -> None:
    record = earlier(tmp_path / "before", "train.lr=0.05", "distill.feature={fitnet: {weight: 50}}")
    trial = record.of_role("search")[0]

    params = warm_start.fitted(spec_here(tmp_path), 3, trial)

    assert (params["train.lr"], params["distill.feature"]) == (0.05, "fitnet")
    assert params["distill.feature.fitnet.weight"] == 50
    assert params["distill.alpha"] == trial.config.alpha


def test_folders_that_are_no_sweeps_or_on_other_data_are_refused_a_line_each(tmp_path: Path) -> None:
    earlier(tmp_path / "other", "data={dataset: cifar10}")
    (tmp_path / "empty").mkdir()
    folders = ", ".join(str(tmp_path / name) for name in ("gone", "empty", "other"))

    with pytest.raises(cli.UsageError) as caught:
        warm_start.points(spec_here(tmp_path, f"search.warm_start=[{folders}]"), 3)

    gone, empty, other = str(caught.value).splitlines()
    assert gone.startswith(f"search.warm_start: {tmp_path / 'gone'}: no such folder")
    assert empty.startswith(f"search.warm_start: {tmp_path / 'empty'}: no events.jsonl in it")
    assert other == f"search.warm_start: {tmp_path / 'other'}: a sweep on cifar10, this one is on digits"


def begun(folder: Path, origin: Path, *changes: str) -> Sweep:
    """A sweep that begins with the front of the one in `origin`, as the pipeline would begin it."""
    folder.mkdir(exist_ok=True)
    started = Sweep(folder, FULL, f"search.warm_start=[{origin}]", *changes)
    if warm_start.journalled(started.journal):
        return started
    said: list[str] = []
    warm_start.announce(*warm_start.points(started.spec, 3), started.journal, said.append)
    started.journal.close()
    return Sweep(folder, FULL, f"search.warm_start=[{origin}]", *changes)


def test_replayed_students_are_the_first_trials_and_marked(tmp_path: Path) -> None:
    earlier(tmp_path / "before")
    points, _ = warm_start.points(spec_here(tmp_path, f"search.warm_start=[{tmp_path / 'before'}]"), 3)
    record = begun(tmp_path / "now", tmp_path / "before", "search.trials=8").run()

    first = record.of_role("search")[: len(points)]
    assert [trial.origin for trial in first] == [point.origin for point in points]
    assert [trial.params for trial in first] == [point.params for point in points]
    assert [trial.seed for trial in first] == [
        space.trial_seed(spec_here(tmp_path), n) for n in range(len(first))
    ]
    assert trial_run(record, first[0]).tags["kdsearch.origin"] == points[0].origin


@pytest.mark.parametrize("cut", [4, 9, 30])
def test_a_resumed_sweep_needs_no_earlier_folder_and_equals_an_uninterrupted_one(
    tmp_path: Path, cut: int
) -> None:
    earlier(tmp_path / "before")
    whole = begun(tmp_path / "whole", tmp_path / "before", "search.trials=14").run()
    begun(tmp_path / "cut", tmp_path / "before", "search.trials=14").run()
    shutil.rmtree(tmp_path / "before")
    journal = tmp_path / "cut" / "events.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:cut]))

    resumed = begun(tmp_path / "cut", tmp_path / "before", "search.trials=14").run()

    assert outcome(resumed) == outcome(whole)
    assert [t.origin for t in resumed.of_role("search")] == [t.origin for t in whole.of_role("search")]


def usual_params(spec: SweepSpec, number: int, size: float = 1000) -> dict[str, Any] | None:
    def distance(config: TrialConfig) -> float:
        return abs(math.log(cost_of(config.student)["params"] / size))

    return usual.params(spec, 3, number, distance)


def test_the_usual_settings_are_the_papers_with_a_student_of_the_size_asked_for(tmp_path: Path) -> None:
    first = usual_params(spec_here(tmp_path, "distill.alpha={type: float, low: 0.1, high: 1}"), 0, 4000)

    assert first == {
        "student": "resnet",
        "student.resnet.width": 1.0,
        "distill.feature": "none",
        "distill.alpha": 0.9,
        "distill.temperature": 4.0,
        "train.lr": 0.05,
    }


def test_the_usual_alpha_and_temperature_are_the_methods_own(tmp_path: Path) -> None:
    ranges = ["{type: float, low: 0.1, high: 1}", "{type: float, low: 1, high: 8}"]
    searched = [f"distill.{name}={text}" for name, text in zip(("alpha", "temperature"), ranges, strict=True)]
    spec = spec_here(tmp_path, "distill.response=logit_std", *searched)

    params = usual_params(spec, 0)

    assert params is not None
    assert (params["distill.alpha"], params["distill.temperature"]) == (1.0, 2.0)


def test_each_further_usual_trial_has_another_method_and_then_there_are_none(tmp_path: Path) -> None:
    spec = spec_here(tmp_path)

    second = usual_params(spec, usual.EVERY)

    assert second is not None
    assert (second["distill.feature"], second["distill.feature.fitnet.weight"]) == ("fitnet", 100.0)
    assert usual_params(spec, 2 * usual.EVERY) is None


def test_a_method_whose_usual_setting_lies_outside_of_its_range_is_left_out(tmp_path: Path) -> None:
    narrow = "distill.feature.fitnet.weight={type: float, low: 1, high: 50}"

    assert usual_params(spec_here(tmp_path, narrow), usual.EVERY) is None
    assert usual_params(spec_here(tmp_path, "distill.alpha={type: float, low: 0.1, high: 0.5}"), 0) is None


def test_a_learning_rate_beyond_the_spec_is_its_middle_instead(tmp_path: Path) -> None:
    params = usual_params(spec_here(tmp_path, "train.lr={type: float, low: 0.1, high: 0.4, log: true}"), 0)

    assert params is not None
    assert params["train.lr"] == pytest.approx(0.2)


def test_four_trials_at_most_and_one_in_twenty_have_usual_settings() -> None:
    assert [number for number in range(200) if usual.is_due(number)] == [0, 20, 40, 60]


def test_the_journal_says_which_trial_has_usual_settings(tmp_path: Path) -> None:
    record = Sweep(tmp_path, FULL).run()

    assert [trial.origin for trial in record.of_role("search")] == ["usual settings", *[""] * 5]


def test_a_journal_without_a_warm_start_begins_with_none(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, FULL)

    assert not warm_start.journalled(sweep.journal)
    assert replay(sweep.journal.events).warm_start == []


def test_the_report_names_the_students_of_the_front_that_were_not_proposed() -> None:
    story = Story()
    story.trial(0, [0.5, 0.6])
    story.trial(1, [0.5, 0.7], params=90_000)
    started = [event for event in story.events if event["kind"] == "trial_started"]
    started[0]["origin"] = "warm start from before/t0012"

    texts = [
        block.text
        for block in chapters.front(replay(story.events), {"front": "none", "retention": "none"}, None)
        if isinstance(block, Paragraph)
    ]

    assert "Not proposed by the search: t0000 (warm start from before/t0012)." in texts


def test_a_student_of_teacher_assistants_is_replayed_with_its_number_of_steps(tmp_path: Path) -> None:
    steps = "steps: {type: int, low: 0, high: 2}"
    chain = f"teacher={{assistants: {{resnet: {{depth: 8, train: {{epochs: 2}}}}, {steps}}}}}"
    record, here = earlier(tmp_path / "before", chain), spec_here(tmp_path, chain)
    for number, trial in enumerate(record.of_role("search")):
        trial.params = {**trial.params, "teacher.steps": number % 3}
        asked = dataclasses.replace(trial.config, teacher=Choice("", {"steps": number % 3}))
        trial.config = settled(asked)
        assert warm_start.fitted(here, 3, trial, settled)["teacher.steps"] == number % 3


def settled(config: TrialConfig) -> TrialConfig:
    """The configuration with the chain that its steps make, as the conductor journals it."""
    names = ["", "0.5", "0.7>0.4"][config.teacher.options["steps"]]
    return dataclasses.replace(config, teacher=Choice("", {"assistants": names} if names else {}))
