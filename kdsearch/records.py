"""The leaf types that every stage shares: what a trial is, what an epoch said, what a sweep did.

Goes in: sampled values, or the journal's events. Comes out: frozen values without torch, ray or
mlflow. `replay` turns a journal into a `SweepRecord`; reports, tracking and resume all start there.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from kdsearch import spending

Scalar = bool | int | float | str
Role = Literal["control", "search", "confirm"]
Status = Literal["running", "completed", "stopped", "failed"]
# What a control is for: the floor of its size band; tuning lr and weight decay of the band's controls,
# without distillation or with plain kd; the pair of one trial, without or with plain kd. Blank for others.
Purpose = Literal["", "floor", "tune_no_kd", "tune_kd", "no_kd", "kd"]
Event = dict[str, Any]

ROLE_LETTER: Mapping[Role, str] = {"search": "t", "control": "c", "confirm": "r"}


def trial_id(role: Role, number: int) -> str:
    """`t0007` for search trial 7, `c0003` for a control, `r0012` for a confirmation."""
    return f"{ROLE_LETTER[role]}{number:04d}"


def student_ids(trial: str, num_students: int) -> tuple[str, ...]:
    """The trial's own id for its only student, `t0007.s1`, `t0007.s2` for several."""
    return tuple(f"{trial}.s{n}" for n in range(1, num_students + 1)) if num_students > 1 else (trial,)


def of_student(name: str, number: int) -> str:
    """What belongs to one of a trial's students: plain for the first, then `val_accuracy.s2` and so on."""
    return name if number == 1 else f"{name}.s{number}"


def is_of_further_student(name: str) -> bool:
    """Whether a metric or term is that of a trial's second or further student, as `of_student` names it."""
    return re.search(r"\.s\d+$", name) is not None


@dataclass(frozen=True)
class Choice:
    """A filled slot: which entry of a table, and its settings."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


def joined(name: str, part: str) -> str:
    """The name of a part of the teacher `name`; the only teacher has no name."""
    return "/".join(filter(None, (name, part)))


def teacher_name(choice: Choice) -> str:
    """Which `teacher_ready` event a trial's teacher is: the last assistant of its chain, where it has one."""
    return joined(choice.name, choice.options.get("assistants", ""))


