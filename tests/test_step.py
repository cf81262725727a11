"""The benchmark of a training step: both sides do the same mathematics."""

import sys

import pytest
import torch

from benchmarks import pairs, step
from kdsearch.data.views import Views, order
from kdsearch.models.build import build
from kdsearch.training import Training

CASE = step.Case(image_size=8, in_channels=1, width=0.5)
NUM_EPOCHS = 2


@pytest.fixture
def data():
    return step.random_images(CASE, 3 * step.BATCH_SIZE)


def test_the_naive_loop_and_ours_make_the_same_student(data):
    config = step.config_of(CASE.student, NUM_EPOCHS)
    torch.manual_seed(1)
    teacher = build(step.TEACHER.name, step.TEACHER.options, *CASE.shape).eval()
    ours = Training(config, data, teacher=teacher)
    naive = build(CASE.student.name, CASE.student.options, *CASE.shape)
    naive.load_state_dict(ours.student.state_dict())
    optimizer, scheduler = step.naive_optimizer(naive, 3 * NUM_EPOCHS)
    images = Views(data.train, data.mean, data.std)
    with torch.no_grad():
        targets = teacher(images.plain(torch.arange(len(images))).images)
    for epoch in range(1, NUM_EPOCHS + 1):
        batches = [images.plain(part) for part in order(len(images), 0, epoch).split(step.BATCH_SIZE)]
        loader = [(batch.images, batch.labels, batch.indices) for batch in batches]
        loss = step.naive_epoch(naive, optimizer, scheduler, loader, targets)
        assert ours.run_epoch().metrics["train_loss"] == pytest.approx(loss, rel=1e-3)
    for one, other in zip(naive.parameters(), ours.student.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


def test_the_naive_loader_gives_every_image_once_in_the_range_of_ours(data):
    images, labels, indices = zip(*step.loader_of(data), strict=True)
    assert torch.cat(indices).sort().values.tolist() == list(range(len(data.train)))
    assert torch.equal(torch.cat(labels), torch.from_numpy(data.train.labels)[torch.cat(indices)])
    ours = Views(data.train, data.mean, data.std).plain(torch.arange(len(data.train))).images
    seen = torch.cat(images)
    assert (seen.min().item(), seen.max().item()) == pytest.approx((ours.min().item(), ours.max().item()))


def test_a_measured_pair_is_not_measured_again(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pairs, "RESULTS", tmp_path)
    monkeypatch.setattr(step, "CASES", (CASE,))
    monkeypatch.setattr(sys, "argv", ["step", "--pairs", "1", "--steps", "2"])
    step.main()
    step.main()
    assert len((tmp_path / "step.jsonl").read_text().splitlines()) == 1
    assert capsys.readouterr().out.count("pair 1 of 1") == 1
