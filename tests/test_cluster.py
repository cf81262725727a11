"""Starting a local Ray: once more where it missed its deadline, and with no more than a sweep needs."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.runtime_env.runtime_env import _merge_runtime_env

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
    [(1.0, None, 8), (1.0, 1, 1), (0.5, 1, 1), (0.5, 3, 2), (0.0, 2, 2), (1.0, 16, 8)],
)
def test_a_local_ray_has_the_cores_of_as_many_trials_as_may_run(
    monkeypatch: pytest.MonkeyPatch, cpus: float, max_concurrent: int | None, cores: int
) -> None:
    monkeypatch.setattr(cluster, "num_cores", lambda: 8)
    assert cluster.cores_to_use(ResourcesSpec(cpus, 0.0, max_concurrent, 0.0)) == cores


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinity masks")
def test_a_process_that_was_given_some_of_the_cores_uses_no_others() -> None:
    """As `taskset` and SLURM give them; Ray would count those of the machine."""
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from kdsearch.search.slots import num_cores; print(num_cores())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "1\n"


def test_nodes_are_told_where_outputs_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDSEARCH_HOME", "shared")
    asked: dict[str, Any] = {}
    monkeypatch.setattr(ray, "init", lambda **options: asked.update(options))
    with cluster.connected("10.0.0.1:6379"):
        assert asked["runtime_env"]["env_vars"] == {"KDSEARCH_HOME": f"{tmp_path}/shared"}


def test_what_the_jobs_environment_has_is_not_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray refuses a driver that repeats what `ray job submit --runtime-env-json` was given."""
    monkeypatch.setenv("KDSEARCH_HOME", "/shared")
    asked: dict[str, Any] = {}
    monkeypatch.setattr(ray, "init", lambda **options: asked.update(options))
    job = {"env_vars": {"KDSEARCH_HOME": "/shared"}, "py_modules": ["/code"], "pip": ["torch"]}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": job, "metadata": {}}))
    with cluster.connected("10.0.0.1:6379"):
        assert _merge_runtime_env(job, asked["runtime_env"]) == job


def test_a_job_without_an_environment_gets_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDSEARCH_HOME", "/shared")
    asked: dict[str, Any] = {}
    monkeypatch.setattr(ray, "init", lambda **options: asked.update(options))
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": None, "metadata": {}}))
    with cluster.connected("10.0.0.1:6379"):
        assert asked["runtime_env"]["env_vars"] == {"KDSEARCH_HOME": "/shared"}
        assert len(asked["runtime_env"]["py_modules"]) == 1


STARTED = """
import psutil, ray
from kdsearch.search import cluster

with cluster.connected(None, 1):
    print(ray.get(ray.remote(lambda: "it works").remote()))
    for process in psutil.Process().children(recursive=True):
        print(" ".join(process.cmdline()))
"""


@pytest.mark.slow
def test_a_local_ray_works_without_the_process_that_reads_its_logs() -> None:
    out = subprocess.run([sys.executable, "-c", STARTED], capture_output=True, text=True, check=True).stdout
    assert "it works" in out
    assert "raylet" in out
    assert "log_monitor" not in out


def test_a_torch_without_cuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    assert cluster.gpu_problem() == f"torch {torch.__version__} was built without CUDA"


def test_what_torch_says_of_a_gpu_that_it_cannot_use_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*shape: int, device: str) -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old\nMore of it")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch, "ones", refuse)
    assert cluster.gpu_problem() == "The NVIDIA driver on your system is too old"


@pytest.mark.parametrize(("asked", "there"), [(0.0, 4.0), (0.5, 0.0)])
def test_where_trials_use_no_gpu_nobody_is_asked(
    monkeypatch: pytest.MonkeyPatch, asked: float, there: float
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": there})
    monkeypatch.setattr(ray, "nodes", lambda: pytest.fail("a node is asked"))
    cluster.check_gpus(ResourcesSpec(1.0, asked, None, 0.0))


A_GPU_THAT_IS_NONE = """
from kdsearch.search import cluster
from kdsearch.spec import ResourcesSpec

cluster._init({"address": "local", "num_cpus": 1, "num_gpus": 1, "include_dashboard": False}, "Ray")
try:
    cluster.check_gpus(ResourcesSpec(1.0, 0.25, None, 0.0))
except cluster.ClusterError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_node_whose_gpu_torch_cannot_use_is_named_before_the_search() -> None:
    out = subprocess.run(
        [sys.executable, "-c", A_GPU_THAT_IS_NONE], capture_output=True, text=True, check=True
    )
    assert platform.node() in out.stdout
    assert "Ray sees a GPU that torch cannot use (" in out.stdout
    assert "set resources.gpus_per_trial: 0" in out.stdout