@dataclass(frozen=True)
class TrainConfig:
    """The recipe of one training. `lr` is the peak, `weight_decay` also applies to learned loss parts."""

    epochs: int
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    warmup_epochs: int = 0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class TrialConfig:
    """Everything that decides one training: same config, data and versions, same result.

    `distill` maps a filled slot (`response`, `feature`, `relation`, `contrastive`) to its method;
    empty means no distillation. `alpha` and `temperature` are None without a response term.
    `label_weight` None means the method's own rule (`1 - alpha` for kd; 1 without a response term).
    `schedule` moves temperature, alpha and weights (`kdsearch.schedules`), `curriculum` chooses an epoch's
    samples, `teacher_views` is the number of views of an image over which the teacher's output is averaged.
    `online` trains further students with this one (`kdsearch.online`), `student` is the first of them.
    `teacher` is the one of several that teaches, with what the trial chose of it (`teacher_name`).
    `stream` picks the views (augmentation), `seed` the initial weights and the order.
    """

    student: Choice
    train: TrainConfig
    distill: Mapping[str, Choice] = field(default_factory=dict)
    alpha: float | None = None
    temperature: float | None = None
    label_weight: float | None = None
    schedule: Choice = Choice("constant")
    curriculum: Choice = Choice("none")
    online: Choice = Choice("none")
    teacher_views: int = 1
    teacher: Choice = Choice("")
    seed: int = 0
    stream: int = 0

    @property
    def is_distilled(self) -> bool:
        """Whether it learns from anything but its labels."""
        return bool(self.distill) or self.online.name != "none"

    @property
    def control(self) -> TrialConfig:
        """The same training without distillation: equal student, recipe, seed and views."""
        return TrialConfig(self.student, self.train, seed=self.seed, stream=self.stream)

    def flat(self) -> dict[str, Scalar]:
        """The configuration under its dotted names, as in `trials.csv` and MLflow; only what applies."""
        values: dict[str, Any] = {"student.family": self.student.name}
        values |= {f"student.{name}": value for name, value in self.student.options.items()}
        for name in ("alpha", "temperature", "label_weight"):
            if getattr(self, name) is not None:
                values[f"distill.{name}"] = getattr(self, name)
        for slot, choice in self.distill.items():
            values[f"distill.{slot}"] = choice.name
            values |= {f"distill.{slot}.{name}": value for name, value in choice.options.items()}
        for name, usual in (("schedule", "constant"), ("curriculum", "none"), ("online", "none")):
            choice = getattr(self, name)
            if choice.name != usual:
                values[f"distill.{name}"] = choice.name
                values |= {f"distill.{name}.{option}": value for option, value in choice.options.items()}
        if self.teacher_views != 1:
            values["distill.teacher_views"] = self.teacher_views
        if self.teacher.name:
            values["teacher"] = self.teacher.name
        values |= {f"teacher.{name}": value for name, value in self.teacher.options.items()}
        for name, value in dataclasses.asdict(self.train).items():
            values[f"train.{name}"] = ",".join(map(str, value)) if isinstance(value, tuple) else value
        return values

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> TrialConfig:
        train = dict(data["train"])
        train["milestones"] = tuple(train["milestones"])
        distill = {slot: Choice(**choice) for slot, choice in data["distill"].items()}
        names = ("student", "schedule", "curriculum", "online", "teacher")
        choices = {name: Choice(**data[name]) for name in names if name in data}
        return TrialConfig(**{**data, **choices, "train": TrainConfig(**train), "distill": distill})


@dataclass(frozen=True)
class EpochResult:
    """One finished epoch. `epoch` counts from 1; times are seconds of this epoch alone.

    `metrics` holds `train_loss`, `lr` and, where the student was evaluated, `val_accuracy` (a fraction);
    `terms` the mean of every unweighted loss term (`label` is the cross-entropy with the labels). Those of a
    trial's further students are beside them as `val_accuracy.s2`, `label.s2` (`of_student`). `fill_s` of the
    seconds went into the teacher's outputs for the cache, which other trials then read.
    """

    epoch: int
    metrics: Mapping[str, float]
    terms: Mapping[str, float]
    time_s: float
    cpu_s: float
    fill_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass
