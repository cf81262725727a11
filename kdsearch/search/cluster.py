"""Ray, from a laptop to a cluster: start or join it, and prove that every node can work for the sweep.

Goes in: an address or none. Comes out: a connected Ray with its number of slots, or `ClusterError`.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kdsearch import home
from kdsearch.search.slots import num_cores, slots_on
from kdsearch.spec import ResourcesSpec

logger = logging.getLogger(__name__)

# Ray and Tune read these when they are imported or started, so they are set before either.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing leaves this machine
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own tables; ours replace them
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",  # else Tune restarts what we restart
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journal is the record; the loggers cost seconds a trial
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C reaches the driver, which keeps the state
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's snapshots are never restored: resume reads the journal
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the journal has them in words
    "TUNE_RESULT_BUFFER_LENGTH": "0",
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

# Nobody looks at a local Ray's metrics and list of tasks; with the log monitor, which hands on what
# `log_to_driver=False` throws away, they took half of what Ray's own processes take from trainings.
_WITHOUT_WATCHERS = {"enable_metrics_collection": False, "task_events_report_interval_ms": 0}

PROBE_S = 300.0  # for a node to answer: it imports torch, perhaps from a slow disk
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set where `ray job submit` started this process

import ray  # noqa: E402  # after its environment
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402


class ClusterError(Exception):
    """Ray cannot be reached or a node cannot work for the sweep; the message is for the user."""


@contextmanager
def connected(address: str | None, num_cpus: int | None = None) -> Iterator[None]:
    """A local Ray of this machine's cores (or `num_cpus` of them), or the running cluster at `address`.

    A cluster's nodes get this package shipped with the job, so that they need the dependencies only, and
    keep what they keep where `KDSEARCH_HOME` says here.
    """
    if address and address.startswith("ray://"):
        raise ClusterError(
            "--address ray://...: run kdsearch on a node of the cluster (ray job submit) with --address auto"
        )
    home.settle()
    where: dict[str, Any] = (
        {"address": address, "runtime_env": _runtime_env()}
        if address
        else {
            "address": "local",
            "include_dashboard": False,
            "num_cpus": num_cpus,
            "_system_config": dict(_WITHOUT_WATCHERS),
        }
    )
    try:
        if address:
            _init(where, f"--address {address}")
        else:
            _start(where)
        yield
    finally:
        ray.shutdown()


def _runtime_env() -> dict[str, Any]:
    """What nodes get with the job: this package and `KDSEARCH_HOME`, without what `ray job submit` gave it.

    Ray refuses a driver that names again what its job has.
    """
    job = json.loads(os.environ.get(_JOB_CONFIG) or "{}").get("runtime_env") or {}
    package = {"py_modules": [str(Path(__file__).resolve().parents[1])]}
    known = job.get("env_vars") or {}
    variables = {name: value for name, value in home.given().items() if name not in known}
    return {**({} if "py_modules" in job else package), "env_vars": variables}


def _start(where: Mapping[str, Any]) -> None:
    """A local Ray; tried twice, because on a busy machine its processes sometimes miss their deadlines."""
    try:
        _init(where, "Ray did not start")
    except ClusterError as error:
        logger.warning("%s; trying once more", error)
        ray.shutdown()
        _init(where, "Ray did not start")
    private: Any = ray._private
    with suppress(Exception):  # without it Ray is but a little slower
        private.worker._global_node.kill_log_monitor()


def _init(where: Mapping[str, Any], what: str) -> None:
    """`ray.init` without what it leaves behind in the process."""
    on_sigterm = signal.getsignal(signal.SIGTERM)
    is_terminated = False
    umask = os.umask(0o077)  # Ray writes its authentication token with mode 0644 otherwise
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.CRITICAL)
    except SystemExit:  # what Ray's own handler of SIGTERM raises while it starts
        is_terminated = True
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, ray.exceptions.RayError) as error:
        raise ClusterError(f"{what}: {error}") from None
    finally:
        os.umask(umask)
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler prints a stack and ends the process
    if is_terminated:
        signal.raise_signal(signal.SIGTERM)


def gpus_per_trial(resources: ResourcesSpec) -> float:
    """What the spec asks for where there are GPUs, 0 where there are none: one YAML for both."""
    return resources.gpus_per_trial if ray.cluster_resources().get("GPU", 0) else 0.0


def cpus_per_trial(resources: ResourcesSpec) -> float:
    """What the spec asks for; a trial that was to use a GPU alone takes a core where there is none."""
    return resources.cpus_per_trial or (0.0 if gpus_per_trial(resources) else 1.0)


def cores_to_use(resources: ResourcesSpec) -> int:
    """The cores of a local Ray: those there are, or so many that no more than `max_concurrent` trials fit.

    A trial that waits for its turn (see `driver.lookahead`) must find no room before it.
    """
    if resources.max_concurrent is None:
        return num_cores()
    return min(num_cores(), math.ceil(resources.max_concurrent * (resources.cpus_per_trial or 1.0)))


def num_fitting(resources: ResourcesSpec) -> int:
    """How many trials fit on the nodes.

    Raises ClusterError when not even one trial fits on a node.
    """
    cpus, gpus = cpus_per_trial(resources), gpus_per_trial(resources)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    slots = sum(slots_on(node.get("CPU", 0), node.get("GPU", 0), cpus, gpus) for node in nodes)
    if slots < 1:
        has = " and ".join(f"{max(node.get(kind, 0) for node in nodes):g} {kind}" for kind in ("CPU", "GPU"))
        raise ClusterError(
            f"resources: a trial asks for {cpus:g} CPU and {gpus:g} GPU on one node; nodes have up to {has}"
        )
    return slots


def check_nodes(output: Path, files: Sequence[str] = ()) -> None:
    """Prove that every node sees the sweep's folder and these files, and can import what a trial needs.

    Raises ClusterError naming the nodes that cannot and what to do.
    """
    token = secrets.token_hex(8)
    (output / ".preflight").write_text(token)
    probes = {
        _named(node): _probe.options(scheduling_strategy=_on(node)).remote(str(output), token, files)
        for node in _nodes_with("CPU")
    }
    problems = _problems(probes)
    (output / ".preflight").unlink(missing_ok=True)
    if problems:
        raise ClusterError("\n".join(problems))


def check_gpus(resources: ResourcesSpec) -> None:
    """Prove that torch can use the GPUs that Ray sees on each node; a trial would train on the CPU otherwise.

    Nothing is asked where trials use none. Raises ClusterError naming the nodes and what to do.
    """
    gpus = gpus_per_trial(resources)
    if not gpus:
        return
    probes = {
        _named(node): _probe_gpu.options(num_gpus=gpus, scheduling_strategy=_on(node)).remote()
        for node in _nodes_with("GPU")
    }
    problems = _problems(_answered(probes))
    if problems:
        raise ClusterError("\n".join(problems))


def _answered(probes: Mapping[str, Any]) -> dict[str, Any]:
    """Those that got a GPU: one that other jobs use for long says nothing against its node."""
    found, _ = ray.wait(list(probes.values()), num_returns=len(probes), timeout=PROBE_S)
    for name in (name for name, probe in probes.items() if probe not in found):
        logger.warning("%s: no GPU was free for %g s, nobody knows whether torch can use it", name, PROBE_S)
        ray.cancel(probes[name])
    return {name: probe for name, probe in probes.items() if probe in found}


def _nodes_with(kind: str) -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get(kind, 0) > 0]


def _named(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, node {node['NodeID'][:8]})"


def _on(node: Mapping[str, Any]) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)


def _problems(probes: Mapping[str, Any]) -> list[str]:
    """What the probes answer, with their nodes' names, without those that found nothing wrong."""
    problems = []
    for name, probe in probes.items():
        try:
            problem = ray.get(probe, timeout=PROBE_S)
        except ray.exceptions.RayError as error:
            problem = f"cannot run a task: {str(error).strip().splitlines()[-1]}"
        if problem:
            problems.append(f"{name}: {problem}")
    return problems


