"""Every data set kind through its real reader: sizes, splits, keys, messages, pickles that are refused."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cifar_archive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kdsearch import data
from kdsearch.data import AUGMENTATIONS, DATASETS, DataError, Split, cifar, fashion_mnist
from kdsearch.data.counter import Purpose
from kdsearch.data.loading import channel_statistics, content_key, open_source, resize, stratified
from kdsearch.options import REQUIRED
from kdsearch.spec import DataSpec


def write_idx(path: Path, array: np.ndarray, pack: bool = True) -> None:
    content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, compresslevel=1) if pack else content)


def write_fashion(folder: Path, suffix: str = ".gz", num_train: int = 200, num_test: int = 30) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", num_train), ("t10k", num_test)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", images, pack=suffix == ".gz")
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", labels, pack=suffix == ".gz")


def write_images(root: Path, part: str, per_class: Mapping[str, int], size: tuple[int, int] = (8, 8)) -> None:
    """PNG files whose red value is the image's number in the part."""
    number = 0
    for name, count in per_class.items():
        (root / part / name).mkdir(parents=True)
        for position in range(count):
            Image.new("RGB", size, (number, 100, 200)).save(root / part / name / f"{position:03d}.png")
            number += 1


def write_image_folder(root: Path) -> None:
    write_images(root, "train", {"cat": 60, "dog": 40, "emu": 20})
    write_images(root, "test", {"cat": 6, "dog": 4, "emu": 2})


WRITERS: dict[str, Callable[[Path], object]] = {
    "cifar10": lambda root: cifar_archive.write(root, num_classes=10, num_train=200, num_test=20),
    "cifar100": lambda root: cifar_archive.write(root, num_classes=100, num_train=400, num_test=100),
    "digits": lambda root: None,
    "fashion_mnist": write_fashion,
    "image_folder": write_image_folder,
}


@pytest.fixture(params=sorted(DATASETS))
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> DataSpec:
    WRITERS[request.param](tmp_path)
    return DataSpec(request.param, root=str(tmp_path))


def all_pixels(*splits: Split) -> list[bytes]:
    return [image.tobytes() for split in splits for image in split.images]


# The tables


def test_tables_are_sorted_and_every_option_has_a_default_and_a_meaning():
    options = [o for kind in DATASETS.values() for o in kind.options.values()]
    options += [o for augmentation in AUGMENTATIONS.values() for o in augmentation.values()]
    assert list(DATASETS) == sorted(DATASETS)
    assert list(AUGMENTATIONS) == sorted(AUGMENTATIONS)
    assert all(option.default is not REQUIRED and option.doc for option in options)


def test_tables_need_neither_torch_nor_numpy():
    command = "import sys, kdsearch.data; print({'torch', 'numpy', 'sklearn', 'PIL'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


# What holds for every kind


def test_sizes_are_the_published_ones_where_the_table_publishes_them(spec):
    kind, loaded = DATASETS[spec.dataset], data.load(spec)
    assert loaded.num_classes == (kind.num_classes or 3)
    assert loaded.in_channels == (kind.in_channels or 3)
    assert loaded.image_size == (kind.image_size or 8)
    assert len(loaded.mean) == len(loaded.std) == loaded.in_channels


def test_every_split_is_read_only_square_uint8_with_labels_in_range(spec):
    loaded = data.load(spec)
    for split in (loaded.train, loaded.validation, data.load_test(spec)):
        assert split.images.dtype == np.uint8
        assert split.images.shape == (len(split), loaded.in_channels, loaded.image_size, loaded.image_size)
        assert split.labels.dtype == np.int64
        assert 0 <= split.labels.min() <= split.labels.max() < loaded.num_classes
        assert not split.images.flags.writeable
        assert not split.labels.flags.writeable
        assert split.images.flags.c_contiguous


def test_same_request_gives_the_same_key_whatever_the_global_generators(spec):
    np.random.seed(1)
    torch.manual_seed(1)
    first = data.load(spec)
    np.random.seed(2)
    torch.manual_seed(2)
    assert data.load(spec).key == first.key


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"validation": 30}, {"subset": 100}, {"resize": 6}],
    ids=lambda change: next(iter(change)),
)
def test_split_subset_and_size_change_the_key(spec, change):
    assert data.load(replace(spec, **change)).key != data.load(spec).key


