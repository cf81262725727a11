"""The page on methods: current, complete, and without a word on what does not exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from kdsearch.guide import ADVICE, costs, measured, page
from kdsearch.losses import METHODS
from kdsearch.online import ONLINE

PAGE = Path(__file__).parent.parent / "docs" / "methods.md"
HOW = "run: python -m kdsearch.guide > docs/methods.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), HOW


def test_there_is_advice_on_every_method_and_on_nothing_else() -> None:
    assert list(ADVICE) == sorted([*METHODS, *ONLINE])


@pytest.mark.parametrize("key", [*METHODS, *ONLINE])
def test_a_method_has_one_row_with_a_cell_for_every_column(key: str) -> None:
    (line,) = (line for line in page().splitlines() if line.startswith(f"| `{key}` |"))
    (head,) = (line for line in page().splitlines() if line.startswith("| method |"))
    assert line.count(" | ") == head.count(" | ")


@pytest.mark.parametrize("key", METHODS)
def test_the_last_sentence_on_a_method_is_its_source(key: str) -> None:
    (line,) = (line for line in page().splitlines() if line.startswith(f"| `{key}` |"))
    assert re.search(r"(19|20)\d\d", line.split(" | ")[-1])


MEASURED = {
    "pair": "digits, resnet depth 8 and resnet",
    "batch_size": 64,
    "step_ms": 20.0,
    "date": "2026-01-31 12:00",
    "cores": 2,
    "cpu": "AVX512",
    "load": 1.0,
    "torch": "2.14.1",
}


def test_the_section_on_cost_has_the_last_of_every_method_the_cheapest_first(
    tmp_path: Path,
) -> None:
    lines = [
        {**MEASURED, "method": "kd", "ratios": [1.0, 0.98, 1.02], "peak_bytes": 2_000_000, "kept_bytes": 0},
        {**MEASURED, "method": "crd", "ratios": [9.0, 9.0, 9.0], "peak_bytes": 1, "kept_bytes": 1},
        {**MEASURED, "method": "tfkd", "ratios": [0.5, 0.7, 0.6], "peak_bytes": 900_000, "kept_bytes": 0},
        {
            **MEASURED,
            "method": "crd",
            "ratios": [1.3, 1.2, 1.6],
            "peak_bytes": 4_200_000,
            "kept_bytes": 1_130_400,
        },
    ]
    file = tmp_path / "method_cost.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    section = costs(measured(file))
    assert [line for line in section.splitlines() if line.startswith("| ")][1:] == [
        "| tfkd | 0.60 (0.50 to 0.70) | 0.45 | 0 |",
        "| kd | 1.00 (0.98 to 1.02) | 1.00 | 0 |",
        "| crd | 1.30 (1.20 to 1.60) | 2.10 | 1,130 |",
    ]
    assert "median of 3 rounds" in section


def test_without_a_measurement_the_page_says_nothing_of_cost(tmp_path: Path) -> None:
    assert costs(measured(tmp_path / "method_cost.jsonl")) == ""
