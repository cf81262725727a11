"""benchmarks/method_cost.py: what it counts, and that it measures what a spec lists."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kdsearch import spec
from kdsearch.losses import METHODS
from kdsearch.online import ONLINE

BENCHMARK = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "method_cost.py"))


def test_the_peak_is_the_most_that_is_held_at_once() -> None:
    before = [torch.empty(1_000_000)]

    def run_epoch() -> None:
        before.clear()  # what was there before an epoch is not its own
        first = torch.empty(250_000)
        second = torch.empty(500_000)
        del first
        third = torch.empty(125_000)
        del second, third

    assert BENCHMARK["peak_bytes"](SimpleNamespace(run_epoch=run_epoch)) == 4 * 750_000


def test_what_a_state_holds_is_the_bytes_of_its_tensors() -> None:
    state = {
        "epoch": 3,
        "student": {"weight": torch.empty(10)},
        "optimizer": [(torch.empty(3).double(), None)],
    }
    assert BENCHMARK["held"](state) == 4 * 10 + 8 * 3


def test_every_method_is_on_one_of_the_two_pairs() -> None:
    pairs = [
        BENCHMARK["pair_of"](spec.load(BENCHMARK["METHODS_FILE"], settings), num_epochs=3)
        for settings in ([], BENCHMARK["TRANSFORMERS"])
    ]
    assert {name for pair in pairs for name in pair.configs} == {*METHODS, *ONLINE, "no distillation"}


@pytest.mark.slow
def test_a_method_that_trains_two_students_costs_more_than_kd() -> None:
    settings = ["distill={response: {none: , kd: }, online: {none: , dml: {peers: 3}}}"]
    pair = BENCHMARK["pair_of"](spec.load(BENCHMARK["METHODS_FILE"], settings), num_epochs=3)
    cost = BENCHMARK["measured"](pair, "dml", num_rounds=1)
    assert cost.kept_bytes > 2 * pair.kept_bytes - 1000
    assert cost.peak_bytes > 0
    assert len(cost.ratios) == 1