def test_count_of_validation_images_is_exact_and_the_rest_is_left_to_train(spec):
    default, counted = data.load(spec), data.load(replace(spec, validation=37))
    assert len(counted.validation) == 37
    assert len(counted.train) + 37 == len(default.train) + len(default.validation)


def test_subset_keeps_this_many_training_images_and_the_whole_validation(spec):
    whole, subset = data.load(spec), data.load(replace(spec, subset=100))
    assert len(subset.train) == 100
    assert set(all_pixels(subset.train)) <= set(all_pixels(whole.train))
    assert np.array_equal(subset.validation.images, whole.validation.images)


def test_resize_applies_to_all_three_splits(spec):
    resized = replace(spec, resize=6)
    loaded = data.load(resized)
    assert loaded.image_size == 6
    assert loaded.validation.images.shape[2:] == (6, 6)
    assert data.load_test(resized).images.shape[2:] == (6, 6)


def test_test_split_does_not_move_with_seed_or_validation(spec):
    moved = data.load_test(replace(spec, seed=5, validation=0.3))
    assert np.array_equal(moved.images, data.load_test(spec).images)


def test_loading_train_and_validation_never_reads_the_test_files(tmp_path):
    folder = cifar_archive.write(tmp_path, num_classes=100, num_train=200, num_test=100)
    (folder / "test").write_bytes(b"not a batch")
    assert len(data.load(DataSpec("cifar100", str(tmp_path))).train) == 180


@pytest.mark.parametrize(("validation", "words"), [(120, "120 of the 120"), (0.001, "0 of the 120")])
def test_impossible_validation_is_refused_with_the_numbers(tmp_path, validation, words):
    write_image_folder(tmp_path)
    said = rf"data\.validation: {validation}: that is {words} .*; 1 to 119, or a fraction below 1"
    with pytest.raises(DataError, match=said):
        data.load(DataSpec("image_folder", str(tmp_path), validation=validation))


@pytest.mark.parametrize("subset", [2, 109])
def test_impossible_subset_is_refused_with_its_bounds(tmp_path, subset):
    write_image_folder(tmp_path)
    with pytest.raises(DataError, match=rf"data\.subset: {subset}: must be between 3 .* and 108"):
        data.load(DataSpec("image_folder", str(tmp_path), subset=subset))


# Splitting


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**62),
)
def test_stratified_takes_exactly_the_count_with_every_class_within_one_of_its_share(sizes, share, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    count = round(share * len(labels))
    positions = stratified(labels, count, seed, Purpose.SUBSET)
    taken = np.bincount(labels[positions], minlength=len(sizes))
    assert len(positions) == count
    assert np.all(np.diff(positions) > 0)
    assert np.all(np.abs(taken - np.array(sizes) * count / len(labels)) < 1)


def test_stratified_depends_on_seed_and_purpose():
    labels = np.arange(1000) % 10
    draws = [stratified(labels, 100, *key).tolist() for key in ((0, Purpose.SUBSET), (1, Purpose.SUBSET))]
    draws.append(stratified(labels, 100, 0, Purpose.VALIDATION_SPLIT).tolist())
    overlaps = [len(set(a) & set(b)) for a, b in ((draws[0], draws[1]), (draws[0], draws[2]))]
    assert all(overlap < 30 for overlap in overlaps)  # 10 expected by chance


def test_stratified_with_a_class_that_no_sample_has():
    assert stratified(np.array([0, 0, 2, 2]), 2, 0, Purpose.SUBSET).size == 2


def test_no_sample_is_in_two_splits_and_none_is_lost(tmp_path):
    cifar_archive.write(tmp_path, num_classes=10, num_train=200, num_test=20)
    request = DataSpec("cifar10", str(tmp_path), validation=0.25)
    loaded, test = data.load(request), data.load_test(request)
    assert len(set(all_pixels(loaded.train, loaded.validation, test))) == 220


def test_digits_are_split_60_20_20_in_every_class():
    loaded, test = data.load(DataSpec("digits")), data.load_test(DataSpec("digits"))
    counts = np.stack([np.bincount(split.labels) for split in (loaded.train, loaded.validation, test)])
    assert counts.sum(axis=1).tolist() == [1078, 360, 359]
    assert np.abs(counts / counts.sum(axis=0) - [[0.6], [0.2], [0.2]]).max() < 0.01


def test_digits_use_the_whole_range_of_uint8():
    images = data.load(DataSpec("digits")).train.images
    assert set(np.unique(images)) == {round(level * 255 / 16) for level in range(17)}


# Size, normalisation, key


@pytest.mark.parametrize("size", [1, 5, 14, 31, 40])
def test_resize_is_pils_antialiased_bilinear(size):
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 28, 28), dtype=np.uint8)
    expected = [
        np.asarray(Image.fromarray(image.transpose(1, 2, 0)).resize((size, size), Image.Resampling.BILINEAR))
        for image in images
    ]
    assert np.array_equal(resize(images, size), np.stack(expected).transpose(0, 3, 1, 2))


