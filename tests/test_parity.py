"""The gate about the cache lets a true cache through, and refuses one that gives the wrong rows."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from few_images import few_digits

from benchmarks import parity
from kdsearch.models.build import build
from kdsearch.output_cache import HEADER_BYTES, Shelf
from kdsearch.teacher_model import Frozen

EVEN = [{"kept": 0.90, "exact": 0.91}, {"kept": 0.91, "exact": 0.90}] * 15
EPOCHS = 3


@pytest.fixture
def images():
    return few_digits(80, 2)


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return Frozen(build("resnet", {"depth": 8, "width": 0.25}, 10, 1, 8))


def shift_rows(path):
    """Every sample gets its neighbour's outputs, in a file that is whole by its own header."""
    content = path.read_bytes()
    header = json.loads(content[:HEADER_BYTES])
    rows = np.frombuffer(content[HEADER_BYTES:], np.float16).reshape(header["num_samples"], -1)
    shifted = np.roll(rows, 1, axis=0).tobytes()
    text = json.dumps({**header, "sha256": hashlib.sha256(shifted).hexdigest()}).encode()
    path.write_bytes(text.ljust(HEADER_BYTES) + shifted)


def line(method, images, teacher, folder):
    config = parity.config_of(method, EPOCHS)
    return {"method": method, **parity.deviations(config, images, teacher, Shelf(folder, "a", 1e9))}


def test_a_true_cache_passes(images, teacher, tmp_path):
    lines = [line(method, images, teacher, tmp_path) for method in ("kd", "rkd", "crd")]
    assert parity.complaints(lines, EVEN) == []
    assert [one["live"] for one in lines] == [0, 0, 0]
    assert all(0 < one["exact"] < parity.LARGEST_DEVIATION for one in lines)


def test_a_cache_whose_rows_are_shifted_is_refused(images, teacher, tmp_path):
    """In the second epoch's file: a first one that is opened is compared with the teacher, and made anew."""
    line("kd", images, teacher, tmp_path)
    shift_rows(next((tmp_path / "outputs").glob("*/stream-0-epoch-2.f16")))
    broken = line("kd", images, teacher, tmp_path)
    assert min(broken["live"], broken["exact"]) > parity.LARGEST_DEVIATION
    assert [text.split(":")[0] for text in parity.complaints([broken], EVEN)] == ["kd", "kd"]


def test_a_loss_that_is_no_number_is_refused():
    broken = {"method": "kd", "live": 0.0, "exact": parity.apart([float("nan")], [1.0])[0]}
    assert len(parity.complaints([broken], EVEN)) == 1


def test_accuracies_that_differ_on_average_are_refused():
    worse = [{**pair, "kept": pair["kept"] - 0.02} for pair in EVEN]
    assert parity.complaints([], EVEN) == []
    assert "accuracies from the files differ by -0.02" in parity.complaints([], worse)[0]


def test_too_few_pairs_to_tell_are_refused():
    assert len(parity.complaints([], EVEN[:2])) == 1


def test_every_method_that_reads_logits_or_embeddings_is_compared():
    found = parity.cacheable()
    assert {"kd", "dkd", "mlkd", "rkd", "crd"} <= set(found)
    assert not {"fitnet", "tfkd"} & set(found)


def test_a_deviation_is_a_share_of_the_reference():
    assert parity.apart([1.0, 4.0], [1.0, 5.0]) == pytest.approx([0.0, 0.2])


def test_a_recorded_method_is_not_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr(parity.pairs, "RESULTS", tmp_path)
    values = iter([0.1, 0.2])
    about = {"method": "kd"}
    first, second = (parity.kept_or(about, lambda: {"live": next(values)}) for _ in range(2))
    assert first["live"] == second["live"] == 0.1
