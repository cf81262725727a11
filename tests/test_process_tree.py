"""The processor time of a command covers what it starts, and what outlives it."""

import os
import sys

import pytest

from benchmarks import process_tree

BUSY = "import time\nwhile time.process_time() < 1.5: pass\n"
# A grandchild that goes on after its parent has ended, and is nobody's child by then.
ORPHAN = (
    f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {BUSY!r}], start_new_session=True)\n"
)


@pytest.mark.parametrize("code", [BUSY, ORPHAN], ids=["busy", "orphan"])
def test_the_time_of_all_processes_is_counted(code, tmp_path):
    course = process_tree.run([sys.executable, "-c", code], tmp_path / "log", os.environ, tmp_path)
    assert course.returncode == 0
    assert course.cpu_s == pytest.approx(1.5, abs=0.6)
    assert course.reaped_cpu_s == pytest.approx(1.55, abs=0.15)


def test_time_between_two_samples_is_in_proportion():
    course = process_tree.Course(((10.0, 0.0), (12.0, 4.0), (14.0, 5.0)), 0, 5.0)
    assert [course.cpu_at(moment) for moment in (9.0, 11.0, 13.0, 15.0)] == [0.0, 2.0, 4.5, 5.0]
    assert (course.wall_s, course.cpu_s) == (4.0, 5.0)