class TrialRecord:
    """What the journal says about one trial, or about one of its students (`students`)."""

    trial_id: str
    number: int
    role: Role
    seed: int
    config: TrialConfig
    cost: dict[str, float]  # params, macs, size_mb of the exported student
    band: int
    params: dict[str, Scalar]  # Optuna's names and values; empty for a control
    distributions: dict[str, str]  # Optuna's JSON of each
    max_epochs: int
    attempt: int = 1
    status: Status = "running"
    reason: str = ""
    rule: str = ""
    error: str = ""
    student: str = ""  # folder of the saved student, relative to the sweep's
    started: float = 0.0
    ended: float = 0.0
    epochs: list[Event] = field(default_factory=list)
    checkpoint: Event | None = None
    mlflow_run_id: str = ""
    peers: Sequence[Event] = ()  # student, cost and band of each further student that it trains
    student_number: int = 1
    purpose: Purpose = ""
    partner: str = ""  # the trial that it is compared with, or repeats
    origin: str = ""  # of a search trial that was not proposed: a warm start, the papers' usual settings
    test_accuracy: float | None = None  # of a trial that was allowed to open the test split
    peer_test_accuracies: Sequence[float] = ()  # of its further students

    @property
    def student_id(self) -> str:
        return student_ids(self.trial_id, 1 + len(self.peers))[self.student_number - 1]

    def students(self) -> tuple[TrialRecord, ...]:
        """A record of each student: the trial's, with its own architecture, cost, band, epochs and folder."""
        if not self.peers:
            return (self,)
        first = {"student": dataclasses.asdict(self.config.student), "cost": self.cost, "band": self.band}
        return tuple(self._of(number, own) for number, own in enumerate([first, *self.peers], start=1))

    def _of(self, number: int, own: Event) -> TrialRecord:
        record = dataclasses.replace(
            self,
            config=dataclasses.replace(self.config, student=Choice(**own["student"])),
            cost=own["cost"],
            band=own["band"],
            epochs=[
                {**epoch, **{part: _own(epoch[part], number) for part in ("metrics", "terms")}}
                for epoch in self.epochs
            ],
            student_number=number,
            test_accuracy=(self.test_accuracy, *self.peer_test_accuracies)[number - 1]
            if self.test_accuracy is not None
            else None,
        )
        record.student = f"students/{record.student_id}" if self.student else ""
        return record

    @property
    def num_epochs(self) -> int:
        return len(self.epochs)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Host names of the machines that ran its epochs, in the order in which they did."""
        return tuple(dict.fromkeys(epoch.get("node", "") for epoch in self.epochs))

    @property
    def val_accuracy(self) -> float | None:
        """The validation accuracy when it was last looked at: of a completed trial in its last epoch."""
        for epoch in reversed(self.epochs):
            if "val_accuracy" in epoch["metrics"]:
                return float(epoch["metrics"]["val_accuracy"])
        return None


def _own(values: Mapping[str, float], number: int) -> dict[str, float]:
    """One student's values under their plain names, and the learning rate, which all share."""
    keys = {name: name if name == "lr" else of_student(name, number) for name in values}
    return {
        name: values[key] for name, key in keys.items() if key in values and not is_of_further_student(name)
    }


