"""What a person sees who may have gone away, on a disk that may be full."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from journals import Story

from kdsearch import cli
from kdsearch.pipeline import shown
from kdsearch.progress import Progress, _Console, all_failed, count
from kdsearch.records import replay


def test_a_reader_who_went_away_does_not_end_the_sweep() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        progress = Progress(_Console(file=pipe))

        progress.say("nobody reads this")
        progress.say("nor this")

        assert progress.console.quiet


def test_a_full_disk_is_a_line_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def command(arguments: object) -> int:
        raise OSError(28, "No space left on device", "reports/x/report.html")

    assert cli.guarded(command, []) == cli.NOT_FINISHED
    assert capsys.readouterr().err == "error: reports/x/report.html: No space left on device\n"


def test_a_folder_is_shown_as_one_types_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert shown(tmp_path / "reports" / "x") == "reports/x"
    assert shown(tmp_path / "my runs") == "'my runs'"
    assert shown(Path("/elsewhere/my runs")) == "'/elsewhere/my runs'"


@pytest.mark.parametrize(
    ("number", "text"),
    [(812, "812"), (999.6, "1k"), (3_140, "3.14k"), (999_600, "1M"), (1.46e6, "1.46M"), (2e9, "2G")],
)
def test_counts_in_three_digits_with_the_unit_that_the_rounded_one_has(number: float, text: str) -> None:
    assert count(number) == text


@pytest.mark.parametrize(("num_trials", "is_said"), [(1, True), (2, False)])
def test_where_no_trial_is_left_nobody_is_sent_to_resume(num_trials: int, is_said: bool) -> None:
    story = Story()
    story.trial(0, [], status="failed", error="not finite in epoch 1")
    said = all_failed(replay(story.events), num_trials)
    assert "not finite in epoch 1" in said
    assert ("with more search.trials" in said) == is_said
    assert ("--resume tries those that were not started" in said) != is_said


def test_where_a_budget_was_used_up_it_is_named() -> None:
    story = Story()
    story.trial(0, [], status="failed", error="not finite in epoch 1")
    story.add("budget_reached", budget="time_s", limit=60, value=61, text="60 s had passed")
    assert "--resume with a larger search.time_s" in all_failed(replay(story.events), 2)
