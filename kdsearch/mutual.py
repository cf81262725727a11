"""One trial that trains several students together, each from the labels, the teacher and the other students.

Goes in: a `TrialConfig` with an online method. Comes out: what `Training` gives, for all students: metrics
and terms of the first under their plain names, of the others as `val_accuracy.s2`, `label.s2`.

The peers see the same views in the same order. The first has the initial weights of an ordinary training
with this seed, so it compares with the same control; each other draws its own from (seed, "init", number).
All are updated at once from one forward pass. Each one's teacher terms learn and remember for it alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from kdsearch import online
from kdsearch.data import ImageData
from kdsearch.data.views import Batch
from kdsearch.device import NCHW
from kdsearch.losses.alone import epochs_alone
from kdsearch.losses.dml import dml
from kdsearch.losses.terms import total_loss
from kdsearch.models.build import Classifier
from kdsearch.output_cache import Shelf
from kdsearch.records import EpochResult, TrialConfig, of_student
from kdsearch.schedules import now
from kdsearch.training import Training, build_optimizer

_LOSS = "loss"  # a peer's own total among the terms of a batch; `train_loss` in the end


def training_for(
    config: TrialConfig,
    data: ImageData,
    augment: Sequence[tuple[str, Mapping[str, Any]]] = (),
    teacher: Classifier | None = None,
    device: str = "cpu",
    shelf: Shelf | None = None,
    layout: str = NCHW,
) -> Training:
    """The training that the configuration asks for: of one student, or of peers. Raises as `Training`."""
    kind = Training if config.online.name == "none" else MutualTraining
    return kind(config, data, augment, teacher, device, shelf=shelf, layout=layout)


class MutualTraining(Training):
    """A training whose loss is the sum of its peers': none has a gradient in another's weights.

    To `Training` the further students are something more to learn and to checkpoint, as learned parts of
    losses are.
    """

    def __init__(
        self,
        config: TrialConfig,
        data: ImageData,
        augment: Sequence[tuple[str, Mapping[str, Any]]] = (),
        teacher: Classifier | None = None,
        device: str = "cpu",
        *,
        shelf: Shelf | None = None,
        layout: str = NCHW,
    ) -> None:
        super().__init__(config, data, augment, teacher, device, shelf=shelf, layout=layout)
        self._mutual = online.settings(config.online)
        self._further = tuple(
            Training(one, data, augment, teacher, device, leader=self, number=number, layout=layout)
            for number, one in enumerate(online.configs(config)[1:], start=2)
        )
        for number, peer in enumerate(self._further, start=2):
            self._learned[f"s{number}"] = nn.ModuleDict({"student": peer.student, "learned": peer._learned})
        parameters = [*self.student.parameters(), *self._learned.parameters()]
        self._optimizer = build_optimizer(config.train, parameters)

    @property
    def students(self) -> tuple[Classifier, ...]:
        return (self.student, *(peer.student for peer in self._further))

    def run_epoch(self, evaluate: bool = True) -> EpochResult:
        """As `Training.run_epoch`, with every peer's accuracy and mean loss among the metrics."""
        wall, cpu = time.perf_counter(), time.process_time()
        result = super().run_epoch(evaluate)
        metrics, terms = dict(result.metrics), dict(result.terms)
        for number in range(1, len(self.students) + 1):
            metrics[of_student("train_loss", number)] = terms.pop(of_student(_LOSS, number))
        for number, peer in enumerate(self._further, start=2):
            peer.epoch = self.epoch
            if evaluate:
                metrics[of_student("val_accuracy", number)] = peer.evaluate()
        return EpochResult(
            result.epoch,
            metrics,
            terms,
            time_s=time.perf_counter() - wall,
            cpu_s=time.process_time() - cpu,
            fill_s=result.fill_s,
        )

    def _prepare(self) -> None:
        super()._prepare()
        for peer in self._further:
            peer._prepare()

    def _loss(self, batch: Batch, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        peers: tuple[Training, ...] = (self, *self._further)
        outputs = [peer._student_outputs(batch.images) for peer in peers]
        teacher = self._taught(batch, epoch)
        mutual = dml([student.logits for student in outputs], self._mutual["temperature"])
        weight = self._weight(epoch)
        losses: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        for number, (peer, student, term) in enumerate(zip(peers, outputs, mutual, strict=True), start=1):
            loss, terms = total_loss(peer.config, peer._terms, student, teacher, batch, epoch)
            losses.append(loss + weight * term)
            own = {_LOSS: losses[-1], **terms, self.config.online.name: term}
            parts |= {of_student(name, number): value.detach() for name, value in own.items()}
        return sum(losses[1:], losses[0]), parts

    def _weight(self, epoch: int) -> float:
        """The mutual term's weight: scheduled as the terms' are, 0 while one of them trains alone."""
        if epoch <= epochs_alone(self.config):
            return 0.0
        return float(self._mutual["weight"]) * now(self.config, epoch).factor