def test_mean_and_std_are_those_of_the_training_images():
    images = np.random.default_rng(0).integers(0, 200, (5000, 3, 4, 4)).astype(np.uint8)
    mean, std = channel_statistics(images)
    assert mean == pytest.approx((images / 255).mean(axis=(0, 2, 3)))
    assert std == pytest.approx((images / 255).std(axis=(0, 2, 3)))


def test_std_of_a_flat_channel_is_one_grey_level_not_zero():
    assert channel_statistics(np.full((2, 1, 4, 4), 7, np.uint8)) == ((pytest.approx(7 / 255),), (1 / 255,))


def test_key_changes_with_a_pixel_a_label_a_name_and_the_order_of_splits():
    a, b = (
        Split(np.zeros((2, 1, 2, 2), np.uint8), np.array([0, 1])),
        Split(np.ones((2, 1, 2, 2), np.uint8), np.array([0, 1])),
    )
    pixel = Split(a.images.copy(), a.labels)
    pixel.images[1, 0, 1, 1] = 1
    keys = {
        content_key([a, b], ("x", "y")),
        content_key([b, a], ("x", "y")),
        content_key([pixel, b], ("x", "y")),
        content_key([Split(a.images, np.array([1, 0])), b], ("x", "y")),
        content_key([a, b], ("x", "z")),
    }
    assert len(keys) == 5


# Fashion-MNIST


@pytest.mark.parametrize(
    ("folder", "suffix"), [("FashionMNIST/raw", ""), ("FashionMNIST/raw", ".gz"), ("", ".gz"), ("", "")]
)
def test_fashion_mnist_is_found_in_torchvisions_layout_and_flat(tmp_path, folder, suffix):
    write_fashion(tmp_path / folder, suffix)
    loaded = data.load(DataSpec("fashion_mnist", str(tmp_path)))
    assert len(loaded.train) == 180
    assert loaded.class_names[9] == "Ankle boot"


def test_fashion_mnist_falls_back_to_debians_package(tmp_path, monkeypatch):
    write_fashion(tmp_path / "debian")
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    assert len(data.load_test(DataSpec("fashion_mnist", str(tmp_path / "nothing")))) == 30


def test_fashion_mnist_with_an_eleventh_class_is_refused(tmp_path):
    write_fashion(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.full(200, 10, np.uint8))
    with pytest.raises(DataError, match="label 10; there are 10 classes"):
        data.load(DataSpec("fashion_mnist", str(tmp_path)))


def test_fashion_mnist_with_fewer_labels_than_images_is_refused(tmp_path):
    write_fashion(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.zeros(199, np.uint8))
    with pytest.raises(DataError, match=r"\(200, 28, 28\) images for \(199,\) labels"):
        data.load(DataSpec("fashion_mnist", str(tmp_path)))


