"""The benchmark of the cache: both sides do the same trainings, and the ceiling is what it says."""

from __future__ import annotations

import pytest

from benchmarks import cache, pairs
from kdsearch.output_cache import Shelf


def test_the_ceiling_is_reached_where_nothing_else_costs():
    assert cache.ceiling(s=1.0, t=3.0, reuses=1) == 1.0
    assert cache.ceiling(s=1.0, t=3.0, reuses=3) == 2.0


def test_a_pair_is_measured_against_its_own_ceiling():
    parts = [{"s": 1.0, "t": 2.0}, {"s": 1.0, "t": 4.0}]  # 1 and 3 on average
    line = {"reuses": 3, "a": {"cpu_s": 9.0}, "b": {"cpu_s": 5.0}, "beside": parts}
    assert cache.against_ceiling(line) == pytest.approx(9 / 5 / 2)


def test_the_cached_side_runs_the_teacher_once_for_each_epoch(tmp_path):
    one = cache.setting(base=8, num_images=128, depth=8)
    num_images = []
    one.teacher.network.classifier.register_forward_pre_hook(lambda _, args: num_images.append(len(args[0])))
    one.sweep(3, None)
    live, num_images[:] = sum(num_images), []
    one.sweep(3, Shelf(tmp_path, "random weights", 1e9))
    sample = 4  # of the first training that finds files
    assert live == 3 * cache.EPOCHS * 128
    assert sum(num_images) == cache.EPOCHS * 128 + sample


def test_a_run_ends_in_the_ratio_its_ceiling_and_their_share(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "RESULTS", tmp_path)
    text = cache.summary(cache.measured(cache.setting(8, 64, depth=8), 2, 1))
    assert all(word in text for word in ("base 8, E/R 2", "s ", "t ", "ceiling", "goal 0.9"))
