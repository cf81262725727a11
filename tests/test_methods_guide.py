"""The page on methods: current, complete, and without a word on what does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kdsearch.guide import ADVICE, page
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
