"""What a person sees who may have gone away, on a disk that may be full."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kdsearch import cli
from kdsearch.pipeline import shown
from kdsearch.progress import Progress, _Console


def test_a_reader_who_went_away_does_not_end_the_sweep() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        progress = Progress(_Console(file=pipe))

        progress.say("nobody reads this")
        progress.say("nor this")

        assert progress.console.quiet


def test_a_full_disk_is_a_line_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def command(arguments: object) -> int:
        raise OSError(28, "No space left on device", "reports/x/report.html")

    assert cli.guarded(command, []) == cli.NOT_FINISHED
    assert capsys.readouterr().err == "error: reports/x/report.html: No space left on device\n"


def test_a_folder_is_shown_as_one_types_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert shown(tmp_path / "reports" / "x") == "reports/x"
    assert shown(tmp_path / "my runs") == "'my runs'"
    assert shown(Path("/elsewhere/my runs")) == "'/elsewhere/my runs'"
