"""A worker process that has run other trials runs the next one as a new process would, to the last bit."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from few_images import few_digits

from kdsearch import teachers
from kdsearch.checkpoint import load_checkpoint, write_state
from kdsearch.models.build import build
from kdsearch.records import Choice, TrainConfig, TrialConfig
from kdsearch.search.messages import Task
from kdsearch.search.sealed import SealedTest
from kdsearch.search.worker import StudentWorker
from kdsearch.spec_teacher import Ensemble, OneOf, TeacherSpec
from kdsearch.teacher_model import Teacher
from kdsearch.weights import to_arrays

RESNET = Choice("resnet", {"depth": 8, "width": 0.25})
VIT = Choice("vit", {"patch": 4, "depth": 2, "heads": 2, "dim": 16})
TRAIN = TrainConfig(epochs=2, batch_size=24, lr=0.02)
NEVER_ENDS = TrainConfig(epochs=1000, batch_size=24, lr=0.02)
KD = {"response": Choice("kd")}

# What is left in a process by one of these could change the next one: banks of embeddings, a temperature
# that is learned, dropout, a token, an optimiser's state, a teacher's softness, files of teachers' outputs.
TRIALS = {
    "memories": TrialConfig(RESNET, TRAIN, KD | {"contrastive": Choice("crd")}, 0.5, 4.0, seed=1),
    "ensemble": TrialConfig(
        RESNET,
        TRAIN,
        KD,
        0.5,
        9.0,
        schedule=Choice("linear", {"temperature_to": 2.0}),
        curriculum=Choice("confidence"),
        teacher=Choice("both"),
        seed=2,
    ),
    "transformer": TrialConfig(
        VIT,
        TrainConfig(epochs=2, batch_size=24, optimizer="adamw", lr=1e-3),
        {"response": Choice("deit"), "feature": Choice("minilm")},
        0.5,
        4.0,
        teacher=Choice("vit"),
        seed=3,
    ),
    "learned temperature": TrialConfig(
        Choice("mlp", {"depth": 1, "width": 0.25}), TRAIN, {"response": Choice("ctkd")}, 0.5, 4.0, seed=4
    ),
    "dropout": TrialConfig(Choice("torchvision/mobilenet_v3_small", {"dropout": True}), TRAIN, seed=5),
    "peers": TrialConfig(RESNET, TRAIN, KD, 0.5, 4.0, online=Choice("dml"), seed=6),
    "its teacher's classifier": TrialConfig(RESNET, TRAIN, {"feature": Choice("simkd")}, seed=7),
    "two views": TrialConfig(
        Choice("shufflenetv2", {"width": 0.5}), TRAIN, KD, 0.5, 4.0, teacher_views=2, seed=8
    ),
}
DIVERGES = TrialConfig(RESNET, TrainConfig(epochs=2, batch_size=24, lr=1e30), KD, 0.5, 4.0)
CANNOT_START = TrialConfig(RESNET, TrainConfig(epochs=2, batch_size=24), {"feature": Choice("minilm")})
ABANDONED = TrialConfig(RESNET, NEVER_ENDS, KD, 0.5, 4.0)


def teacher(name: str, choice: Choice, seed: int) -> Teacher:
    torch.manual_seed(seed)
    network = build(choice.name, choice.options, 10, 1, 8)
    return Teacher(
        name, choice.name, choice.options, 10, 1, 8, to_arrays(network.state_dict()), {"accuracy": 0.9}
    )


def faculty() -> teachers.Faculty:
    resnet, vit = (TeacherSpec(name, {}, {}, None, None) for name in ("resnet", "vit"))
    both = Ensemble({"x": resnet, "y": resnet}, "probabilities", "equal", "x", None)
    large = Choice("resnet", {"depth": 8, "width": 0.5})
    networks = {
        "": teacher("resnet", large, 1),
        "vit": teacher("vit", Choice("vit", {**VIT.options, "dim": 32}), 2),
        "both/x": teacher("x", large, 3),
        "both/y": teacher("y", large, 4),
    }
    return teachers.Faculty(OneOf({"": resnet, "vit": vit, "both": both}), networks)


def outcomes(folder: Path, configs: Sequence[TrialConfig]) -> list[Any]:
    """What one worker makes of the configurations, one after another: losses, accuracies, weights."""
    prepare(folder)
    tasks = [Task(f"t{number:04d}", 1, config, ()) for number, config in enumerate(configs)]
    worker = StudentWorker.__new__(StudentWorker)  # Ray's own constructor wants a cluster
    found = []
    for number, task in enumerate(tasks):
        config = {"task": task.to_json()}
        if number:
            worker.reset_config(config)
        else:
            set_up(worker, config, folder)
        found.append(outcome(worker, folder, task))
    return found


def prepare(folder: Path) -> None:
    pytest.MonkeyPatch().setenv("KDSEARCH_HOME", str(folder / "home"))
    folder.mkdir()


def set_up(worker: StudentWorker, config: dict[str, Any], folder: Path, gpus: float = 0.0) -> None:
    worker.setup(
        config,
        data=few_digits(96, 48),
        faculty=faculty(),
        test=SealedTest(None),
        augment=(("crop", {}), ("flip", {})),
        output=str(folder),
        cpus=1.0,
        gpus=gpus,
        cache_gb=1.0,
        layouts={"shufflenetv2": "channels_last", "torchvision/mobilenet_v3_small": "channels_last"},
    )


def gpus_without_cuda(folder: Path, asked: float) -> Any:
    """What a worker says that its epochs ran on, where torch sees no GPU."""
    prepare(folder)
    pytest.MonkeyPatch().setenv("CUDA_VISIBLE_DEVICES", "")
    worker = StudentWorker.__new__(StudentWorker)
    config = TrialConfig(Choice("mlp", {"depth": 1, "width": 0.25}), TRAIN)
    set_up(worker, {"task": Task("t0000", 1, config, ()).to_json()}, folder, asked)
    return json.loads(worker.step()["report"])["gpus"]


def outcome(worker: StudentWorker, folder: Path, task: Task) -> Any:
    """Until the trial ends, or one report of a trial that never does."""
    epochs: list[Any] = []
    while True:
        report = json.loads(worker.step()["report"])
        epochs += [(epoch["metrics"], epoch["terms"]) for epoch in report["epochs"]]
        if report["finished"] or report["error"] or task.config.train is NEVER_ENDS:
            break
    saved = sorted(folder.glob(f"students/{task.trial_id}*/student.safetensors"))
    return epochs, report["error"], [hashlib.sha256(path.read_bytes()).hexdigest() for path in saved]


def in_a_new_process(*arguments: Any, run: Callable[..., Any] = outcomes) -> Any:
    """`run`, in a process that has imported what it needs and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kdsearch.search.worker"])
    with context.Pool(1) as pool:
        return pool.apply(run, arguments)


