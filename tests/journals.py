"""Synthetic journals: what a sweep would have written, without training anything.

Goes in: the trials of a story. Comes out: events as `events.jsonl` holds them, or a folder with one.
`Story` writes exactly what a test says; `realistic` simulates a whole CIFAR-100 sweep with several families,
methods and layer maps, early stopping, failures and controls.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdsearch.records import Choice, Event, Role, TrainConfig, TrialConfig, of_student, student_ids, trial_id

EDGES = [5_000.0, 25_000.0, 125_000.0, 625_000.0]
STARTED = 1_790_000_000.0  # 21 September 2026
VERSIONS = {"kdsearch": "0.1.0", "python": "3.11.9", "torch": "2.14.1", "ray": "2.60.0", "optuna": "5.0.0"}
SPEC: dict[str, Any] = {
    "name": "cifar100",
    "data": {
        "dataset": "cifar100",
        "root": "data",
        "validation": 5000,
        "augment": [["crop", {}], ["flip", {}]],
    },
    "teacher": {"family": "resnet", "options": {"depth": 56}, "min_accuracy": 0.7, "seed": 0},
    "student": {"resnet": {"depth": 20, "width": {"type": "float", "low": 0.25, "high": 1.0}}},
    "distill": {"alpha": {"type": "float", "low": 0.1, "high": 1.0}, "temperature": 4.0},
    "train": {
        "epochs": 60,
        "batch_size": 128,
        "lr": {"type": "float", "low": 0.01, "high": 0.3, "log": True},
    },
    "search": {
        "trials": 60,
        "seed": 0,
        "objectives": ["val_accuracy", "params"],
        "early_stopping": {"scheduler": "asha", "grace_epochs": 3, "reduction_factor": 3},
    },
    "confirm": {"seeds": 3},
    "resources": {"cpus_per_trial": 1.0, "gpus_per_trial": 0.0},
}


def config(
    family: str = "resnet",
    options: Mapping[str, Any] | None = None,
    distill: Mapping[str, Choice] | None = None,
    *,
    alpha: float | None = None,
    temperature: float | None = None,
    lr: float = 0.05,
    epochs: int = 4,
    seed: int = 0,
) -> TrialConfig:
    """A trial's configuration; `kd` with alpha 0.9 and temperature 4 unless it says otherwise."""
    terms = {"response": Choice("kd")} if distill is None else dict(distill)
    if "response" in terms:
        alpha, temperature = alpha or 0.9, temperature or 4.0
    student = Choice(family, dict(options or {"depth": 20, "width": 0.5}))
    return TrialConfig(student, TrainConfig(epochs=epochs, lr=lr), terms, alpha, temperature, seed=seed)


class Story:
    """Events in the order in which they happen, on a clock of its own."""

    def __init__(self, **header: Any) -> None:
        self.events: list[Event] = []
        self.now = STARTED
        self.header = {
            "sweep_id": "5f3a9c1e", "name": "cifar100", "spec": SPEC, "spec_hash": "9b1c04",
            "versions": VERSIONS, "commit": "2e05aa3", "seed": 0, "resumed": False,
            "objectives": ["val_accuracy", "params"], "bands": {"edges": EDGES, "cost": "params"},
        } | header  # fmt: skip
        self.add("sweep_started", **self.header)

    def add(self, kind: str, trial: str | None = None, after_s: float = 1.0, **data: Any) -> Story:
        self.now += after_s
        event = {"v": 1, "seq": len(self.events), "time": self.now, "kind": kind, "trial_id": trial, **data}
        self.events.append(event)
        return self

    def teacher(self, accuracy: float = 0.8, params: int = 1_000_000, **report: Any) -> Story:
        return self.add(
            "teacher_ready", after_s=3.0, key="t-91f2", family="resnet", options={"depth": 56},
            **({"source": "trained", "accuracy": accuracy, "ece": 0.081, "nll": 0.95, "params": params,
                "entropy": {"1": 0.4, "4": 2.9}, "macs": 126_000_000, "size_mb": 4.02,
                "epochs": 200, "time_s": 7200.0, "cpu_s": 7150.0} | report),
        )  # fmt: skip

    def trial(
        self,
        number: int,
        accuracies: Sequence[float],
        params: int = 20_000,
        role: Role = "search",
        status: str = "completed",
        trial_config: TrialConfig | None = None,
        *,
        max_epochs: int = 4,
        macs: int | None = None,
        optuna: Mapping[str, tuple[Any, dict[str, Any]]] | None = None,
        error: str = "",
        reason: str = "",
        rule: str = "",
        peers: Mapping[int, Sequence[float]] | None = None,
        purpose: str = "",
        partner: str = "",
        test_accuracy: float | None = None,
    ) -> str:
        """One trial with these accuracies by epoch; status `running` leaves it without an end.

        `peers` are the further students that it trains: accuracies by params, half as wide as the first.
        A control is the floor of its size unless `purpose` says otherwise.
        """
        name = trial_id(role, number)
        chosen = trial_config or config(distill={} if role == "control" else None)
        self.add(
            "trial_started", name, number=number, role=role, seed=chosen.seed, attempt=1,
            config=chosen.to_json(),
            cost=cost(params, macs), band=band(params), max_epochs=max_epochs, from_epoch=0,
            peers=[
                {"student": half_as_wide(chosen.student), "cost": cost(params), "band": band(params)}
                for params in peers or {}
            ],
            params={key: value for key, (value, _) in (optuna or {}).items()},
            distributions={key: json.dumps(about) for key, (_, about) in (optuna or {}).items()},
            purpose=purpose or ("floor" if role == "control" else ""), partner=partner,
        )  # fmt: skip
        self.add("mlflow_run", name, run_id=f"run-{name}", experiment_id="1")
        for epoch, accuracy in enumerate(accuracies, start=1):
            self.epoch(name, epoch, accuracy, chosen)
            for number, curve in enumerate((peers or {}).values(), start=2):
                for part, values in losses(curve[epoch - 1], chosen).items():
                    mine = {of_student(key, number): value for key, value in values.items() if key != "lr"}
                    self.events[-1][part] |= mine
        first = student_ids(name, 1 + len(peers or {}))[0]
        if status != "running":
            student = f"students/{first}" if status == "completed" else ""
            self.add(
                "trial_ended",
                name,
                0.1,
                status=status,
                reason=reason,
                rule=rule,
                error=error,
                student=student,
                test_accuracy=test_accuracy,
            )
        return name

    def epoch(self, name: str, epoch: int, accuracy: float, chosen: TrialConfig, attempt: int = 1) -> Story:
        seconds = {"time_s": 1.5, "cpu_s": 1.25}
        return self.add(
            "epoch", name, 1.5, attempt=attempt, epoch=epoch, **losses(accuracy, chosen), **seconds
        )

    def ended(self, status: str = "finished", reason: str = "") -> Story:
        phases = {"teacher": {"wall_s": 10.0, "cpu_s": 9.5}, "search": {"wall_s": 100.0, "cpu_s": 180.25}}
        return self.add("sweep_ended", status=status, reason=reason, phases=phases, slots=2)

    def write(self, folder: Path) -> Path:
        return write(folder, self.events)