def test_missing_fashion_mnist_says_which_files_go_where(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "no-debian")
    monkeypatch.setattr(fashion_mnist, "_MIRROR", f"file://{tmp_path}/no-mirror/")
    with pytest.raises(DataError) as caught:
        data.load(DataSpec("fashion_mnist", str(tmp_path)))
    for words in (
        "train-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
        str(tmp_path),
        "dataset-fashion-mnist",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\0\0\x08\x03\0\0", b"\0\0\x08\x01\0\0\0\x05abc", b"GIF89a" * 9])
def test_broken_idx_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match="train-images-idx3-ubyte: not an idx file"):
        fashion_mnist.read_idx(path)


def test_truncated_gzip_is_refused_by_name(tmp_path):
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    write_idx(path, np.arange(100, dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: cannot be read"):
        fashion_mnist.read_idx(path)


@pytest.mark.skipif(
    not fashion_mnist.DEBIAN_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)
def test_the_real_fashion_mnist_has_its_published_statistics(tmp_path):
    loaded = data.load(DataSpec("fashion_mnist", str(tmp_path), validation=5000))
    assert np.bincount(loaded.train.labels).tolist() == [5500] * 10
    assert loaded.mean == pytest.approx((0.2860,), abs=1e-3)  # of all 60,000
    assert loaded.std == pytest.approx((0.3530,), abs=1e-3)


# CIFAR


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar.gz"])
@pytest.mark.parametrize("num_classes", [10, 100])
def test_cifar_reads_pixels_labels_and_names_of_the_official_format(tmp_path, num_classes, packed):
    cifar_archive.write(tmp_path, num_classes, num_train=305, num_test=40, packed=packed)
    source = open_source(DataSpec(f"cifar{num_classes}", str(tmp_path)))
    rows, labels = cifar_archive.make_images(305, num_classes, seed=0)
    train = source.train()
    assert np.array_equal(train.images, rows.reshape(305, 3, 32, 32))
    assert np.array_equal(train.labels, labels)
    assert source.class_names[-1] == f"class_{num_classes - 1:03d}"
    assert len(source.test()) == 40


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_cifar_batch_written_by_python_3_reads_the_same(tmp_path, protocol):
    pixels = np.asfortranarray(np.arange(6 * 3072, dtype=np.uint8).reshape(6, 3072))
    entry = {"data": pixels, b"fine_labels": [0, 1, 2], "filenames": ["a.png", b"b.png"]}
    (tmp_path / "train").write_bytes(pickle.dumps(entry, protocol=protocol))
    read = cifar.read_batch(tmp_path / "train")
    assert np.array_equal(read["data"], pixels)
    assert read["fine_labels"] == [0, 1, 2]
    assert read["filenames"] == ["a.png", "b.png"]


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "argument", "name"),
    [
        (os.system, "touch {}", r"posix\.system"),
        (eval, "open('{}', 'w')", r"\w*builtin\w*\.eval"),
        (np.load, "{}", r"numpy\S*\.load"),
    ],
    ids=["os.system", "eval", "numpy.load"],
)
def test_malicious_pickle_is_refused_in_words_and_never_runs(tmp_path, function, argument, name, protocol):
    trap = tmp_path / "trap"
    attack = Calls(function, argument.format(trap))
    entry = {"data": np.zeros((1, 3072), np.uint8), "fine_labels": [attack]}
    (tmp_path / "train").write_bytes(pickle.dumps(entry, protocol=protocol))
    with pytest.raises(
        DataError, match=rf"train: not a CIFAR batch that is safe to read \(it asks for {name};"
    ):
        cifar.read_batch(tmp_path / "train")
    assert not trap.exists()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"data": np.zeros((1, 3072))}),
        pickle.dumps({"data": np.array([os], dtype=object).astype(str).astype(object)}),
        pickle.dumps([1, 2]),
        pickle.dumps({"data": np.zeros((4, 3072), np.uint8)}, protocol=2)[:-50],
        b"",
        b"<html>404</html>",
        b"cnumpy\ndtype\n(S'u1'\ntR(I1\nI2\ntb.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"cnumpy.core.multiarray\n_reconstruct\n(tR(I1\n(I9\ntI3\nI00\nS'abc'\ntb.",
    ],
    ids=["float", "object", "list", "truncated", "empty", "html", "bare dtype", "huge frame", "no dtype"],
)
def test_a_file_that_is_no_cifar_batch_is_refused_by_name(tmp_path, content):
    (tmp_path / "train").write_bytes(content)
    with pytest.raises(DataError, match="train: not a CIFAR batch"):
        cifar.read_batch(tmp_path / "train")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fine_labels": [0] * 199}, "200 images, but 199 labels"),
        ({"fine_labels": [100] * 200}, "no labels from 0 to 99"),
        ({"fine_labels": None}, "no labels from 0 to 99"),
        ({"data": np.zeros((200, 3071), np.uint8)}, "no rows of 3072 bytes"),
    ],
)
def test_cifar_batch_whose_parts_do_not_fit_is_refused(tmp_path, change, words):
    folder = cifar_archive.write(tmp_path, num_classes=100, num_train=200, num_test=100)
    entry = cifar.read_batch(folder / "train") | change
    (folder / "train").write_bytes(pickle.dumps(entry, protocol=2))
    with pytest.raises(DataError, match=words):
        data.load(DataSpec("cifar100", str(tmp_path)))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a small CIFAR-100 archive on a web server of this process."""
    cifar_archive.write(tmp_path / "site", num_classes=100, num_train=200, num_test=100, packed=True)
    monkeypatch.setenv("no_proxy", "*")
    handler = partial(QuietHandler, directory=str(tmp_path / "site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/cifar-100-python.tar.gz"
        server.shutdown()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing into the tests' output."""


