"""Commands that take turns: each stands still while another runs, with all that it has started."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks import turns
from benchmarks.turns import Turns

# A clock in a child of the command: it writes down every moment in which it runs.
CLOCK = """
import subprocess, sys, time
if sys.argv[2:]:
    end = time.monotonic() + float(sys.argv[2])
    with open(sys.argv[1], "w") as file:
        while time.monotonic() < end:
            print(time.time(), file=file)
            time.sleep(0.005)
else:
    subprocess.run([sys.executable, __file__, sys.argv[1], "2"], check=True)
"""


def test_seconds_between_two_moments_are_those_in_which_it_ran() -> None:
    ran = Turns([(0.0, 2.0), (4.0, 6.0)])
    assert ran.seconds(1.0, 5.0) == 2.0
    assert ran.until(5.0) == 3.0


def test_one_runs_while_the_other_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_S", 0.3)
    (tmp_path / "clock.py").write_text(CLOCK)
    commands = {name: [sys.executable, "clock.py", name] for name in ("one", "two")}
    found = turns.run(commands, tmp_path)
    for name, ran in found.items():
        moments = [float(line) for line in (tmp_path / name).read_text().split()]
        inside = [any(since <= moment <= to for since, to in ran.spans) for moment in moments]
        assert len(moments) > 20
        assert len(ran.spans) > 2
        assert sum(inside) >= 0.95 * len(inside)
    ordered = sorted(span for ran in found.values() for span in ran.spans)
    assert all(to <= since for (_, to), (since, _) in itertools.pairwise(ordered))


def test_a_command_that_fails_ends_the_others(tmp_path: Path) -> None:
    commands = {"lasts": ["sleep", "60"], "fails": ["false"]}
    with pytest.raises(subprocess.CalledProcessError):
        turns.run(commands, tmp_path)
    assert not [one for one in psutil.Process().children() if one.name() == "sleep"]