def cost(params: int, macs: int | None = None) -> dict[str, float]:
    return {"params": params, "macs": macs or 150 * params, "size_mb": round(params * 4.1e-6, 6)}


def band(params: int) -> int:
    return sum(params >= edge for edge in EDGES[1:-1])


def half_as_wide(student: Choice) -> dict[str, Any]:
    return {"name": student.name, "options": {**student.options, "width": student.options["width"] / 2}}


def losses(accuracy: float, chosen: TrialConfig) -> dict[str, dict[str, float]]:
    """Metrics and terms of one student after an epoch."""
    terms = {"label": 2.0 * (1 - accuracy)}
    terms |= {choice.name: 3.0 * (1 - accuracy) for choice in chosen.distill.values()}
    metrics = {"train_loss": 4.0 * (1 - accuracy), "val_accuracy": accuracy, "lr": chosen.train.lr}
    return {"metrics": metrics, "terms": terms}


def write(folder: Path, events: Sequence[Event]) -> Path:
    """The folder, with these events as its journal and a stand-in for every saved student."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    started = (event for event in events if event["kind"] == "trial_started")
    num_students = {event["trial_id"]: 1 + len(event.get("peers", ())) for event in started}
    for event in events:
        if event.get("student"):
            for name in student_ids(event["trial_id"], num_students[event["trial_id"]]):
                student = folder / "students" / name
                student.mkdir(parents=True, exist_ok=True)
                (student / "student.safetensors").write_bytes(b"weights of " + name.encode())
                (student / "student.json").write_text(json.dumps({"trial_id": event["trial_id"]}))
    return folder


def float_dimension(low: float, high: float, log: bool = False) -> dict[str, Any]:
    """Optuna's JSON of a distribution."""
    return {"name": "FloatDistribution", "attributes": {"step": None, "low": low, "high": high, "log": log}}


def categorical_dimension(choices: Sequence[Any]) -> dict[str, Any]:
    return {"name": "CategoricalDistribution", "attributes": {"choices": list(choices)}}


MAPS = {
    "last": "stage3>stage3",
    "uniform": "stage1>stage1,stage2>stage2,stage3>stage3",
    "skip": "stage1>stage1,stage3>stage3",
}
FEATURES = ["none", "at", "fitnet", "sp"]
SIZES = {  # params at width 1 and MACs per parameter, roughly
    "resnet8": (78_000, 158.0), "resnet14": (175_000, 154.0), "resnet20": (276_000, 150.0),
    "mobilenetv2": (560_000, 42.0), "wrn16": (700_000, 145.0),
}  # fmt: skip


