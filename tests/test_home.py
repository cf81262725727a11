"""Where things are kept: the same folder from whatever working directory."""

from __future__ import annotations

import os
from pathlib import Path

from kdsearch import home


def test_a_relative_home_stays_where_it_was_when_the_working_directory_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDSEARCH_HOME", "store")
    home.settle()
    (tmp_path / "trial").mkdir()
    monkeypatch.chdir(tmp_path / "trial")
    assert home.default_store() == tmp_path / "store"


def test_a_home_may_begin_with_a_tilde(monkeypatch):
    monkeypatch.setenv("KDSEARCH_HOME", "~/kept")
    assert home.default_store() == Path.home() / "kept"


def test_without_one_nothing_is_set(monkeypatch):
    monkeypatch.delenv("KDSEARCH_HOME", raising=False)
    home.settle()
    assert "KDSEARCH_HOME" not in os.environ
    assert home.default_store() == Path.home() / ".cache" / "kdsearch"