@dataclass
class SweepRecord:
    """What the journal says about a sweep. `header` is the newest `sweep_started` event.

    `teachers` has every `teacher_ready` by name, '' where there is but one; the `role` of some is a part in
    teaching: member, generation or assistant. `trials` only grows.
    """

    header: Event
    sessions: list[Event]  # every sweep_started event, resumed ones included
    teachers: dict[str, Event] = field(default_factory=dict)
    trials: dict[str, TrialRecord] = field(default_factory=dict)
    mlflow_parent: Event | None = None
    test_openings: list[Event] = field(default_factory=list)
    warnings: list[Event] = field(default_factory=list)
    warm_start: list[Event] = field(default_factory=list)  # origin and params of what the search begins with
    budget_reached: Event | None = None  # the budget that ended the search: its key, limit, value and text
    ended: Event | None = None
    last_time: float = 0.0
    spent_s: float = 0.0  # wall seconds of the search: of each session from its first trial on
    device_s: float = 0.0  # of the epochs of search trials and floors
    _has_begun: bool = field(default=False, init=False)  # this session's first trial
    _by_role: dict[Role, list[TrialRecord]] = field(default_factory=dict, init=False)

    @property
    def teacher(self) -> Event | None:
        """The teacher that students are compared with: the most accurate one, of equal ones the first."""
        found = [event for event in self.teachers.values() if is_teacher(event)]
        return max(found, key=lambda event: event.get("accuracy") or 0.0, default=None)

    def teacher_of(self, config: TrialConfig) -> Event | None:
        """The teacher whose stages and head a trial's methods meet."""
        return self.teachers.get(teacher_name(config.teacher))

    def of_role(self, role: Role) -> Sequence[TrialRecord]:
        """By number; it grows with the sweep. Asked for at every report: the order is kept, no copy made."""
        num_ordered = sum(map(len, self._by_role.values()))
        for trial in itertools.islice(self.trials.values(), num_ordered, None):
            bisect.insort(self._by_role.setdefault(trial.role, []), trial, key=lambda one: one.number)
        return self._by_role.setdefault(role, [])

    def spent_until(self, now: float) -> float:
        """Wall seconds of the search as `spent_s` has them, with those since the last event."""
        return self.spent_s + (max(0.0, now - self.last_time) if self._has_begun else 0.0)

    def apply(self, event: Event) -> None:
        """Take in the next event. The first writer of an epoch wins."""
        kind = event["kind"]
        if kind != "mlflow_run":  # may come long after the sweep
            self._has_begun &= kind != "sweep_started"
            if not self.budget_reached:
                self.spent_s = self.spent_until(event["time"])
            self.last_time = event["time"]
            self._has_begun |= kind == "trial_started"
        if kind == "sweep_started":
            self.header, self.ended = event, None
            if self.budget_reached and not spending.is_still_the_limit(self.budget_reached, event):
                self.budget_reached = None
            self.sessions.append(event)
        elif kind == "teacher_ready":
            self.teachers[event.get("name", "")] = event
        elif kind == "trial_started":
            self._start(event)
        elif kind == "epoch":
            trial = self.trials[event["trial_id"]]
            if event["epoch"] == trial.num_epochs + 1:
                trial.epochs.append(spending.with_gpus(event, self.header))
                if trial.role == "search" or trial.purpose == "floor":
                    self.device_s += spending.device_s(trial.epochs[-1])
        elif kind == "checkpoint":
            self.trials[event["trial_id"]].checkpoint = event
        elif kind == "trial_ended":
            trial = self.trials[event["trial_id"]]
            trial.status, trial.ended = event["status"], event["time"]
            trial.reason, trial.rule = event["reason"], event["rule"]
            trial.error, trial.student = event["error"], event["student"]
            trial.test_accuracy = event.get("test_accuracy")
            trial.peer_test_accuracies = tuple(event.get("peer_test_accuracies", ()))
        elif kind == "mlflow_run":
            if event["trial_id"]:
                self.trials[event["trial_id"]].mlflow_run_id = event["run_id"]
            else:
                self.mlflow_parent = event
        elif kind == "test_opened":
            self.test_openings.append(event)
        elif kind == "warm_start":
            self.warm_start = event["points"]
        elif kind == "budget_reached":
            self.budget_reached = event
        elif kind == "warning":
            self.warnings.append(event)
        elif kind == "sweep_ended":
            self.ended = event

    def _start(self, event: Event) -> None:
        """A first start adds the trial; a further attempt keeps its epochs."""
        known = self.trials.get(event["trial_id"])
        if known is not None:
            known.attempt, known.status = event["attempt"], "running"
            return
        self.trials[event["trial_id"]] = TrialRecord(
            trial_id=event["trial_id"],
            number=event["number"],
            role=event["role"],
            seed=event["seed"],
            config=TrialConfig.from_json(event["config"]),
            cost=event["cost"],
            band=event["band"],
            params=event["params"],
            distributions=event["distributions"],
            max_epochs=event["max_epochs"],
            attempt=event["attempt"],
            started=event["time"],
            peers=event.get("peers", ()),
            purpose=event.get("purpose", "floor" if event["role"] == "control" else ""),
            partner=event.get("partner", ""),
            origin=event.get("origin", ""),
        )


def is_teacher(event: Event) -> bool:
    """Whether a `teacher_ready` is of a whole teacher and not of a part of one."""
    return bool(event.get("role", "teacher") == "teacher")


def replay(events: Iterable[Event]) -> SweepRecord:
    """A sweep's state from its journal. Raises ValueError where that does not begin with `sweep_started`."""
    known = list(events)
    if not known:
        raise ValueError("the journal is empty")
    if known[0]["kind"] != "sweep_started":
        raise ValueError(f"the journal begins with {known[0]['kind']!r}, not with 'sweep_started'")
    sweep = SweepRecord(header=known[0], sessions=[])
    for event in known:
        sweep.apply(event)
    return sweep
