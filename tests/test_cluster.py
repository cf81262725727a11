"""Starting a local Ray: once more where it missed its deadline, and no wider than `max_concurrent`."""

from __future__ import annotations

import os
from typing import Any

import pytest
import ray

from kdsearch.search import cluster
from kdsearch.spec import ResourcesSpec

TIMED_OUT = "the node timed out during startup"


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """What the next starts of Ray come to, first to last: an exception, or None for a start that works."""
    outcomes: list[BaseException | None] = []

    def init(**options: Any) -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    monkeypatch.setattr(ray, "init", init)
    return outcomes


def test_a_local_ray_that_missed_its_deadline_is_started_once_more(
    starts: list[BaseException | None],
) -> None:
    starts += [RuntimeError(TIMED_OUT), None]
    with cluster.connected(None):
        assert starts == []


def test_a_local_ray_that_fails_twice_is_an_error_in_words(starts: list[BaseException | None]) -> None:
    starts += [RuntimeError(TIMED_OUT), RuntimeError(TIMED_OUT)]
    with (
        pytest.raises(cluster.ClusterError, match=f"Ray did not start: {TIMED_OUT}"),
        cluster.connected(None),
    ):
        pytest.fail("it is not connected")


def test_a_cluster_that_does_not_answer_is_asked_once(starts: list[BaseException | None]) -> None:
    starts += [ConnectionError("no answer"), None]
    with pytest.raises(cluster.ClusterError, match="--address"), cluster.connected("10.0.0.1:6379"):
        pytest.fail("it is not connected")
    assert starts == [None]


@pytest.mark.parametrize(
    ("cpus", "max_concurrent", "cores"),
    [(1.0, None, None), (1.0, 1, 1), (0.5, 1, 1), (0.5, 3, 2), (0.0, 2, 2)],
)
def test_a_local_ray_has_the_cores_of_as_many_trials_as_may_run(
    monkeypatch: pytest.MonkeyPatch, cpus: float, max_concurrent: int | None, cores: int | None
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert cluster.cores_to_use(ResourcesSpec(cpus, 0.0, max_concurrent, 0.0)) == cores


def test_a_local_ray_has_no_more_cores_than_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    assert cluster.cores_to_use(ResourcesSpec(1.0, 0.0, 16, 0.0)) == 2
