"""Paired measurements are kept, taken up again and compared pair by pair."""

import json

import pytest

from benchmarks import pairs
from benchmarks.pairs import Spent


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "RESULTS", tmp_path)
    return tmp_path / "some.jsonl"


def test_a_later_run_adds_the_missing_pairs(results):
    runs = []

    def side(name, seconds):
        return lambda: runs.append(name) or Spent(seconds, seconds)

    pairs.measure("some", {"epochs": 4}, side("a", 3.0), side("b", 1.0), 1)
    lines = pairs.measure("some", {"epochs": 4}, side("a", 5.0), side("b", 1.0), 3)
    assert runs == ["a", "b", "b", "a", "a", "b"]
    assert [line["a"]["cpu_s"] for line in lines] == [3, 5, 5]
    assert pairs.of_pairs(lines).median == 5


def test_what_goes_beside_is_measured_before_and_after_each_pair(results):
    runs = []
    values = iter([1.0, 2.0])

    def side(name):
        return lambda: runs.append(name) or Spent(1, 1)

    def beside():
        runs.append("beside")
        return {"s": next(values)}

    lines = pairs.measure("some", {}, side("a"), side("b"), 1, beside)
    assert runs == ["beside", "a", "b", "beside"]
    assert lines[0]["beside"] == [{"s": 1.0}, {"s": 2.0}]


def test_other_conditions_are_measured_apart(results):
    def side():
        return Spent(1, 1)

    pairs.measure("some", {"epochs": 4}, side, side, 2)
    pairs.measure("some", {"epochs": 8}, side, side, 1)
    assert len(pairs.recorded("some", {"epochs": 4})) == 2
    assert len(results.read_text().splitlines()) == 3


def test_a_torn_last_line_is_taken_off(results):
    results.write_text('{"epochs": 4, "pair": 0}\n{"epochs": 4, "pa')
    pairs.append("some", {"epochs": 4, "pair": 1})
    assert [json.loads(line)["pair"] for line in results.read_text().splitlines()] == [0, 1]


def test_the_interval_holds_the_median_and_is_the_same_every_time():
    found = pairs.ratio([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.median == 3
    assert 1 <= found.low < 3 < found.high <= 5
    assert found == pairs.ratio([1.0, 2.0, 3.0, 4.0, 5.0])


def test_processor_time_is_of_the_call_alone():
    busy = pairs.spent(lambda: sum(range(3_000_000)))
    idle = pairs.spent(lambda: None)
    assert busy.cpu_s > 10 * idle.cpu_s
