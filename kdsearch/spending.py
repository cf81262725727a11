"""What an epoch took of the device that it ran on, and whether a budget that was used up still is.

Goes in: the journal's events. Comes out: an epoch's GPU-seconds, or its CPU-seconds where it had no GPU. One
YAML asks for a share of a GPU everywhere, and a sweep may go on on another machine: so each epoch says what
it had.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def gpus_asked(header: Mapping[str, Any]) -> float:
    """The share of a GPU that the spec of a `sweep_started` event asks for, whether or not there are any."""
    return float(header["spec"].get("resources", {}).get("gpus_per_trial") or 0.0)


def with_gpus(epoch: dict[str, Any], header: Mapping[str, Any]) -> dict[str, Any]:
    """The epoch with its `gpus`; journals that did not keep them are taken to have had what was asked."""
    return epoch if "gpus" in epoch else {**epoch, "gpus": gpus_asked(header)}


def device_s(epoch: Mapping[str, Any]) -> float:
    seconds: float = epoch["time_s"] * epoch["gpus"] if epoch["gpus"] else epoch.get("cpu_s", 0.0)
    return seconds


def is_still_the_limit(reached: Mapping[str, Any], header: Mapping[str, Any]) -> bool:
    """Whether the budget that ended the search is what the newest session asks for, too."""
    return bool(header["spec"].get("search", {}).get(reached["budget"]) == reached["limit"])
