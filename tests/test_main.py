"""The command of commands: what it says of one that it does not know."""

from __future__ import annotations

import sys

import pytest

from kdsearch import __main__ as commands


@pytest.mark.parametrize(
    ("word", "said"),
    [("swep", "unknown command swep (nearest: sweep)\n"), ("xyz", "unknown command xyz\n")],
)
def test_an_unknown_command_is_named_with_the_nearest(
    word: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kdsearch", word])

    assert commands.main() == 2
    out, err = capsys.readouterr()
    assert "usage: kdsearch COMMAND" in out
    assert err == said
