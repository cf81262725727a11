"""Images without labels: where they come from, how they join the batches, and what they teach."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from test_methods_training import config as config_of
from test_methods_training import networks
from test_training import CONTROL, EVERYTHING, KD, equal_weights, run, teacher_of

from kdsearch import data as datasets
from kdsearch.data import DataError, Unlabelled
from kdsearch.data.pool import NO_LABEL, Pool
from kdsearch.data.unlabelled import converted
from kdsearch.data.views import Batch, order
from kdsearch.losses import METHODS
from kdsearch.models.build import build
from kdsearch.records import Choice
from kdsearch.spec import DataSpec, UnlabelledSpec
from kdsearch.training import Training

REST = UnlabelledSpec("rest")
AUGMENT = (("crop", {"padding": 1}), ("mixup", {}))


@pytest.fixture(scope="module")
def labelled():
    return datasets.load(DataSpec("digits", subset=160))


@pytest.fixture(scope="module")
def images():
    """160 training images with labels and the 918 others without."""
    return datasets.load(DataSpec("digits", subset=160, unlabelled=REST))


@pytest.fixture(scope="module")
def few(images):
    """40 labelled images and 30 others: enough where only equality counts."""
    train, validation = (
        dataclasses.replace(split, images=split.images[:40], labels=split.labels[:40])
        for split in (images.train, images.validation)
    )
    return dataclasses.replace(with_ratio(images, 0.7, 30), train=train, validation=validation)


def pixels(images):
    return {image.tobytes() for image in images}


def with_ratio(images, ratio, number=None):
    more = images.unlabelled
    return dataclasses.replace(
        images, unlabelled=dataclasses.replace(more, ratio=ratio, images=more.images[:number])
    )


# Where they come from


def test_rest_is_what_subset_leaves_out(labelled, images):
    everything = datasets.load(DataSpec("digits"))
    assert len(images.unlabelled) == 1078 - 160
    together = pixels(images.unlabelled.images) | pixels(images.train.images)
    assert together == pixels(everything.train.images)
    assert images.unlabelled.words == "918 images that subset leaves out"
    assert dataclasses.replace(images, unlabelled=None).key == labelled.key


def test_rest_is_resized_like_the_training_images():
    images = datasets.load(DataSpec("digits", subset=160, resize=6, unlabelled=REST))
    assert images.unlabelled.images.shape == (918, 1, 6, 6)
    assert images.unlabelled.words == "918 images that subset leaves out, scaled from 8 to 6 pixels"


def test_a_share_is_drawn_by_the_seed():
    half = UnlabelledSpec("rest", share=0.5)
    keys = [
        datasets.load(DataSpec("digits", subset=160, seed=seed, unlabelled=half)).unlabelled
        for seed in (0, 0)
    ]
    assert len(keys[0]) == 459
    assert keys[0].key == keys[1].key
    assert not np.array_equal(
        keys[0].images[:100],
        datasets.load(DataSpec("digits", subset=160, unlabelled=REST)).unlabelled.images[:100],
    )


def test_nothing_left_out_is_refused():
    with pytest.raises(DataError, match=r"^data\.unlabelled: rest: data\.subset 1078 leaves no "):
        datasets.load(DataSpec("digits", subset=1078, unlabelled=REST))


def test_another_data_set_is_made_to_fit(tmp_path):
    write_folder(tmp_path / "train", ["a/1.png", "a/2.png", "b/1.png", "b/2.png", "b/3.png"], side=8)
    loaded = datasets.load(
        DataSpec("image_folder", str(tmp_path), validation=1, unlabelled=UnlabelledSpec("digits"))
    )
    # All that is not digits' own test part, whatever this request's validation and subset.
    assert loaded.unlabelled.images.shape == (1438, 3, 8, 8)
    assert loaded.unlabelled.words == "1,438 images of digits, grey repeated in three channels"
    assert not loaded.unlabelled.images.flags.writeable


def write_folder(folder, names, side):
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side), (10 * number, 50, 200)).save(path)


def test_a_folder_is_read_at_any_depth_by_path(tmp_path):
    write_folder(tmp_path, ["b.png", "a/deep/1.png", "notes.png"], side=20)
    (tmp_path / "readme.txt").write_text("not an image")
    asked = UnlabelledSpec(None, folder=str(tmp_path))
    found = datasets.load(DataSpec("digits", unlabelled=asked)).unlabelled
    greys = [Image.new("RGB", (1, 1), (red, 50, 200)).convert("L").getpixel((0, 0)) for red in (10, 0, 20)]
    assert found.images.shape == (3, 1, 8, 8)
    assert found.images[:, 0, 0, 0].tolist() == greys


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"^data\.unlabelled: .*: no images; .bmp"):
        datasets.load(DataSpec("digits", unlabelled=UnlabelledSpec(None, folder=str(tmp_path))))


def test_colour_becomes_grey_as_in_pil():
    colour = np.random.default_rng(0).integers(0, 256, (1001, 3, 5, 5), dtype=np.uint8)
    expected = [np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L")) for image in colour]
    assert np.array_equal(converted(colour, 1, 5), np.stack(expected)[:, None])


# How they join the batches


def pool(size, ratio, seed=0):
    images = np.arange(size, dtype=np.uint8)[:, None, None, None].repeat(2, 2).repeat(2, 3)
    return Pool(Unlabelled(images, ratio, "", ""), (0.0,), (1 / 255,), (), "cpu", seed)


def test_every_image_comes_once_before_any_comes_again():
    drawn = pool(10, ratio=1.0).beside(0, 30).tolist()
    assert [sorted(drawn[start : start + 10]) for start in (0, 10, 20)] == [list(range(10))] * 3
    assert drawn[:10] != drawn[10:20]


@pytest.mark.parametrize("ratio", [0.3, 1.0, 2.5])
def test_batches_of_any_size_continue_each_other(ratio):
    whole = pool(7, ratio).beside(0, 40).tolist()
    parts = [pool(7, ratio).beside(start, 8).tolist() for start in range(0, 40, 8)]
    assert list(itertools.chain.from_iterable(parts)) == whole
    assert len(whole) == int(40 * ratio)


def test_a_round_is_put_in_order_once(monkeypatch):
    rounds = []
    monkeypatch.setattr(
        "kdsearch.data.pool.order", lambda *counters: rounds.append(counters) or order(*counters)
    )
    images = pool(10, ratio=1.0)
    drawn = torch.cat([images.beside(start, 4) for start in range(0, 40, 4)])
    assert torch.equal(drawn, pool(10, ratio=1.0).beside(0, 40))
    assert len(rounds) == 4 + 4


def test_a_batch_that_gets_no_image_without_labels_trains_all_the_same(few):
    """Of 40 images, each with a tenth of one: most batches of 8 have none beside them."""
    training = Training(
        dataclasses.replace(KD, train=dataclasses.replace(KD.train, batch_size=8)),
        with_ratio(few, 0.1),
        AUGMENT,
        teacher_of(few),
    )
    assert training.run_epoch().metrics["train_loss"] > 0


def test_another_seed_gives_another_order():
    assert pool(50, 1.0, seed=1).beside(0, 50).tolist() != pool(50, 1.0).beside(0, 50).tolist()


def test_a_joined_batch_has_the_labelled_samples_first():
    batch = Batch(torch.zeros(3, 1, 2, 2), torch.tensor([4, 5, 6]), torch.tensor([7, 8, 9]))
    joined = pool(5, 1.0).join(batch, torch.tensor([2, 0]), epoch=1, stream=0, num_samples=100)
    assert joined.labels.tolist() == [4, 5, 6, NO_LABEL, NO_LABEL]
    assert joined.indices.tolist() == [7, 8, 9, 102, 100]
    assert joined.images[:, 0, 0, 0].tolist() == [0, 0, 0, 2, 0]
    assert joined.num_labelled == 3


def test_views_of_images_without_labels_are_those_of_no_labelled_one(images):
    """Even where the pixels are the same: the streams differ."""
    same = dataclasses.replace(images.unlabelled, images=images.train.images)
    training = Training(
        KD, dataclasses.replace(images, unlabelled=same), (("crop", {"padding": 2}),), teacher_of(images)
    )
    indices = torch.arange(160)
    own = training._views.batch(indices, 1, 0).images
    joined = training._pool.join(training._views.batch(indices, 1, 0), indices, 1, 0, 160).images
    assert torch.equal(joined[:160], own)
    assert not torch.equal(joined[160:], own)


# What they teach


def test_labels_weigh_the_labelled_part_and_the_teacher_all_of_it(images):
    training = Training(KD, images, teacher=teacher_of(images))
    batch = next(training._seen([torch.arange(20)], 1))
    seen = {"student": training.student.eval()(batch.images), "teacher": training._teacher(batch.images)}
    _, terms = training._loss(batch, 1)
    soft = [torch.log_softmax(seen[name] / 4, dim=1) for name in ("student", "teacher")]
    divergence = 16 * (soft[1].exp() * (soft[1] - soft[0])).sum(dim=1).mean()
    label = torch.nn.functional.cross_entropy(seen["student"][:20], batch.labels[:20])
    assert len(batch.images) == 40
    assert terms["kd"].item() == pytest.approx(divergence.item(), rel=1e-5)
    assert terms["label"].item() == pytest.approx(label.item(), rel=1e-5)


def test_a_teacher_of_several_views_sees_those_of_images_without_labels_too(few):
    config = dataclasses.replace(KD, teacher_views=2)
    training = Training(config, few, (("crop", {"padding": 1}),), teacher_of(few))
    batch = next(training._seen([torch.arange(20)], 1))
    again, further = (training._further_view(batch, 1, number) for number in (0, 1))
    assert torch.equal(again.images, batch.images)
    changed = (further.images != batch.images).flatten(1).any(dim=1)
    assert changed[:20].any()
    assert changed[20:].any()
    assert torch.equal(further.indices, batch.indices)
    assert training.run_epoch().terms["kd"] > 0


@pytest.mark.parametrize("key", [key for key, method in METHODS.items() if method.teacher])
def test_every_method_trains_beside_images_without_labels(few, key):
    """Those that need labels see none of the others: an index out of range would end the training."""
    torch.manual_seed(1)
    choice = networks(key)[1]
    teacher = build(choice.name, choice.options, few.num_classes, few.in_channels, few.image_size)
    result = Training(config_of(key, epochs=1), few, AUGMENT, teacher).run_epoch()
    assert set(result.terms) > {"label"}
    assert all(value != 0 for value in result.terms.values())


@pytest.mark.parametrize("key", ["dkd", "wsl"])
def test_a_method_that_needs_labels_learns_nothing_from_images_without(few, key):
    config = dataclasses.replace(KD, distill={"response": Choice(key)})
    alone = dataclasses.replace(few, unlabelled=None)
    with_others, without = (run(Training(config, data, teacher=teacher_of(few))) for data in (few, alone))
    assert with_others == without


def test_a_control_learns_nothing_from_images_without_labels(few):
    assert run(Training(CONTROL, few)) == run(Training(CONTROL, dataclasses.replace(few, unlabelled=None)))


@pytest.mark.parametrize("finished", [1, 2])
def test_a_training_with_images_without_labels_resumes_bit_for_bit(few, finished):
    config = dataclasses.replace(EVERYTHING, train=dataclasses.replace(EVERYTHING.train, batch_size=16))
    whole = Training(config, few, AUGMENT, teacher_of(few))
    expected = run(whole)
    interrupted = Training(config, few, AUGMENT, teacher_of(few))
    for _ in range(finished):
        interrupted.run_epoch()
    resumed = Training(config, few, AUGMENT, teacher_of(few))
    resumed.load_state_dict(interrupted.state_dict())
    assert run(resumed) == expected[finished:]
    assert equal_weights(resumed.student.state_dict(), whole.student.state_dict())
