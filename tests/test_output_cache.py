"""The teacher's outputs on disk: read as they were written, never trusted blindly, never in the way."""

from __future__ import annotations

import fcntl
import os
import threading
import time

import numpy as np
import pytest
import torch

from kdsearch import cache, output_cache
from kdsearch.cli import UsageError
from kdsearch.data import ImageData, Split
from kdsearch.models.build import build
from kdsearch.output_cache import HEADER_BYTES, OutputCache, Shelf, Targets
from kdsearch.records import Choice, TrainConfig, TrialConfig
from kdsearch.training import Training

NUM_SAMPLES, NUM_CLASSES = 40, 3
KD = TrialConfig(
    student=Choice("mlp", {"depth": 1, "width": 0.125}),
    train=TrainConfig(epochs=2, batch_size=16),
    distill={"response": Choice("kd")},
    alpha=0.9,
    temperature=4.0,
)
MIXED = (("crop", {}), ("flip", {}), ("cutout", {}), ("mixup", {}))


def split(seed: int) -> Split:
    numbers = np.random.default_rng(seed)
    images = numbers.integers(0, 256, (NUM_SAMPLES, 1, 8, 8), dtype=np.uint8)
    return Split(images, numbers.integers(0, NUM_CLASSES, NUM_SAMPLES))


IMAGES = ImageData("noise", split(0), split(1), ("a", "b", "c"), (0.5,), (0.25,), key="noise")


class Counted:
    """A teacher whose forward passes are counted by a hook."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = build("resnet", {"depth": 8, "width": 0.25}, NUM_CLASSES, 1, 8).eval()
        self.num_images = 0
        self.model.stem.register_forward_pre_hook(self._count)

    def _count(self, module: torch.nn.Module, args: tuple[torch.Tensor]) -> None:
        self.num_images += len(args[0])


def trained(shelf, config=KD, augment=MIXED, teacher=None):
    """Losses and final weights of a whole training."""
    training = Training(config, IMAGES, augment, (teacher or Counted()).model, shelf=shelf)
    epochs = [training.run_epoch() for _ in range(config.train.epochs)]
    return [epoch.terms for epoch in epochs], training.student.state_dict()


def shelf_in(folder, teacher="a teacher", budget_bytes=1e9) -> Shelf:
    return Shelf(folder, teacher, budget_bytes)


def files(folder):
    return sorted((folder / "outputs").glob("*/*.f16"))


def teacher_of_ones(calls):
    def ask(indices, epoch, stream):
        calls.append((len(indices), epoch, stream))
        return Targets(torch.ones(len(indices), NUM_CLASSES), torch.ones(len(indices), 2))

    return ask


def cache_of_ones(folder, calls, **changes) -> OutputCache:
    return OutputCache(shelf_in(folder, **changes), {"data": "noise"}, NUM_SAMPLES, teacher_of_ones(calls))


VIEWS = {
    "one view": KD,
    "three views": TrialConfig(**{**vars(KD), "teacher_views": 3}),
    "another stream": TrialConfig(**{**vars(KD), "stream": 2}),
    "embeddings": TrialConfig(**{**vars(KD), "distill": {"relation": Choice("rkd", {"weight": 1.0})}}),
}


@pytest.mark.parametrize("config", VIEWS.values(), ids=VIEWS)
def test_a_training_from_the_cache_equals_a_live_one_to_the_last_digit(config, tmp_path):
    live = trained(None, config)
    filling, reading = (trained(shelf_in(tmp_path), config) for _ in range(2))
    torch.testing.assert_close(filling, live, rtol=0, atol=0)
    torch.testing.assert_close(reading, live, rtol=0, atol=0)


def test_a_second_training_asks_the_teacher_about_a_sample_alone(tmp_path):
    first, second = Counted(), Counted()
    trained(shelf_in(tmp_path), teacher=first)
    trained(shelf_in(tmp_path), teacher=second)
    assert first.num_images == NUM_SAMPLES * KD.train.epochs
    assert second.num_images == output_cache.NUM_CHECKED


def test_longer_trainings_add_the_epochs_that_are_missing(tmp_path):
    trained(shelf_in(tmp_path))
    longer, teacher = TrialConfig(**{**vars(KD), "train": TrainConfig(epochs=5, batch_size=16)}), Counted()
    trained(shelf_in(tmp_path), longer, teacher=teacher)
    assert len(files(tmp_path)) == 5
    assert teacher.num_images == 3 * NUM_SAMPLES + output_cache.NUM_CHECKED


def test_a_method_that_reads_maps_runs_the_teacher_live(tmp_path):
    maps = TrialConfig(
        student=Choice("resnet", {"depth": 8, "width": 0.125}),
        train=TrainConfig(epochs=1, batch_size=16),
        distill={"feature": Choice("fitnet", {"weight": 1.0, "layer_map": "stage1>stage1"})},
    )
    teacher = Counted()
    trained(shelf_in(tmp_path), maps, teacher=teacher)
    assert teacher.num_images == NUM_SAMPLES
    assert files(tmp_path) == []


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[HEADER_BYTES + 3] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def test_a_gpu_is_given_a_small_epoch_once(tmp_path):
    """Tensors without content stand for a GPU's: that they are asked for their indices is refused."""
    recorded = cache_of_ones(tmp_path, []).epoch(0, 1)
    indices = torch.tensor([3, 0], device="meta")
    logits, embedding, _ = recorded.take(indices, "meta")
    assert (logits.shape, embedding.shape) == ((2, NUM_CLASSES), (2, 2))
    assert (logits.dtype, logits.device.type) == (torch.float32, "meta")
    whole = recorded._held
    recorded.take(indices, "meta")
    assert recorded._held is whole


