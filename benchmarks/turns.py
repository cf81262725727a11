"""Commands in turns: what each takes on a machine that is not equally fast all the while.

Goes in: commands. Comes out: when each of them ran. One runs while the others stand still, four seconds each,
so that what slows the machine for a minute slows all of them. Everything that a command starts stands still
with it (SIGSTOP). Linux only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

TURN_S = 4.0


@dataclass
class Turns:
    """When a command ran: (from, to) in seconds since the epoch. `cpu_s` by process, as last seen."""

    spans: list[tuple[float, float]] = field(default_factory=list)
    cpu_s: dict[tuple[int, float], float] = field(default_factory=dict)

    def seconds(self, start: float, end: float) -> float:
        """How long it ran between two moments."""
        return sum(max(0.0, min(end, to) - max(start, since)) for since, to in self.spans)

    def until(self, moment: float) -> float:
        return self.seconds(0.0, moment)


def run(commands: Mapping[str, Sequence[str]], folder: Path) -> dict[str, Turns]:
    """Run all to their ends, from `folder`. Where one fails, CalledProcessError, and the others end, too."""
    turns = {name: Turns() for name in commands}
    processes: dict[str, psutil.Popen] = {}
    try:
        while waiting := [name for name in commands if name not in processes or _lives(processes[name])]:
            for name in waiting:
                since = time.time()
                if name not in processes:
                    processes[name] = psutil.Popen(commands[name], cwd=folder, stdout=subprocess.DEVNULL)
                _signal(_tree(processes[name]), signal.SIGCONT)
                with contextlib.suppress(psutil.TimeoutExpired):
                    processes[name].wait(TURN_S)
                _stop(processes[name], turns[name], since)
                if processes[name].returncode:
                    raise subprocess.CalledProcessError(processes[name].returncode, commands[name])
    finally:
        for process in processes.values():
            _signal(_tree(process), signal.SIGKILL)
            process.wait()
    return turns


def _lives(process: psutil.Popen) -> bool:
    return process.poll() is None


def _stop(process: psutil.Popen, turns: Turns, since: float) -> None:
    """Stop the command's processes, and those that were started meanwhile."""
    tree = _tree(process)
    _signal(tree, signal.SIGSTOP)
    turns.spans.append((since, time.time()))
    while new := [one for one in _tree(process) if one not in tree]:
        _signal(new, signal.SIGSTOP)
        tree += new
    for one in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            turns.cpu_s[one.pid, one.create_time()] = times.user + times.system


def _tree(process: psutil.Popen) -> list[psutil.Process]:
    """The command and what it started, parents before children."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [psutil.Process(process.pid), *process.children(recursive=True)]
    return []


def _signal(tree: Sequence[psutil.Process], number: int) -> None:
    for one in tree:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one.pid, number)
