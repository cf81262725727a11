"""A sweep on two Ray nodes of which the second has no checkout, no data and no caches; see two_nodes.py."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from two_nodes import CHECKOUT, SECOND, Sweep, cluster, is_possible

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_possible(), reason="needs Linux, root and unshare"),
]


@dataclass(frozen=True)
class Ran:
    """A finished sweep, and what a task saw on the first and the second node beside it."""

    sweep: Sweep
    process: subprocess.CompletedProcess[str]
    first: dict[str, Any]
    second: dict[str, Any]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    sweep = Sweep(tmp_path_factory.mktemp("two"))
    with cluster(sweep.hidden) as on:
        first, second = sweep.probe(on)
        return Ran(sweep, sweep.run(on), first, second)


def test_the_second_node_has_neither_code_nor_data_nor_caches_of_the_driver(ran):
    assert set(ran.second["files"].values()) == {0}
    assert 0 not in ran.first["files"].values()


def test_both_nodes_run_the_package_that_came_with_the_job(ran):
    assert not Path(ran.first["kdsearch"]).is_relative_to(CHECKOUT)
    assert not Path(ran.second["kdsearch"]).is_relative_to(CHECKOUT)


def test_every_trial_is_completed(ran):
    assert ran.process.returncode == 0, ran.process.stderr
    assert {trial.status for trial in ran.sweep.record().trials.values()} == {"completed"}
    assert len(ran.sweep.record().of_role("search")) == 8


def test_both_nodes_write_students_into_the_shared_folder(ran):
    by_node = ran.sweep.students_by_node()
    assert set(by_node) == {"first", "second"}
    assert by_node.total() == len(ran.sweep.record().trials)


def test_an_output_that_the_second_node_does_not_see_is_refused_before_any_training(tmp_path):
    sweep = Sweep(tmp_path)
    with cluster([*sweep.hidden, sweep.shared]) as on:
        refused = sweep.run(on)
    assert refused.returncode == 3
    assert f"error: {SECOND} (127.0.0.3" in refused.stderr
    assert (
        f"does not see --output {sweep.output}; give --output a folder that all nodes share" in refused.stderr
    )
    assert sweep.record().trials == {}
