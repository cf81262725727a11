"""Two sweeps cut at equal useful work: what each had found by then."""

from __future__ import annotations

import pytest
from journals import Story

from benchmarks import two_fronts
from kdsearch import results
from kdsearch.records import replay

CONTROL, FIRST, SECOND = 4 * 1_000, 4 * 2_000, 4 * 3_000  # MACs of four epochs


@pytest.fixture
def story():
    told = Story()
    told.trial(0, [0.1, 0.2, 0.3, 0.4], role="control", macs=1_000)
    told.trial(0, [0.1, 0.3, 0.5, 0.6], macs=2_000)
    told.trial(1, [0.1, 0.3, 0.5, 0.7], macs=3_000)
    told.trial(1, [0.1, 0.2, 0.3, 0.4], role="control", purpose="no_kd", partner="t0001", macs=3_000)
    return told


def test_work_counts_the_search_and_its_floor_and_not_what_follows(story):
    spent = [total for _, total in two_fronts.work(replay(story.events), story.events)]
    assert spent[-1] == CONTROL + FIRST + SECOND
    assert len(spent) == 12


@pytest.mark.parametrize(
    ("budget", "spent", "front"),
    [
        (CONTROL + FIRST, CONTROL + FIRST, ["t0000"]),
        (CONTROL + FIRST + SECOND - 1, CONTROL + FIRST + 9_000, ["t0000"]),
        (CONTROL + FIRST + SECOND, CONTROL + FIRST + SECOND, ["t0001"]),
    ],
)
def test_a_sweep_is_cut_before_it_spends_more(story, budget, spent, front):
    cut, total = two_fronts.at(story.events, replay(story.events), budget)
    assert total == spent
    assert [trial.trial_id for trial in results.front(cut)] == front


def test_work_may_be_processor_time(story):
    seconds = [event["cpu_s"] for event in story.events if event["kind"] == "epoch"]
    spent = [total for _, total in two_fronts.work(replay(story.events), story.events, "cpu_s")]
    assert spent[-1] == pytest.approx(sum(seconds[:12]))
    cut, total = two_fronts.at(story.events, replay(story.events), sum(seconds[:8]), "cpu_s")
    assert total == pytest.approx(sum(seconds[:8]))
    assert [trial.trial_id for trial in results.front(cut)] == ["t0000"]


def test_the_picture_and_the_lines_name_both_schedulers(story, tmp_path, capsys, monkeypatch):
    folders = [str(story.write(tmp_path / name)) for name in ("one", "two")]
    monkeypatch.setattr("sys.argv", ["two_fronts", *folders, "--out", str(tmp_path / "fronts.png")])
    two_fronts.main()
    assert (tmp_path / "fronts.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.count("2 completed, 0 stopped") == 2