def realistic(num_trials: int = 60, seed: int = 0, *, finished: bool = True) -> Story:
    """A CIFAR-100 sweep whose accuracies follow size, recipe and luck as in published tables.

    Unfinished: no `sweep_ended`, the last three trials still running.
    """
    rng = random.Random(seed)
    story = Story(spec=SPEC | {"search": SPEC["search"] | {"trials": num_trials}})
    story.add("mlflow_run", run_id="parent", experiment_id="1")
    story.teacher(accuracy=0.7234, params=861_620)
    for number, (size, width) in enumerate([("resnet8", 0.25), ("wrn16", 0.875)]):
        _simulate(story, rng, "control", number, size, width, {}, None, None, 0.05, {})
    rungs: dict[int, list[float]] = {3: [], 9: [], 27: []}
    for number in range(num_trials):
        size, width = rng.choice(list(SIZES)), rng.choice([0.25, 0.375, 0.5, 0.625, 0.75, 0.875])
        feature, relation = rng.choice(FEATURES), rng.choice(["none", "none", "rkd"])
        alpha, temperature = rng.uniform(0.1, 1.0), math.exp(rng.uniform(0, math.log(20)))
        lr = math.exp(rng.uniform(math.log(0.01), math.log(0.3)))
        options: dict[str, Any] = {"weight": round(math.exp(rng.uniform(0, 7)), 3)}
        if feature in ("at", "fitnet"):
            options["layer_map"] = MAPS[rng.choice(list(MAPS))]
        terms = {"response": Choice("kd")}
        terms |= {"feature": Choice(feature, options)} if feature != "none" else {}
        terms |= {"relation": Choice(relation, {"weight": 1.0})} if relation != "none" else {}
        optuna = {
            "distill.alpha": (alpha, float_dimension(0.1, 1.0)),
            "distill.temperature": (temperature, float_dimension(1.0, 20.0, log=True)),
            "distill.feature": (feature, categorical_dimension(FEATURES)),
            "student": (size, categorical_dimension(list(SIZES))),
            f"student.{size}.width": (width, float_dimension(0.25, 1.0)),
            "train.lr": (lr, float_dimension(0.01, 0.3, log=True)),
        }
        if feature != "none":
            optuna[f"distill.feature.{feature}.weight"] = (
                options["weight"],
                float_dimension(1, 1100, log=True),
            )
        unfinished = not finished and number >= num_trials - 3
        _simulate(
            story,
            rng,
            "search",
            number,
            size,
            width,
            terms,
            alpha,
            temperature,
            lr,
            optuna,
            rungs,
            unfinished,
        )
    return story.ended() if finished else story


def _simulate(
    story: Story,
    rng: random.Random,
    role: Role,
    number: int,
    size: str,
    width: float,
    terms: dict[str, Choice],
    alpha: float | None,
    temperature: float | None,
    lr: float,
    optuna: dict[str, Any],
    rungs: dict[int, list[float]] | None = None,
    unfinished: bool = False,
) -> None:
    base, macs_per_param = SIZES[size]
    params = int(base * width**2) + 1_200
    family = {"mobilenetv2": "mobilenetv2", "wrn16": "wrn"}.get(size, "resnet")
    depth = {} if family == "mobilenetv2" else {"depth": int(size.removeprefix(family))}
    chosen = config(
        family, {**depth, "width": width}, terms, alpha=alpha, temperature=temperature, lr=lr, epochs=60
    )
    floor = 0.715 - 0.115 * max(0.0, math.log10(700_000 / params)) ** 1.35
    final = floor + rng.gauss(0, 0.003) - 0.02 * abs(math.log10(lr / 0.06)) ** 2
    if temperature is not None and alpha is not None:
        final += 0.018 - 0.012 * math.log(temperature / 4) ** 2 / 2.5 - 0.02 * (alpha - 0.75) ** 2
    final += {"at": 0.004, "fitnet": 0.007, "sp": -0.003}.get(
        terms["feature"].name if "feature" in terms else "", 0.0
    )
    epochs, status, error, rule, reason = 60, "completed", "", "", "full budget"
    if role == "search" and rng.random() < 0.06:
        epochs, status, reason = rng.randint(0, 12), "failed", "diverged"
        error = (
            f"the loss is not finite in epoch {epochs + 1}, batch {rng.randint(1, 350)}: label=nan, kd=inf"
        )
    curve = []
    for epoch in range(1, epochs + 1):
        progress = epoch / 60
        level = 1 - 0.75 * math.exp(-epoch / 6) - 0.16 * math.cos(math.pi * progress / 2) ** 2
        curve.append(round(final * level + rng.gauss(0, 0.006) * (1.05 - progress), 4))
        seen = (rungs or {}).get(epoch)
        if seen is not None:
            seen.append(curve[-1])
            if len(seen) >= 3 and curve[-1] < sorted(seen, reverse=True)[len(seen) // 2] - 0.01:
                status, rule, reason, error = (
                    "stopped",
                    f"asha rung {epoch}",
                    f"below the top 1/3 of rung {epoch}",
                    "",
                )
                break
    if unfinished:
        curve, status = curve[:20], "running"
    story.trial(
        number, curve, params, role, status, chosen, max_epochs=60, macs=int(params * macs_per_param),
        optuna=optuna, error=error, reason=reason, rule=rule,
    )  # fmt: skip
