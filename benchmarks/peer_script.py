"""A distillation search as one writes it with Ray Tune, Optuna and MLflow: the other side of benchmarks.peer.

    python -m benchmarks.peer_script TEACHER DATA.npz OUTPUT --trials 128 --epochs 9 --seed 0

Goes in: a trained teacher's folder, training and validation images. Comes out: Tune's results and an MLflow
store. Networks are kdsearch's, so that the students are the same; all else is Ray's, torch's, torchvision's.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import torch.nn.functional as F
from PIL import Image
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from kdsearch.models.build import build, load_student

BATCH_SIZE = 64
NUM_CLASSES, IN_CHANNELS, IMAGE_SIZE = 10, 1, 8

Arrays = dict[str, Any]


class Digits(Dataset[tuple[Tensor, int]]):
    def __init__(self, images: Any, labels: Any, transform: Any) -> None:
        self.images = images
        self.labels = labels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def loaders(data: Arrays) -> tuple[DataLoader[tuple[Tensor, int]], DataLoader[tuple[Tensor, int]]]:
    normalise = [transforms.ToTensor(), transforms.Normalize(data["mean"], data["std"])]
    augment = transforms.Compose([transforms.RandomCrop(IMAGE_SIZE, padding=1), *normalise])
    train = Digits(data["train_images"], data["train_labels"], augment)
    validation = Digits(data["validation_images"], data["validation_labels"], transforms.Compose(normalise))
    return (
        DataLoader(train, batch_size=BATCH_SIZE, shuffle=True),
        DataLoader(validation, batch_size=256),
    )


def space(trial: Any) -> dict[str, Any] | None:
    """Optuna's define-by-run space: what a family has no use for is not suggested."""
    family = trial.suggest_categorical("family", ["resnet", "mlp"])
    trial.suggest_float(f"{family}_width", 0.125, 1.0, step=0.125)
    if family == "resnet":
        trial.suggest_categorical("resnet_depth", [8, 14])
    else:
        trial.suggest_int("mlp_depth", 1, 2)
    trial.suggest_float("alpha", 0.1, 0.9)
    trial.suggest_float("temperature", 1.0, 16.0, log=True)
    trial.suggest_float("lr", 0.02, 0.3, log=True)
    return None


def train_student(config: dict[str, Any], data: Arrays, teacher_folder: str, epochs: int) -> None:
    """One trial: a report every epoch."""
    torch.set_num_threads(1)
    train_loader, validation_loader = loaders(data)
    teacher, _ = load_student(teacher_folder)
    teacher.eval()
    family = config["family"]
    options = {"width": config[f"{family}_width"], "depth": config[f"{family}_depth"]}
    student = build(family, options, NUM_CLASSES, IN_CHANNELS, IMAGE_SIZE)
    params = sum(parameter.numel() for parameter in student.parameters())
    optimizer = torch.optim.SGD(student.parameters(), lr=config["lr"], momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(train_loader))
    temperature, alpha = config["temperature"], config["alpha"]
    for _ in range(epochs):
        student.train()
        running_loss = 0.0
        for images, labels in train_loader:
            with torch.no_grad():
                teacher_logits = teacher(images)
            logits = student(images)
            label_loss = F.cross_entropy(logits, labels)
            distillation_loss = temperature**2 * F.kl_div(
                F.log_softmax(logits / temperature, dim=1),
                F.softmax(teacher_logits / temperature, dim=1),
                reduction="batchmean",
            )
            loss = (1 - alpha) * label_loss + alpha * distillation_loss
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            schedule.step()
            running_loss += loss.item()
        tune.report(
            {
                "val_accuracy": accuracy(student, validation_loader),
                "train_loss": running_loss / len(train_loader),
                "params": params,
            }
        )


@torch.no_grad()
def accuracy(student: nn.Module, loader: DataLoader[tuple[Tensor, int]]) -> float:
    student.eval()
    num_right = num_seen = 0
    for images, labels in loader:
        num_right += int((student(images).argmax(dim=1) == labels).sum())
        num_seen += len(labels)
    return num_right / num_seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--trials", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--grace", type=int, default=1)
    parser.add_argument("--concurrent", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    output = options.output.resolve()
    with np.load(options.data) as file:
        data = dict(file)
    ray.init(num_cpus=options.concurrent, include_dashboard=False)
    trainable = tune.with_parameters(
        train_student, data=data, teacher_folder=str(options.teacher.resolve()), epochs=options.epochs
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(
                space, metric=["val_accuracy", "params"], mode=["max", "min"], seed=options.seed
            ),
            scheduler=ASHAScheduler(
                metric="val_accuracy",
                mode="max",
                max_t=options.epochs,
                grace_period=options.grace,
                reduction_factor=3,
            ),
            num_samples=options.trials,
            max_concurrent_trials=options.concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="peer",
            storage_path=str(output),
            callbacks=[
                MLflowLoggerCallback(tracking_uri=f"sqlite:///{output}/mlflow.db", experiment_name="peer")
            ],
        ),
    )
    tuner.fit()


if __name__ == "__main__":
    main()
