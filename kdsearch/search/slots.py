"""How many trials fit on a machine.

Goes in: what a node has and what a trial asks for. Comes out: a number of slots.
"""

from __future__ import annotations

import joblib  # type: ignore[import-untyped]  # its stubs are a package of their own

_ROUNDING = 1e-9  # 1 / 0.1 must hold ten


def num_cores() -> int:
    """Cores that this process may use: those of its affinity mask and of its container's quota.

    Ray looks at the quota alone, Python at the mask alone.
    """
    return int(joblib.cpu_count())


def slots_on(node_cpus: float, node_gpus: float, cpus: float, gpus: float) -> int:
    """Trials of `cpus` cores and `gpus` GPUs that run side by side on one node.

    A fraction of a GPU lies on one GPU: two GPUs hold four trials of 0.4, not five.
    """
    limits = []
    if cpus:
        limits.append(int(node_cpus / cpus + _ROUNDING))
    if gpus:
        shared = int(node_gpus) * int(1 / gpus + _ROUNDING)
        limits.append(shared if gpus < 1 else int(node_gpus / gpus + _ROUNDING))
    return min(limits, default=0)