@pytest.fixture(scope="module")
def after_others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By name, the outcome of every trial after all those before it, and after trials that went wrong."""
    configs = [DIVERGES, CANNOT_START, ABANDONED, *TRIALS.values()]
    found = in_a_new_process(tmp_path_factory.mktemp("warm") / "sweep", configs)
    assert "not finite" in found[0][1]
    assert found[1][1]
    return dict(zip(TRIALS, found[3:], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIALS)
def test_a_trial_after_others_is_the_trial_alone(
    name: str, after_others: dict[str, Any], tmp_path: Path
) -> None:
    epochs, error, weights = in_a_new_process(tmp_path / "alone", [TRIALS[name]])[0]

    assert (len(epochs), error) == (2, "")
    assert weights
    assert (epochs, error, weights) == tuple(after_others[name])


def after_a_checkpoint_of_another_version(folder: Path) -> list[Any]:
    """What becomes of a training whose checkpoint has other learned tensors, and of a new one."""
    prepare(folder)
    config = TRIALS["memories"]
    worker = StudentWorker.__new__(StudentWorker)
    set_up(worker, {"task": Task("t0000", 1, config, (1,)).to_json()}, folder)
    checkpoint = json.loads(worker.step()["report"])["checkpoint"]
    path = folder / checkpoint["path"]
    state = load_checkpoint(path, checkpoint["sha256"])
    state["learned"] = {name: tensor for name, tensor in state["learned"].items() if "log" not in name}
    task = Task("t0000", 2, config, (), checkpoint["path"], write_state(path, state))
    found = []
    for one in (task, Task("t0001", 1, config, ())):
        worker.reset_config({"task": one.to_json()})
        found.append(outcome(worker, folder, one))
    return found


@pytest.mark.slow
def test_a_training_whose_checkpoint_is_of_another_version_begins_again(tmp_path: Path) -> None:
    again, new = in_a_new_process(tmp_path / "sweep", run=after_a_checkpoint_of_another_version)
    assert len(again[0]) == 2
    assert again == new


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0.0, 0.25])
def test_a_worker_says_that_its_epochs_had_no_gpu(asked: float, tmp_path: Path) -> None:
    assert in_a_new_process(tmp_path / "alone", asked, run=gpus_without_cuda) == 0.0