def test_a_large_epoch_is_read_batch_by_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(output_cache, "HELD_BYTES", 0)
    recorded = cache_of_ones(tmp_path, []).epoch(0, 1)
    assert recorded.take(torch.tensor([3, 0]), "meta").logits.shape == (2, NUM_CLASSES)
    assert recorded._held is None


@pytest.mark.parametrize("damage", [cut, flip_a_bit, empty])
def test_a_damaged_file_is_computed_again(damage, tmp_path, caplog):
    whole = trained(shelf_in(tmp_path))
    content = files(tmp_path)[0].read_bytes()
    damage(files(tmp_path)[0])
    again = trained(shelf_in(tmp_path))
    torch.testing.assert_close(again, whole, rtol=0, atol=0)
    assert files(tmp_path)[0].read_bytes() == content
    assert "computed again" in caplog.text


def test_outputs_that_the_teacher_does_not_confirm_are_computed_again(tmp_path):
    """As after a change of the code that makes views, which nobody told the version of."""
    trained(shelf_in(tmp_path), teacher=Counted(seed=1))
    other = trained(None, teacher=Counted(seed=2))
    torch.testing.assert_close(trained(shelf_in(tmp_path), teacher=Counted(seed=2)), other, rtol=0, atol=0)


@pytest.mark.parametrize("change", [{"augment": ()}, {"augment": (("crop", {"padding": 2}),)}])
def test_other_views_have_a_folder_of_their_own(change, tmp_path):
    trained(shelf_in(tmp_path))
    trained(shelf_in(tmp_path), **change)
    assert len(list((tmp_path / "outputs").iterdir())) == 2


def test_a_process_checks_what_it_finds_once(tmp_path):
    calls = []
    cache_of_ones(tmp_path, []).epoch(0, 1)
    cache_of_ones(tmp_path, []).epoch(0, 2)
    shelf = shelf_in(tmp_path)
    for _ in range(3):
        ours = OutputCache(shelf, {"data": "noise"}, NUM_SAMPLES, teacher_of_ones(calls))
        assert all(ours.epoch(0, epoch) is not None for epoch in (1, 2))
    assert calls == [(output_cache.NUM_CHECKED, 1, 0)]


@pytest.mark.parametrize(("precision", "num_asked"), [(torch.bfloat16, 4), (torch.float32, 4 + NUM_SAMPLES)])
def test_a_rounding_step_of_bfloat16_is_no_other_teacher_where_it_computes_in_that(
    tmp_path, precision, num_asked
):
    """Numbers from 2 to 4 stand 1/64 apart in bfloat16: another order of a sum may end at the next one."""
    logit, calls = [2.0], []

    def ask(indices, epoch, stream):
        calls.append(len(indices))
        return Targets(torch.full((len(indices), NUM_CLASSES), logit[0]), torch.ones(len(indices), 2))

    for logit[0] in (2.0, 2.0 + 1 / 64):
        shelf, tolerance = shelf_in(tmp_path), output_cache.TOLERANCES[precision]
        OutputCache(shelf, {"data": "noise"}, NUM_SAMPLES, ask, tolerance=tolerance).epoch(0, 1)
    assert sum(calls) == NUM_SAMPLES + num_asked


def test_a_file_that_takes_the_place_of_a_checked_one_is_checked_again(tmp_path):
    calls = []
    shelf = shelf_in(tmp_path)
    for _ in range(2):
        OutputCache(shelf, {"data": "noise"}, NUM_SAMPLES, teacher_of_ones(calls)).epoch(0, 1)
        whole = files(tmp_path)[0].read_bytes()
        flip_a_bit(files(tmp_path)[0])
        os.utime(files(tmp_path)[0], (1, 1))  # clocks of files are coarse
    assert calls == [(NUM_SAMPLES, 1, 0), (NUM_SAMPLES, 1, 0)]
    assert files(tmp_path)[0].read_bytes() != whole


