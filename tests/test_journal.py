"""The journal survives what happens to files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdsearch.journal import FILE, Journal, JournalError, Tail, read


def test_events_come_back_as_they_were_appended(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        first = journal.append("sweep_started", name="x")
        both = journal.append_all([("epoch", "t0000", {"epoch": 1}), ("epoch", "t0000", {"epoch": 2})])

    assert read(tmp_path / FILE) == [first, *both]
    assert [event["seq"] for event in (first, *both)] == [0, 1, 2]


def test_a_torn_last_line_is_left_out_and_then_cut_off(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append("sweep_started")
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes() + b'{"v": 1, "seq": 1, "ki')

    assert [event["kind"] for event in read(path)] == ["sweep_started"]
    with Journal(tmp_path) as journal:
        journal.append("sweep_ended")

    assert [event["kind"] for event in read(path)] == ["sweep_started", "sweep_ended"]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_any_cut_leaves_whole_events(tmp_path: Path, cut: int) -> None:
    with Journal(tmp_path) as journal:
        events = [journal.append("epoch", "t0000", epoch=i) for i in range(5)]
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-cut])

    survivors = read(path)

    assert survivors == events[: len(survivors)]
    assert len(survivors) < 5


def test_damage_before_the_end_is_refused_with_its_line(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append("sweep_started")
        journal.append("sweep_ended")
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes().replace(b'{"v"', b"#", 1))

    with pytest.raises(JournalError, match=rf"{FILE}:1: not a journal line"):
        read(path)


def test_a_newer_version_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps({"v": 99}) + "\n")

    with pytest.raises(JournalError, match="journal version 99"):
        read(tmp_path / FILE)


def test_a_second_writer_in_the_folder_is_refused(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from kdsearch.journal import Journal; Journal(Path({str(tmp_path)!r}))"
    with Journal(tmp_path):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    after = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "another sweep is running in this folder" in other.stderr
    assert after.returncode == 0


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append("sweep_started")
        whole = journal.path.read_bytes()
        good = journal._file
        journal._file = _ShortWriter(good)
        with pytest.raises(OSError, match="No space left"):
            journal.append("epoch", "t0000", epoch=1)
        journal._file = good
        assert journal.path.read_bytes() == whole
        journal.append("epoch", "t0000", epoch=1)

    assert [event["seq"] for event in read(tmp_path / FILE)] == [0, 1]


class _ShortWriter:
    """Writes half of what it is given, as a disk does that fills up."""

    def __init__(self, file: object) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        return self._file.write(data[: len(data) // 2])  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


def test_listeners_hear_an_event_that_is_already_on_disk(tmp_path: Path) -> None:
    heard = []
    with Journal(tmp_path) as journal:
        journal.listeners.append(lambda event: heard.append(read(journal.path)[-1] == event))
        journal.append("sweep_started")

    assert heard == [True]


def test_not_a_number_cannot_be_journalled(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal, pytest.raises(ValueError, match="not JSON compliant"):
        journal.append("epoch", metrics={"train_loss": float("nan")})

    assert os.path.getsize(tmp_path / FILE) == 0


def test_a_tail_has_each_event_once_and_none_that_may_be_taken_back(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        tail = Tail(journal.path)
        first = journal.append("sweep_started", name="x")
        assert tail.up_to(1) == [first]
        assert tail.up_to(1) == []
        more = [journal.append("epoch", "t0000", epoch=i) for i in range(5)]
        with journal.path.open("ab") as file:
            file.write(b'{"v": 1, "seq": 6, "ki')
        assert tail.up_to(3) + tail.up_to(6) == more


def test_a_tail_says_which_line_is_damaged(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append("sweep_started")
        journal.append("sweep_ended")
        tail = Tail(journal.path)
        tail.up_to(1)
        journal.path.write_bytes(journal.path.read_bytes().replace(b"sweep_ended", b'sweep"ended'))
        with pytest.raises(JournalError, match=rf"{FILE}:2: not a journal line"):
            tail.up_to(2)
