"""What a GPU changes, as far as it shows without one."""

from __future__ import annotations

import traceback
from types import SimpleNamespace

import pytest
import torch
from few_images import few_digits
from test_training import KD, teacher_of

from kdsearch import device
from kdsearch.data import views
from kdsearch.device import DevicePolicy, device_policy
from kdsearch.output_cache import Shelf
from kdsearch.records import Choice, TrainConfig, TrialConfig
from kdsearch.search import driver, worker
from kdsearch.search.messages import Task
from kdsearch.search.sealed import SealedTest
from kdsearch.search.worker import OutOfGpuMemoryError, StudentWorker
from kdsearch.training import Training


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, torch.bfloat16), (False, None)])
def test_bf16_is_for_gpus_that_have_it(monkeypatch, has_bf16, expected):
    def is_bf16_supported(including_emulation=True):
        return has_bf16 or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert device_policy("cuda").autocast == expected


@pytest.mark.parametrize(("num_gpus", "max_calls"), [(1, 1), (0, 0)])
def test_the_process_that_trained_the_teacher_on_a_gpu_ends_and_gives_it_back(num_gpus, max_calls):
    assert driver.teacher_task(num_gpus)._max_calls == max_calls


def worker_on_a_gpu() -> StudentWorker:
    """A worker with a task, as far as Ray's own constructor and CUDA are not needed."""
    worker = StudentWorker.__new__(StudentWorker)
    worker._device, worker._gpus = torch.device("cuda"), 0.25
    config = TrialConfig(Choice("mlp", {}), TrainConfig(epochs=1, batch_size=8))
    worker.reset_config({"task": Task("t0000", 1, config, ()).to_json()})
    return worker


def test_between_two_trials_a_worker_gives_back_what_torch_keeps_of_the_gpu(monkeypatch):
    given_back = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given_back.append(True))
    worker_on_a_gpu()
    assert given_back == [True]


def test_a_trial_without_room_on_the_gpu_ends_its_worker_in_words(monkeypatch):
    def start(worker):
        raise torch.cuda.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation"
        )

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(StudentWorker, "_start", start)
    with pytest.raises(OutOfGpuMemoryError) as caught:
        worker_on_a_gpu().step()
    text = "".join(traceback.format_exception(caught.value))
    assert driver.last_line(text) == (
        "kdsearch.search.worker.OutOfGpuMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. See the "
        "documentation (what helps: more resources.gpus_per_trial or less train.batch_size)"
    )


@pytest.mark.parametrize(("device", "expected"), [("cuda", False), ("cpu", True)])
def test_float32_is_not_tf32_on_a_gpu(monkeypatch, device, expected):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    device_policy(device)
    assert torch.backends.cudnn.allow_tf32 is expected


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [(8, 1024), (28, 1024), (32, 1024), (64, 256), (96, 113), (224, 32), (512, 32)],
)
def test_larger_images_are_evaluated_fewer_at_once_on_a_gpu(image_size, expected):
    assert device_policy("cuda").eval_batch(image_size) == expected


def test_a_cpu_evaluates_as_many_images_of_any_size():
    policy = device_policy("cpu")
    assert {policy.eval_batch(size) for size in (8, 32, 224)} == {policy.eval_batch_size}


def test_the_teachers_outputs_and_a_students_accuracy_are_computed_so_many_at_once(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(DevicePolicy, "eval_batch", lambda policy, size: asked.append(size) or 7)
    data = few_digits(96, 48)
    shelf = Shelf(tmp_path, "a teacher", budget_bytes=1e9)
    Training(KD, data, teacher=teacher_of(data), shelf=shelf).run_epoch()
    assert asked == [8, 8]


def test_a_split_takes_a_fifth_of_what_a_trial_may_use_of_its_gpu(monkeypatch):
    gpu = SimpleNamespace(total_memory=10_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda where: gpu)
    monkeypatch.setattr(device, "_gpus", 1.0)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert (device.has_room(cuda, 2000), device.has_room(cuda, 2001)) == (True, False)
    device.use_share_of_gpu(0.25)
    assert (device.has_room(cuda, 500), device.has_room(cuda, 501)) == (True, False)
    assert device.has_room(cpu, 10**15)


@pytest.mark.parametrize(("has_room", "expected"), [(True, "meta"), (False, "cpu")])
def test_images_without_room_on_the_gpu_stay_on_the_host(monkeypatch, has_room, expected):
    """Tensors without content stand for a GPU's."""
    monkeypatch.setattr(views, "has_room", lambda where, num_bytes: has_room)
    data = few_digits(96, 48)
    images = views.Views(data.train, data.mean, data.std, (("crop", {}), ("mixup", {})), "meta")
    assert images.images.device.type == expected
    batch = images.batch(torch.arange(8, device=expected), 1, 0)
    assert (batch.images.device.type, batch.labels.device.type) == ("meta", "meta")


def test_a_worker_says_what_it_may_use_of_its_gpu(monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(worker, "use_share_of_gpu", said.append)
    monkeypatch.setattr(worker, "device_policy", lambda *asked: SimpleNamespace(device=torch.device("cuda")))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    config = TrialConfig(Choice("mlp", {}), TrainConfig(epochs=1, batch_size=8))
    StudentWorker.__new__(StudentWorker).setup(
        {"task": Task("t0000", 1, config, ()).to_json()},
        data=None,
        faculty=None,
        test=SealedTest(None),
        augment=(),
        output=str(tmp_path),
        cpus=1.0,
        gpus=0.25,
        cache_gb=0.0,
        layouts={},
    )
    assert said == [0.25]