def test_another_process_that_computes_is_waited_for(tmp_path):
    calls = []
    ours, theirs = cache_of_ones(tmp_path, calls), cache_of_ones(tmp_path, [])
    ours.folder.mkdir(parents=True)
    lock = (ours.folder / "stream-0-epoch-1.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    found = []
    waiting = threading.Thread(target=lambda: found.append(ours.epoch(0, 1)))
    waiting.start()
    time.sleep(5 * output_cache.POLL_S)
    assert not found
    theirs._fill(ours.folder / "stream-0-epoch-1.f16", 1, 0)
    lock.close()
    waiting.join()
    assert found[0].take(torch.tensor([7])).logits.tolist() == [[1.0] * NUM_CLASSES]
    assert calls == [(output_cache.NUM_CHECKED, 1, 0)]


def test_a_process_that_died_computing_is_not_waited_for(tmp_path):
    calls = []
    ours = cache_of_ones(tmp_path, calls)
    ours.folder.mkdir(parents=True)
    child = os.fork()
    if child == 0:
        fcntl.flock((ours.folder / "stream-0-epoch-1.lock").open("w"), fcntl.LOCK_EX)
        os._exit(1)
    os.waitpid(child, 0)
    assert ours.epoch(0, 1) is not None
    assert calls == [(NUM_SAMPLES, 1, 0)]


def test_one_that_hangs_is_given_up_and_the_teacher_runs_live(tmp_path, monkeypatch):
    monkeypatch.setattr(output_cache, "WAIT_S", 0.05)
    ours = cache_of_ones(tmp_path, [])
    ours.folder.mkdir(parents=True)
    with (ours.folder / "stream-0-epoch-1.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert ours.epoch(0, 1) is None


def test_a_store_that_cannot_be_written_leaves_the_teacher_live(tmp_path, caplog):
    (tmp_path / "outputs").write_text("not a folder")
    torch.testing.assert_close(trained(shelf_in(tmp_path)), trained(None), rtol=0, atol=0)
    assert "the teacher runs live" in caplog.text


def test_a_budget_that_holds_no_epoch_leaves_the_teacher_live(tmp_path):
    assert cache_of_ones(tmp_path, [], budget_bytes=100).epoch(0, 1) is None
    assert files(tmp_path) == []


def test_that_there_is_no_room_is_known_after_one_batch(tmp_path):
    calls = []
    shelf = shelf_in(tmp_path, budget_bytes=100)
    assert OutputCache(shelf, {}, NUM_SAMPLES, teacher_of_ones(calls), batch_size=4).epoch(0, 1) is None
    assert calls == [(4, 1, 0)]


def test_the_longest_unused_teacher_makes_room(tmp_path):
    num_bytes = HEADER_BYTES + NUM_SAMPLES * (NUM_CLASSES + 2) * 2
    for age, teacher in [(30, "oldest"), (20, "older")]:
        kept = cache_of_ones(tmp_path, [], teacher=teacher)
        kept.epoch(0, 1)
        os.utime(kept.folder, (time.time() - age, time.time() - age))
    cache_of_ones(tmp_path, [], teacher="new", budget_bytes=2 * num_bytes).epoch(0, 1)
    assert [entry.about["teacher"] for entry in output_cache.entries(tmp_path)] == ["older", "new"]


def test_an_output_beyond_float16_is_not_kept(tmp_path):
    def ask(indices, epoch, stream):
        return Targets(torch.full((len(indices), NUM_CLASSES), 1e6), torch.ones(len(indices), 2))

    assert OutputCache(shelf_in(tmp_path), {}, NUM_SAMPLES, ask).epoch(0, 1) is None
    assert files(tmp_path) == []


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A store with the outputs of two teachers."""
    monkeypatch.setenv("KDSEARCH_HOME", str(tmp_path))
    for teacher in ("first", "second"):
        cache_of_ones(tmp_path, [], teacher=teacher).epoch(0, 1)
    return [entry.key for entry in output_cache.entries(tmp_path)]


def test_the_command_lists_what_is_kept(kept, capsys):
    assert cache.command([]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("first", "second", kept[0][:12], kept[1][:12], "--clear"))


def test_the_command_clears_one(kept, tmp_path):
    assert cache.command(["--clear", kept[0][:12]]) == 0
    assert [entry.key for entry in output_cache.entries(tmp_path)] == kept[1:]


def test_the_command_clears_all(kept, tmp_path, capsys):
    assert cache.command(["--clear"]) == 0
    assert output_cache.entries(tmp_path) == []
    cache.command([])
    assert "nothing is kept" in capsys.readouterr().out


def test_the_command_refuses_an_unknown_key(kept, tmp_path):
    with pytest.raises(UsageError, match="--clear nothing: no such key"):
        cache.command(["--clear", "nothing"])
    assert len(output_cache.entries(tmp_path)) == 2
