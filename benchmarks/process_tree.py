"""The processor time of a command and of everything that it starts, while it runs.

Goes in: a command. Comes out: what had been spent by when. Processes that outlive their parent, as Ray's do,
count too: a process between the caller and the command adopts them. Linux only.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

SAMPLE_EVERY_S = 0.5
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
LINGER_S = 30.0  # for processes that the command left behind


@dataclass(frozen=True)
class Course:
    """Samples of (seconds since the epoch, processor seconds so far), in order, and how the command ended.

    `reaped_cpu_s` is what the kernel says in the end of all processes that were waited for: it lacks those
    whose parents ignored their end, the samples lack what a process does in its last half second.
    """

    samples: tuple[tuple[float, float], ...]
    returncode: int
    reaped_cpu_s: float

    @property
    def wall_s(self) -> float:
        return self.samples[-1][0] - self.samples[0][0]

    @property
    def cpu_s(self) -> float:
        return self.samples[-1][1]

    def cpu_at(self, moment: float) -> float:
        """Processor seconds up to a moment, between two samples in proportion."""
        place = bisect.bisect_left(self.samples, (moment, 0.0))
        if place in (0, len(self.samples)):
            return self.samples[min(place, len(self.samples) - 1)][1]
        (before, spent), (after, more) = self.samples[place - 1 : place + 1]
        return spent + (more - spent) * (moment - before) / (after - before)


def run(command: Sequence[str], log: Path, env: Mapping[str, str], cwd: Path) -> Course:
    """Run it to its end, and wait for what it leaves behind; output goes to `log`."""
    root = Path(__file__).resolve().parents[1]
    asked = json.dumps({"command": list(command), "log": str(log), "env": dict(env), "cwd": str(cwd)})
    watch = [sys.executable, "-m", "benchmarks.process_tree"]
    done = subprocess.run(watch, input=asked, capture_output=True, text=True, check=True, cwd=root)
    course = json.loads(done.stdout)
    samples = tuple((moment, spent) for moment, spent in course.pop("samples"))
    return Course(samples, **course)


def main() -> None:
    """What `run` asks for, in a process of its own: its only children are the command's processes."""
    asked = json.load(sys.stdin)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    seen: dict[tuple[int, float], float] = {}
    samples = [(time.time(), 0.0)]
    deadline = float("inf")
    with Path(asked["log"]).open("wb") as log:
        process = subprocess.Popen(
            asked["command"], stdout=log, stderr=subprocess.STDOUT, env=asked["env"], cwd=asked["cwd"]
        )
        while True:
            time.sleep(SAMPLE_EVERY_S)
            alive = _sample(seen)
            samples.append((time.time(), sum(seen.values())))
            if process.poll() is not None:
                deadline = min(deadline, time.monotonic() + LINGER_S)
                _reap()
                if not alive or time.monotonic() > deadline:
                    break
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    while _reap():
        time.sleep(0.01)
    use = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps(asdict(Course(tuple(samples), process.returncode, use.ru_utime + use.ru_stime))))


def _sample(seen: dict[tuple[int, float], float]) -> bool:
    """Take down what each process below this one has used itself; whether there are any."""
    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            seen[child.pid, child.create_time()] = times.user + times.system
    return bool(children)


def _reap() -> bool:
    """Take leave of adopted processes that have ended; whether there are more that have not."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


if __name__ == "__main__":
    main()
