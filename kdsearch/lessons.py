"""What a training hears from its teacher: in every epoch what the terms in force read, from files or live.

Goes in: a teacher, a trial's configuration and the views of its images. Comes out: `Outputs` for each batch.
The teacher runs no further than it is read: not at all where files have its outputs or no term in force
reads it, and only up to the deepest stage that is compared where nothing reads its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdsearch.data.views import Batch, Views
from kdsearch.device import DevicePolicy
from kdsearch.losses.alone import slots_in_force
from kdsearch.losses.reading import Reading, reading
from kdsearch.losses.tensors import mean_answer
from kdsearch.models.build import Classifier, Outputs
from kdsearch.models.classifier import MEMBERS, SUMMARIES
from kdsearch.output_cache import TOLERANCES, OutputCache, Recorded, Shelf, Targets, rounded
from kdsearch.records import TrialConfig
from kdsearch.schedules import now

FURTHER_STREAM = 1 << 20  # further views of a sample come from streams this far apart

Summaries = Mapping[str, Callable[[Outputs], Tensor]]  # by name: what a term reads of the maps, [B,W]


class Kept(NamedTuple):
    """Where outputs are kept, what apart from teacher, stream and epoch decides them, and the views."""

    shelf: Shelf
    identity: Mapping[str, Any]
    views: Views


class Lessons:
    """One training's teacher, in evaluation mode and without gradients.

    `further_view(batch, epoch, number)` shows a batch's images once more; `summaries` are filled by whoever
    builds the terms, before the first epoch; without `kept` the teacher always runs live.
    Where everything that an epoch reads can be kept, it is rounded to float16, also where the teacher runs
    live: both ways train alike.
    """

    def __init__(
        self,
        config: TrialConfig,
        teacher: Classifier,
        policy: DevicePolicy,
        num_student_stages: int,
        further_view: Callable[[Batch, int, int], Batch],
        summaries: Summaries,
        kept: Kept | None,
    ) -> None:
        self._config, self._teacher, self._policy = config, teacher, policy
        self._num_stages = num_student_stages, len(teacher.stages)
        self._further_view = further_view
        self._summaries, self._kept = summaries, kept
        self._cache: OutputCache | None = None
        self._recorded: dict[int, Recorded | None] = {}  # this epoch's, by the number of the view
        self._reading = self._read_in(1)

    def _read_in(self, epoch: int) -> Reading:
        chosen = [self._config.distill[slot] for slot in slots_in_force(self._config, epoch)]
        return reading(chosen, *self._num_stages)

    def open(self, epoch: int) -> float:
        """Get ready for an epoch. Returns the seconds that went into files, which other trials read, too."""
        self._reading = self._read_in(epoch)
        self._teacher.soften_at(now(self._config, epoch).temperature)
        self._recorded = {}
        if self._kept is None or not self._reading.is_kept:
            return 0.0
        self._cache = self._cache or self._files(self._kept)
        before, streams = self._cache.fill_s, enumerate(self._streams())
        self._recorded = {number: self._cache.epoch(stream, epoch) for number, stream in streams}
        return self._cache.fill_s - before

    def outputs(self, batch: Batch, epoch: int) -> Outputs | None:
        """The teacher on the student's view, its probabilities averaged over further views where asked.

        As in data distillation (Radosavovic et al., CVPR 2018, arXiv 1712.04440) and in testing on several
        crops (Krizhevsky et al., NIPS 2012): probabilities, not logits. Maps and embedding are those of the
        student's view. Beyer et al., CVPR 2022, arXiv 2106.05237, find one shared view to be what matters.
        None where no term in force reads the teacher.
        """
        if not self._reading.fields:
            return None
        outputs, *further = (self._answer(batch, epoch, number) for number in range(len(self._streams())))
        if not further:
            return outputs
        return outputs._replace(logits=mean_answer(torch.stack([one.logits for one in (outputs, *further)])))

    @torch.no_grad()
    def live(self, images: Tensor, whole: bool = False) -> Outputs:
        """The teacher on images, as far as it is read; maps are dropped at once where no term reads them."""
        read = self._reading
        until = None if whole or read.answers else self._teacher.stages[read.deepest - 1].name
        outputs = outputs_of(self._teacher, images, self._policy, bool(read.details), until)
        return outputs if "features" in read.fields else outputs._replace(features={})

    def _streams(self) -> list[int]:
        """Of the student's view, and where the logits are read, of the further ones."""
        num_views = self._config.teacher_views if "logits" in self._reading.fields else 1
        return [stream_of(self._config, number) for number in range(num_views)]

    def _answer(self, batch: Batch, epoch: int, number: int) -> Outputs:
        """The teacher on one of the views of the batch's images: from the files, or live."""
        recorded = self._recorded.get(number)
        if recorded is not None:
            return self._heard(recorded.take(batch.indices, self._policy.device))
        view = batch if number == 0 else self._further_view(batch, epoch, number)
        outputs = self.live(view.images)
        return self._heard(rounded(self._targets(outputs))) if self._reading.is_kept else outputs

    def _targets(self, outputs: Outputs) -> Targets:
        summaries = {name: summary(outputs) for name, summary in sorted(self._summaries.items())}
        logits = outputs.details.get(MEMBERS, {}).get("logits", outputs.logits)
        return Targets(logits, outputs.embedding, summaries)

    def _heard(self, targets: Targets) -> Outputs:
        logits = self._teacher.answer(targets.logits) if self._reading.answers else targets.logits
        return Outputs(logits, {}, targets.embedding, {SUMMARIES: targets.summaries})

    def _files(self, kept: Kept) -> OutputCache:
        def ask(indices: Tensor, epoch: int, stream: int) -> Targets:
            return self._targets(self.live(kept.views.batch(indices, epoch, stream).images, whole=True))

        summaries = {"summaries": sorted(self._summaries)} if self._summaries else {}
        about = {**kept.identity, **summaries}
        tolerance = TOLERANCES[self._policy.autocast or torch.float32]
        batch_size = self._policy.eval_batch(kept.views.images.shape[-1])
        return OutputCache(kept.shelf, about, len(kept.views), ask, batch_size, tolerance)


def stream_of(config: TrialConfig, number: int) -> int:
    """The views of a sample: number 0 is what the student sees, 1, 2, ... are further ones."""
    return config.stream + FURTHER_STREAM * number


def outputs_of(
    model: Classifier,
    images: Tensor,
    policy: DevicePolicy,
    detailed: bool = False,
    until: str | None = None,
) -> Outputs:
    """The model's outputs in float32, whatever precision they were computed in."""
    images = images.contiguous(memory_format=policy.memory_format)
    with torch.autocast(policy.device.type, dtype=policy.autocast, enabled=policy.autocast is not None):
        outputs = model.outputs(images, detailed, until)
    return Outputs(
        outputs.logits.float(),
        {stage: map_.float() for stage, map_ in outputs.features.items()},
        outputs.embedding.float(),
        {kind: {name: x.float() for name, x in some.items()} for kind, some in outputs.details.items()},
    )
