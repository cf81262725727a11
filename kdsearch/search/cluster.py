"""Ray, from a laptop to a cluster: start or join it, and prove that every node can work for the sweep.

Goes in: an address or none. Comes out: a connected Ray with its number of slots, or `ClusterError`.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdsearch.spec import ResourcesSpec

# Ray and Tune read these when they are imported or started, so they are set before either.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing leaves this machine
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own tables; ours replace them
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # silences a warning about trials without a GPU
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journal is the record; the loggers cost seconds a trial
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C reaches the driver, which keeps the state
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's snapshots are never restored: resume reads the journal
    "TUNE_RESULT_BUFFER_LENGTH": "0",
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402  # after its environment
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402


class ClusterError(Exception):
    """Ray cannot be reached or a node cannot work for the sweep; the message is for the user."""


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A local Ray of this machine's resources, or the running cluster at `address`.

    A cluster's nodes get this package shipped with the job, so that they need the dependencies only.
    """
    os.umask(0o077)  # Ray writes its authentication token with mode 0644 otherwise
    if address and address.startswith("ray://"):
        raise ClusterError(
            "--address ray://...: run kdsearch on a node of the cluster (ray job submit) with --address auto"
        )
    package = Path(__file__).resolve().parents[1]
    where: dict[str, Any] = (
        {"address": address, "runtime_env": {"py_modules": [str(package)]}}
        if address
        else {"address": "local", "include_dashboard": False}
    )
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"--address {address}: {error}" if address else f"Ray did not start: {error}"
        ) from None
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler prints a stack and ends the process
    try:
        yield
    finally:
        ray.shutdown()


def gpus_per_trial(resources: ResourcesSpec) -> float:
    """What the spec asks for where there are GPUs, 0 where there are none: one YAML for both."""
    return resources.gpus_per_trial if ray.cluster_resources().get("GPU", 0) else 0.0


def num_slots(resources: ResourcesSpec) -> int:
    """How many trials run at once, from the cluster's CPUs and GPUs and `resources.max_concurrent`.

    Raises ClusterError when not even one trial fits.
    """
    available = ray.cluster_resources()
    wanted = {"CPU": resources.cpus_per_trial, "GPU": gpus_per_trial(resources)}
    slots = min(int(available.get(kind, 0) / amount + 1e-9) for kind, amount in wanted.items() if amount)
    if slots < 1:
        has = ", ".join(f"{available.get(kind, 0):g} {kind}" for kind in wanted)
        raise ClusterError(
            f"resources: a trial asks for {wanted['CPU']:g} CPU and {wanted['GPU']:g} GPU; Ray has {has}"
        )
    return min(slots, resources.max_concurrent or slots)


def check_nodes(output: Path) -> None:
    """Prove that every node sees the sweep's folder and can import what a trial needs.

    Raises ClusterError naming the nodes that cannot and what to do.
    """
    token = secrets.token_hex(8)
    (output / ".preflight").write_text(token)
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    probes = {}
    for node in nodes:
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, node {node['NodeID'][:8]})"
        probes[name] = _probe.options(scheduling_strategy=strategy).remote(str(output), token)
    problems = []
    for name, probe in probes.items():
        try:
            problem = ray.get(probe, timeout=300)
        except ray.exceptions.RayError as error:
            problem = f"cannot run a task: {str(error).strip().splitlines()[-1]}"
        if problem:
            problems.append(f"{name}: {problem}")
    (output / ".preflight").unlink(missing_ok=True)
    if problems:
        raise ClusterError("\n".join(problems))


@ray.remote(num_cpus=0)
def _probe(output: str, token: str) -> str:
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
    return ""