def test_download_with_the_official_md5_is_unpacked_into_torchvisions_layout(tmp_path, site, monkeypatch):
    md5 = hashlib.md5((tmp_path / "site" / "cifar-100-python.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(cifar, "CIFAR100", replace(cifar.CIFAR100, url=site, md5=md5))
    assert len(data.load(DataSpec("cifar100", str(tmp_path / "data"))).train) == 180
    assert {path.name for path in (tmp_path / "data" / "cifar-100-python").iterdir()} == {
        "train",
        "test",
        "meta",
    }


def test_download_with_another_md5_is_refused_and_leaves_nothing(tmp_path, site, monkeypatch):
    monkeypatch.setattr(cifar, "CIFAR100", replace(cifar.CIFAR100, url=site))
    with pytest.raises(DataError, match=r"corrupted.*Put it, or the folder cifar-100-python out of it, into"):
        data.load(DataSpec("cifar100", str(tmp_path / "data")))
    assert {path.name for path in (tmp_path / "data").iterdir()} <= {".kdsearch.lock"}


def test_missing_cifar_says_which_file_goes_where(tmp_path, monkeypatch):
    url = f"file://{tmp_path}/nowhere/cifar-100-python.tar.gz"
    monkeypatch.setattr(cifar, "CIFAR100", replace(cifar.CIFAR100, url=url))
    with pytest.raises(DataError) as caught:
        data.load(DataSpec("cifar100", str(tmp_path)))
    for words in ("cifar-100-python.tar.gz", "folder cifar-100-python", str(tmp_path)):
        assert words in str(caught.value)


def test_two_that_ask_at_once_download_once(tmp_path, monkeypatch):
    archive = cifar_archive.write(tmp_path / "site", 100, num_train=200, num_test=100, packed=True)
    starts, downloads = threading.Barrier(4, timeout=30), []

    def download(url: str, md5: str, target: Path, otherwise: str) -> None:
        downloads.append(url)
        target.write_bytes(archive.read_bytes())

    def ask(_: int) -> str:
        starts.wait()
        return data.load(DataSpec("cifar100", str(tmp_path / "data"))).key

    monkeypatch.setattr(cifar, "download", download)
    with ThreadPoolExecutor(4) as pool:
        keys = list(pool.map(ask, range(4)))
    assert len(downloads) == 1
    assert len(set(keys)) == 1


def test_truncated_tar_is_refused_and_no_half_file_is_taken_for_a_batch(tmp_path):
    archive = cifar_archive.write(tmp_path, num_classes=100, packed=True)
    archive.write_bytes(archive.read_bytes()[:100_000])
    for _ in range(2):
        with pytest.raises(DataError, match=r"cifar-100-python\.tar\.gz: cannot be unpacked"):
            data.load(DataSpec("cifar100", str(tmp_path)))


def test_a_full_disk_leaves_no_half_file_that_is_taken_for_a_batch(tmp_path, monkeypatch):
    cifar_archive.write(tmp_path, num_classes=100, num_train=200, num_test=100, packed=True)

    def write_half(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_bytes", write_half)
        with pytest.raises(DataError, match=r"cannot be unpacked .*No space left"):
            data.load(DataSpec("cifar100", str(tmp_path)))
    assert len(data.load(DataSpec("cifar100", str(tmp_path))).train) == 180


def test_half_a_cifar_folder_is_completed_from_the_tar(tmp_path):
    cifar_archive.write(tmp_path, num_classes=10, packed=True)
    expected = data.load(DataSpec("cifar10", str(tmp_path))).key
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    assert data.load(DataSpec("cifar10", str(tmp_path))).key == expected


# Image folders


def test_image_folder_reads_classes_by_name_and_pixels_channel_first(tmp_path):
    write_images(tmp_path, "train", {"dog": 2, "cat": 3})
    source = open_source(DataSpec("image_folder", str(tmp_path)))
    train = source.train()
    assert source.class_names == ("cat", "dog")
    assert train.labels.tolist() == [0, 0, 0, 1, 1]
    assert train.images[:, :, 0, 0].tolist() == [[red, 100, 200] for red in (2, 3, 4, 0, 1)]


def test_image_folder_keeps_every_pixel_in_its_place(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    write_images(tmp_path, "train", {"cat": 1, "dog": 1})
    Image.fromarray(pixels).save(tmp_path / "train" / "dog" / "000.png")
    train = open_source(DataSpec("image_folder", str(tmp_path))).train()
    assert np.array_equal(train.images[1], pixels.transpose(2, 0, 1))


def test_an_image_of_16_bits_is_refused_and_not_clipped(tmp_path):
    write_images(tmp_path, "train", {"cat": 1, "dog": 1})
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(deep).save(tmp_path / "train" / "dog" / "000.png")
    with pytest.raises(DataError, match=r"dog/000\.png: cannot be decoded \(16 or more bits"):
        open_source(DataSpec("image_folder", str(tmp_path))).train()


@pytest.mark.parametrize("name", ["validation", "val"])
def test_image_folder_uses_its_own_validation(tmp_path, name):
    write_image_folder(tmp_path)
    write_images(tmp_path, name, {"cat": 2, "dog": 2})
    loaded = data.load(DataSpec("image_folder", str(tmp_path)))
    assert (len(loaded.train), len(loaded.validation)) == (120, 4)


def test_seed_draws_the_subset_too(tmp_path):
    write_image_folder(tmp_path)
    write_images(tmp_path, "val", {"cat": 2, "dog": 2})
    spec = DataSpec("image_folder", str(tmp_path), subset=50)
    assert data.load(spec).key != data.load(replace(spec, seed=1)).key


def test_image_folder_with_its_own_validation_refuses_to_split_another(tmp_path):
    write_image_folder(tmp_path)
    write_images(tmp_path, "val", {"cat": 2, "dog": 2})
    with pytest.raises(DataError, match=r"data\.validation: 0\.2: .* has its own validation folder"):
        data.load(DataSpec("image_folder", str(tmp_path), validation=0.2))


def test_image_folder_without_a_test_split_says_so_before_and_when_asked(tmp_path):
    write_images(tmp_path, "train", {"cat": 20, "dog": 20})
    request = DataSpec("image_folder", str(tmp_path))
    assert not data.has_test(request)
    with pytest.raises(DataError, match="has no test split; put one into"):
        data.load_test(request)


def test_has_test_is_true_for_every_kind_with_a_test_split(spec):
    assert data.has_test(spec)


def test_image_size_crops_the_centre_square_and_scales_it(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        pixels = np.zeros((10, 30, 3), np.uint8)
        pixels[:, 10:20] = 90
        Image.fromarray(pixels).save(tmp_path / "train" / name / "wide.png")
    source = open_source(DataSpec("image_folder", str(tmp_path), options={"image_size": 5}))
    images = source.train().images
    assert images.shape == (2, 3, 5, 5)
    assert np.unique(images).tolist() == [90]


def test_grey_gives_one_channel(tmp_path):
    write_image_folder(tmp_path)
    assert data.load(DataSpec("image_folder", str(tmp_path), options={"grey": True})).in_channels == 1


def test_images_of_other_sizes_need_image_size(tmp_path):
    write_images(tmp_path, "train", {"cat": 5, "dog": 5})
    Image.new("RGB", (9, 8)).save(tmp_path / "train" / "dog" / "wide.png")
    with pytest.raises(
        DataError, match=r"wide\.png: 9x8, but the first image is 8x8: set data\.image_size, for"
    ):
        data.load(DataSpec("image_folder", str(tmp_path)))


def test_first_image_that_is_not_square_needs_image_size(tmp_path):
    write_images(tmp_path, "train", {"cat": 5, "dog": 5}, size=(9, 8))
    with pytest.raises(DataError, match=r"9x8, not square: set data\.image_size, for"):
        data.load(DataSpec("image_folder", str(tmp_path)))


def test_an_image_that_cannot_be_decoded_is_named(tmp_path):
    write_image_folder(tmp_path)
    (tmp_path / "train" / "dog" / "007.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"dog/007\.png: cannot be decoded"):
        data.load(DataSpec("image_folder", str(tmp_path)))


def test_a_test_class_that_training_does_not_have_is_named(tmp_path):
    write_image_folder(tmp_path)
    (tmp_path / "test" / "yak").mkdir()
    with pytest.raises(DataError, match="test/yak: no class of that name in"):
        data.load_test(DataSpec("image_folder", str(tmp_path)))


@pytest.mark.parametrize("classes", [{}, {"cat": 3}])
def test_fewer_than_two_class_folders_show_the_layout(tmp_path, classes):
    write_images(tmp_path, "train", classes)
    with pytest.raises(DataError, match=r"train: \d class folders; .* train/cat/1\.png"):
        data.load(DataSpec("image_folder", str(tmp_path)))


def test_a_class_folder_without_images_says_what_is_in_it(tmp_path):
    write_images(tmp_path, "train", {"cat": 0, "dog": 5})
    cat = tmp_path / "train" / "cat"
    (cat / "one").mkdir(parents=True)
    for name in ("a.tif", "b.TIF", ".hidden"):
        (cat / name).touch()
    with pytest.raises(
        DataError, match=r"train/cat: no images; found 2 \.tif files, 1 folder; \.bmp, .* directly"
    ):
        data.load(DataSpec("image_folder", str(tmp_path)))


def test_an_empty_class_folder_is_named(tmp_path):
    write_images(tmp_path, "train", {"cat": 5, "dog": 5})
    (tmp_path / "train" / "emu").mkdir()
    with pytest.raises(DataError, match=r"train/emu: no images; \.bmp"):
        data.load(DataSpec("image_folder", str(tmp_path)))


def test_files_that_are_not_read_are_told(tmp_path, caplog):
    write_image_folder(tmp_path)
    (tmp_path / "train" / "cat" / "a.gif").touch()
    data.load(DataSpec("image_folder", str(tmp_path)))
    assert "train: not read, only .bmp, .jpeg, .jpg, .png, .webp are: 1 .gif file" in caplog.text


def test_a_class_left_without_training_images_is_named(tmp_path):
    write_images(tmp_path, "train", {"cat": 30, "dog": 30, "emu": 1})
    with pytest.raises(DataError, match=r"no training image is left for emu: use a smaller data\.validation"):
        data.load(DataSpec("image_folder", str(tmp_path), validation=0.9))