@ray.remote(num_cpus=0, max_calls=1)  # a process that used a GPU keeps some of its memory until it ends
def _probe_gpu() -> str:
    """What keeps torch from using this node's GPU, '' when nothing does."""
    problem = gpu_problem()
    how = "install a torch and a driver that fit the GPU there, or set resources.gpus_per_trial: 0"
    return f"Ray sees a GPU that torch cannot use ({problem}); {how}" if problem else ""


def gpu_problem() -> str:
    """What keeps torch from using a GPU in this process, '' when nothing does."""
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} was built without CUDA"
    try:
        torch.ones(1, device="cuda").add(1).item()  # says why: is_available() only says no
    except (RuntimeError, AssertionError) as error:
        return str(error).strip().splitlines()[0]
    return ""


@ray.remote(num_cpus=0)
def _probe(output: str, token: str, files: Sequence[str]) -> str:
    """What keeps this node from working for the sweep, '' when nothing does."""
    try:
        import kdsearch.search.worker  # noqa: F401  # proves that torch and the rest are installed
    except ImportError as error:
        return f"cannot import what a trial needs ({error}); install kdsearch's dependencies there"
    proof = Path(output) / ".preflight"
    how = "give --output a folder that all nodes share (NFS or the like)"
    try:
        if proof.read_text() != token:
            return f"sees another folder at {output}; {how}"
        answer = Path(output) / f".preflight-{socket.gethostname()}-{os.getpid()}"
        answer.write_text(token)
        answer.unlink()
    except FileNotFoundError:
        return f"does not see --output {output}; {how}"
    except OSError as error:
        return f"cannot write to --output {output} ({error.strerror}); {how}"
    hidden = [file for file in files if not os.path.exists(file)]
    if hidden:
        return f"does not see {hidden[0]}, the images; point KDSEARCH_HOME at a folder that all nodes share"
    return ""
