"""Images that are too many for memory train the same students as those that are not."""

import multiprocessing
import os
import pickle
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdsearch import data
from kdsearch.data import DataError, large
from kdsearch.data.views import Views
from kdsearch.records import Choice, TrainConfig, TrialConfig
from kdsearch.spec import DataSpec
from kdsearch.training import Training

AUGMENT = (("crop", {}), ("flip", {}), ("cutout", {}), ("mixup", {}))
NUM_IMAGES = 90


@pytest.fixture
def spec(tmp_path, monkeypatch):
    """A folder of images of 20x20 pixels, scaled to 16, of which 60 are kept to train on."""
    monkeypatch.setenv("KDSEARCH_HOME", str(tmp_path / "home"))
    draw = np.random.default_rng(0)
    for part, count in (("train", NUM_IMAGES), ("test", 6)):
        for number in range(count):
            folder = tmp_path / part / f"class{number % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (20, 20, 3), np.uint8)).save(folder / f"{number}.png")
    return DataSpec("image_folder", str(tmp_path), subset=60, resize=16)


@pytest.fixture
def resident(spec):
    return data.load(spec)


@pytest.fixture
def mapped(spec, monkeypatch):
    monkeypatch.setattr(large, "resident_bytes", lambda: 0)
    return data.load(spec)


def files(folder):
    return list((folder / "home" / "images").glob("*"))


def test_the_data_are_the_same(resident, mapped):
    assert (large.is_mapped(resident.train.images), large.is_mapped(mapped.train.images)) == (False, True)
    assert mapped.key == resident.key
    assert (mapped.mean, mapped.std) == (resident.mean, resident.std)
    for one, other in ((resident.train, mapped.train), (resident.validation, mapped.validation)):
        assert np.array_equal(one.images, other.images)
        assert np.array_equal(one.labels, other.labels)


def test_batches_are_the_same_bit_for_bit(resident, mapped):
    def batches(images):
        views = Views(images.train, images.mean, images.std, AUGMENT)
        indices = torch.tensor([5, 59, 0, 17])
        return [views.plain(indices), views.batch(indices, 3, 1), views.strong(indices, 3, 1)]

    for one, other in zip(batches(resident), batches(mapped), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


def test_a_training_is_the_same_bit_for_bit(resident, mapped):
    config = TrialConfig(Choice("resnet", {"depth": 8, "width": 0.25}), TrainConfig(epochs=1, batch_size=20))
    one, other = (Training(config, images, AUGMENT).run_epoch() for images in (resident, mapped))
    assert (one.metrics, one.terms) == (other.metrics, other.terms)


def test_images_on_the_host_are_picked_without_asking_the_device(mapped):
    """Tensors without content stand for a GPU's: what is asked of them is refused."""
    views = Views(mapped.train, mapped.mean, mapped.std, AUGMENT, "meta")
    indices = torch.tensor([5, 59, 0, 17])
    for batch in (views.plain(indices), views.batch(indices, 3, 1), views.strong(indices, 3, 1)):
        assert batch.images.shape == (4, 3, 16, 16)
        assert {batch.images.device.type, batch.labels.device.type, batch.indices.device.type} == {"meta"}


def test_another_process_maps_the_same_file(mapped):
    content = pickle.dumps(mapped.train)
    assert len(content) < mapped.train.images.nbytes / 10
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        images = pool.apply(pickle.loads, (content,)).images
    assert np.array_equal(images, mapped.train.images)


def test_resident_images_are_handed_on_without_a_copy(resident):
    buffers = []
    content = pickle.dumps(resident.train, protocol=5, buffer_callback=buffers.append)
    assert any(buffer.raw().nbytes == resident.train.images.nbytes for buffer in buffers)
    images = pickle.loads(content, buffers=buffers).images
    assert np.shares_memory(images, resident.train.images)
    assert not images.flags.writeable


def test_a_process_that_does_not_see_the_file_says_what_to_do(mapped, tmp_path):
    content = pickle.dumps(mapped.train)
    shutil.rmtree(tmp_path / "home")
    with pytest.raises(DataError, match="KDSEARCH_HOME at a folder that all nodes share"):
        pickle.loads(content)


def test_what_was_needed_on_the_way_is_removed_and_the_rest_at_the_end(mapped, tmp_path):
    kept = {Path(mapped.train.images.filename), Path(mapped.validation.images.filename)}
    assert set(files(tmp_path)) == kept


def test_files_go_with_the_process_and_those_of_a_killed_one_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setenv("KDSEARCH_HOME", str(tmp_path / "home"))
    code = "import os; from kdsearch.data import large; large.resident_bytes = lambda: 0\n"
    code += "images = large.allocate((4, 1, 2, 2)); "
    subprocess.run([sys.executable, "-c", code], check=True)
    assert files(tmp_path) == []
    subprocess.run([sys.executable, "-c", code + "os.kill(os.getpid(), 9)"], check=False)
    assert len(files(tmp_path)) == 1
    monkeypatch.setattr(large, "resident_bytes", lambda: 0)
    images = large.allocate((4, 1, 2, 2))
    assert [file.name.split("-")[-2] for file in files(tmp_path)] == [str(os.getpid())]
    assert files(tmp_path)[0].name.startswith(platform.node())
    assert images.shape == (4, 1, 2, 2)


def test_files_of_a_machine_whose_name_begins_alike_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("KDSEARCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(large, "resident_bytes", lambda: 0)
    first = large.allocate((4, 1, 2, 2))
    folder = Path(first.filename).parent
    no_process = 2**22 + 1  # beyond Linux's largest process id
    (folder / f"{platform.node()}-{no_process}-{'0' * 32}{large.SUFFIX}").touch()
    theirs = folder / f"{platform.node()}-{no_process}-17-{'0' * 32}{large.SUFFIX}"
    theirs.touch()
    second = large.allocate((4, 1, 2, 2))
    assert {file.name for file in folder.iterdir()} == {
        theirs.name,
        Path(first.filename).name,
        Path(second.filename).name,
    }


def test_too_little_room_on_the_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("KDSEARCH_HOME", str(tmp_path / "home"))
    with pytest.raises(DataError, match="GB of images are too many for memory, and for"):
        large.allocate((10**9, 3, 512, 512))
    assert files(tmp_path) == []


def test_a_machine_keeps_a_part_of_its_memory_free():
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < large.resident_bytes() <= physical / 4
