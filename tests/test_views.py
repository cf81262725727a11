"""Views: the pixels are the right ones, a view belongs to its sample, and the hash behind them is random."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdsearch.data import AUGMENTATIONS, Split, views
from kdsearch.data.counter import Purpose, below, counter_hash, fold_in
from kdsearch.data.views import Views, crop, cutout_, flip, order

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
EVERYTHING = (("crop", {}), ("flip", {}), ("cutout", {}), ("mixup", {}))
EVERY_AUGMENTATION = [(), (("crop", {}),), (("flip", {}),), (("cutout", {}),), (("mixup", {}),), EVERYTHING]


def make_split(num_images: int = 400, size: int = 8, num_channels: int = 3) -> Split:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num_images, num_channels, size, size), dtype=np.uint8)
    images.flags.writeable = False
    return Split(images, np.arange(num_images) % 10)


def make_views(*augment: tuple[str, dict], split: Split | None = None) -> Views:
    return Views(split or make_split(), MEAN, STD, augment)


def normalised(images: np.ndarray) -> Tensor:
    shape = (1, 3, 1, 1)
    return (torch.tensor(images) / 255 - torch.tensor(MEAN).view(shape)) / torch.tensor(STD).view(shape)


def chi_square(counts: Tensor) -> float:
    """Against equal expectation, as standard deviations away from its mean (normal for many cells)."""
    expected, freedom = counts.sum() / counts.numel(), counts.numel() - 1
    return (((counts - expected) ** 2 / expected).sum().item() - freedom) / (2 * freedom) ** 0.5


# The hash


def test_hash_is_splitmix64():
    # The first outputs of the reference (https://prng.di.unimi.it/splitmix64.c) for seed 1234567.
    outputs = fold_in(torch.tensor(1234567), torch.arange(1, 6))
    assert [bits % 2**64 for bits in outputs.tolist()] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@settings(deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4))
def test_hash_of_plain_integers_is_that_of_tensors(counters):
    assert counter_hash(*counters) == counter_hash(*(torch.tensor([counter]) for counter in counters))


@pytest.mark.parametrize("varied", range(4), ids=["stream", "epoch", "sample", "purpose"])
@pytest.mark.parametrize("place", [0, 28, 56], ids=["low", "middle", "high"])
def test_hash_is_uniform_over_every_counter(varied, place):
    counters = [torch.tensor(number) for number in (0, 1, 17, Purpose.CROP_ROW)]
    counters[varied] = torch.arange(100_000)
    bits = counter_hash(*counters)
    assert abs(chi_square(torch.bincount((bits >> place) & 0xFF, minlength=256))) < 5


@pytest.mark.parametrize("varied", range(4), ids=["stream", "epoch", "sample", "purpose"])
@pytest.mark.parametrize("bit", [0, 7, 31, 62])
def test_one_flipped_bit_of_a_counter_flips_half_of_the_hash(varied, bit):
    counters = [torch.arange(5000) * factor for factor in (1, 3, 5, 7)]
    before = counter_hash(*counters)
    counters[varied] = counters[varied] ^ (1 << bit)
    changed = before ^ counter_hash(*counters)
    share = torch.stack([(changed >> place) & 1 for place in range(64)]).double().mean(dim=1)
    assert (share - 0.5).abs().max() < 0.04  # 5.6 standard deviations of 5,000 coins


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0, 1, 0, Purpose.FLIP), (0, 2, 0, Purpose.FLIP)),
        ((0, 1, 0, Purpose.FLIP), (1, 1, 0, Purpose.FLIP)),
        ((0, 1, 0, Purpose.FLIP), (1, 0, 0, Purpose.FLIP)),
        ((0, 1, 0, Purpose.FLIP), (0, 1, 1, Purpose.FLIP)),
        ((0, 1, 0, Purpose.CROP_ROW), (0, 1, 0, Purpose.CROP_COLUMN)),
    ],
    ids=["epochs", "streams", "stream and epoch swapped", "neighbours", "purposes"],
)
def test_neighbouring_counters_are_independent(first, second):
    samples = torch.arange(100_000)
    pair = [counter_hash(s, e, samples + offset, purpose) for s, e, offset, purpose in (first, second)]
    joint = below(pair[0], 16) * 16 + below(pair[1], 16)
    assert abs(chi_square(torch.bincount(joint, minlength=256))) < 5


def test_hash_never_repeats_over_epochs_and_samples():
    bits = counter_hash(0, torch.arange(20)[:, None], torch.arange(50_000))
    assert bits.unique().numel() == 20 * 50_000


@settings(deadline=None)
@given(limit=st.integers(1, 2**31 - 1), seed=st.integers(0, 2**32))
def test_below_stays_below(limit, seed):
    values = below(counter_hash(seed, torch.arange(50)), limit)
    assert 0 <= values.min() <= values.max() < limit


def test_below_reaches_both_ends():
    assert below(torch.tensor([0, -1]), 9).tolist() == [0, 8]


# The order


@pytest.mark.parametrize("num_samples", [1, 7, 1000])
def test_order_is_a_permutation(num_samples):
    assert order(num_samples, seed=3, epoch=1).sort().values.tolist() == list(range(num_samples))


def test_order_depends_on_seed_and_epoch_and_on_nothing_else():
    first = order(1000, seed=3, epoch=1)
    torch.manual_seed(99)
    assert torch.equal(order(1000, seed=3, epoch=1), first)
    for other in (order(1000, seed=3, epoch=2), order(1000, seed=4, epoch=1)):
        assert (other == first).sum() < 10  # 1 expected by chance


# The pixels


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(2, 12),
    padding=st.integers(1, 14),
    num_channels=st.sampled_from([1, 3]),
    channels_last=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_crop_is_the_window_of_the_padded_image(size, padding, num_channels, channels_last, seed):
    generator = torch.Generator().manual_seed(seed)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = torch.randint(0, 256, (5, num_channels, size, size), generator=generator, dtype=torch.uint8)
    rows, columns = torch.randint(0, 2 * padding + 1, (2, 5), generator=generator)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    expected = np.stack(
        [
            padded[i, :, row : row + size, column : column + size]
            for i, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True))
        ]
    )
    assert np.array_equal(crop(images.to(memory_format=layout), rows, columns, padding).numpy(), expected)


def test_flip_mirrors_the_chosen_images_only():
    images = torch.arange(24, dtype=torch.uint8).view(2, 1, 3, 4)
    flipped = flip(images, torch.tensor([True, False]))
    assert flipped[0, 0, 0].tolist() == [3, 2, 1, 0]
    assert torch.equal(flipped[1], images[1])


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 9), square=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_cutout_zeroes_the_clipped_square_and_nothing_else(size, square, seed):
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.randint(0, size, (2, 4), generator=generator)
    expected = np.ones((4, 3, size, size), np.float32)
    for i, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        top, left = row - square // 2, column - square // 2
        expected[i, :, max(0, top) : max(0, top + square), max(0, left) : max(0, left + square)] = 0
    assert np.array_equal(cutout_(torch.ones(4, 3, size, size), rows, columns, square).numpy(), expected)


def test_plain_is_the_normalised_image_with_its_label():
    split = make_split()
    batch = make_views(*EVERYTHING, split=split).plain(torch.tensor([7, 3]))
    torch.testing.assert_close(batch.images, normalised(split.images[[7, 3]]))
    assert batch.labels.tolist() == [7, 3]
    assert batch.indices.tolist() == [7, 3]
    assert batch.mix is None
    assert batch.mixed_labels is None


def test_without_augmentation_a_view_is_the_plain_image():
    views, indices = make_views(), torch.arange(20)
    assert torch.equal(views.batch(indices, epoch=4, stream=2).images, views.plain(indices).images)


@pytest.mark.parametrize(
    ("size", "options", "padding"),
    [(4, {}, 1), (8, {}, 1), (28, {}, 3), (32, {}, 4), (8, {"padding": 3}, 3)],
    ids=["4", "8", "28", "32", "8 with padding 3"],
)
def test_crop_moves_an_image_evenly_by_up_to_its_padding(size, options, padding):
    images = np.zeros((4000, 3, size, size), np.uint8)
    images[:, :, size // 2, size // 2] = 255
    split = Split(images, np.zeros(4000, np.int64))
    views = make_views(("crop", options), split=split).batch(torch.arange(4000), epoch=1, stream=0).images
    bright = views[:, 0].flatten(1).argmax(1)
    rows, columns = bright // size - size // 2 + padding, bright % size - size // 2 + padding
    num_offsets = 2 * padding + 1
    moves = torch.bincount(rows * num_offsets + columns, minlength=num_offsets**2)
    assert 0 <= min(rows.min(), columns.min()) <= max(rows.max(), columns.max()) < num_offsets
    assert abs(chi_square(moves)) < 5


def test_cutout_size_sets_the_square():
    split = Split(np.full((50, 3, 8, 8), 255, np.uint8), np.zeros(50, np.int64))
    images = make_views(("cutout", {"size": 1}), split=split).batch(torch.arange(50), 1, 0).images
    assert (images == 0).sum((1, 2, 3)).tolist() == [3] * 50


def test_default_cutout_is_half_the_image_at_the_mean_pixel():
    split = Split(np.full((500, 3, 8, 8), 255, np.uint8), np.zeros(500, np.int64))
    zeros = (make_views(("cutout", {}), split=split).batch(torch.arange(500), 1, 0).images == 0).sum(
        (1, 2, 3)
    )
    assert zeros.max() == 3 * 4 * 4
    assert zeros.min() == 3 * 2 * 2  # two sides clipped


def test_half_of_the_images_are_flipped():
    views, indices = make_views(("flip", {}), split=make_split(num_images=4000)), torch.arange(4000)
    view, plain = views.batch(indices, epoch=1, stream=0).images, views.plain(indices).images
    is_plain = (view == plain).flatten(1).all(1)
    is_flipped = (view == plain.flip(-1)).flatten(1).all(1)
    assert (is_plain | is_flipped).all()
    assert abs(is_flipped.float().mean().item() - 0.5) < 0.04  # 5 standard deviations


# A view belongs to its sample


@pytest.mark.parametrize(
    "augment", EVERY_AUGMENTATION, ids=lambda augment: "+".join(n for n, _ in augment) or "none"
)
def test_a_view_is_the_same_in_every_batch(augment):
    views = make_views(*augment)
    whole = views.batch(torch.arange(400), epoch=3, stream=1)
    picked = torch.tensor([399, 5, 5, 120])
    batch = views.batch(picked, epoch=3, stream=1)
    alone = views.batch(picked[3:], epoch=3, stream=1)
    assert torch.equal(batch.images, whole.images[picked])
    assert torch.equal(alone.images[0], whole.images[120])
    assert torch.equal(batch.labels, whole.labels[picked])


@pytest.mark.parametrize("num_bytes", [1, 3 * 64 * 3 * 8 * 8 * 4, 1 << 30])
@pytest.mark.parametrize("augment", [(("crop", {}),), EVERYTHING], ids=str)
def test_views_made_in_blocks_are_those_of_each_batch(augment, num_bytes, monkeypatch):
    monkeypatch.setattr(views, "BLOCK_BYTES", num_bytes)
    shown = make_views(*augment)
    batches = torch.split(order(400, 0, 1), 64)
    found = list(shown.batches(batches, 1, 0))
    assert [len(batch.labels) for batch in found] == [64] * 6 + [16]
    for batch, indices in zip(found, batches, strict=True):
        alone = shown.batch(indices, 1, 0)
        assert all(
            torch.equal(values, wanted)
            for values, wanted in zip(vars(batch).values(), vars(alone).values(), strict=True)
            if wanted is not None
        )


def test_a_block_holds_as_many_whole_batches_as_fit():
    blocks = views._blocks(torch.split(torch.arange(20), 4), num_samples=11)
    assert [[len(batch) for batch in block] for block in blocks] == [[4, 4], [4, 4], [4]]


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
@pytest.mark.parametrize(("epoch", "stream"), [(2, 0), (1, 1), (0, 1)])
def test_other_epochs_and_streams_give_other_views(name, epoch, stream):
    views, indices = make_views((name, {})), torch.arange(400)
    first, other = views.batch(indices, 1, 0).images, views.batch(indices, epoch, stream).images
    assert (first != other).flatten(1).any(1).float().mean() > 0.4


def test_views_ignore_the_global_generator_and_leave_it_alone():
    views, indices = make_views(*EVERYTHING), torch.arange(50)
    torch.manual_seed(1)
    first, after = views.batch(indices, 1, 0).images, torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == after
    assert torch.equal(views.batch(indices, 1, 0).images, first)


def test_the_order_of_the_augmentations_in_the_spec_changes_nothing():
    indices = torch.arange(50)
    forwards, backwards = make_views(*EVERYTHING), make_views(*reversed(EVERYTHING))
    assert torch.equal(forwards.batch(indices, 1, 0).images, backwards.batch(indices, 1, 0).images)


def test_views_share_the_memory_of_the_split_and_never_write_to_it():
    split = make_split()
    before, views = split.images.copy(), make_views(*EVERYTHING, split=split)
    views.batch(torch.arange(400), 1, 0)
    assert views.images.data_ptr() == split.images.ctypes.data
    assert np.array_equal(split.images, before)
    assert len(views) == 400


# Mixup


def test_mixup_is_the_weighted_sum_of_two_views_and_says_so_in_its_labels():
    split = make_split(num_images=100)
    split = Split(split.images, np.arange(100))  # a class for every image, so that a label names the partner
    others = (("crop", {}), ("flip", {}), ("cutout", {}))
    own_views = make_views(*others, split=split).batch(torch.arange(100), epoch=2, stream=1).images
    batch = make_views(*others, ("mixup", {}), split=split).batch(torch.arange(100), epoch=2, stream=1)
    weight = batch.mix[:, None, None, None]
    expected = weight * own_views + (1 - weight) * own_views[batch.mixed_labels]
    torch.testing.assert_close(batch.images, expected)
    assert torch.equal(batch.labels, torch.arange(100))


def test_mixup_partners_are_uniform_over_the_split():
    split = Split(make_split(num_images=64).images, np.arange(64))
    views = make_views(("mixup", {}), split=split)
    partners = torch.cat([views.batch(torch.arange(64), epoch, 0).mixed_labels for epoch in range(200)])
    assert abs(chi_square(torch.bincount(partners, minlength=64))) < 5


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 4.0])
def test_mixup_weights_are_beta_distributed(alpha):
    views = make_views(("mixup", {"alpha": alpha}), split=make_split(num_images=20_000, size=2))
    mix = views.batch(torch.arange(20_000), 1, 0).mix
    assert 0 <= mix.min() <= mix.max() <= 1
    assert mix.mean().item() == pytest.approx(0.5, abs=0.02)
    assert mix.var().item() == pytest.approx(
        1 / (4 * (2 * alpha + 1)), rel=0.05
    )  # the variance of Beta(a, a)


def test_mixup_alpha_of_one_is_uniform():
    views = make_views(("mixup", {"alpha": 1.0}), split=make_split(num_images=20_000, size=2))
    mix = views.batch(torch.arange(20_000), 1, 0).mix
    assert abs(chi_square(torch.histc(mix, bins=32, min=0, max=1))) < 5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_views_on_a_gpu_are_those_of_the_cpu_and_never_wait():
    split, indices = make_split(), torch.arange(400)
    views = Views(split, MEAN, STD, EVERYTHING, device="cuda")
    on_gpu = indices.cuda()
    views.batch(on_gpu, 1, 0)
    torch.cuda.set_sync_debug_mode("error")
    batch = views.batch(on_gpu, 1, 0)
    torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(
        batch.images.cpu(), make_views(*EVERYTHING, split=split).batch(indices, 1, 0).images
    )
