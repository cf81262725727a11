"""Synthetic journals that go on after the search: tuning, repeats with fresh seeds, paired controls.

Goes in: a story whose search has ended, and what is true of its students. Comes out: the story, gone on as
the search itself would have, with configurations from `kdsearch.pairing`.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence

import journals

from kdsearch import pairing
from kdsearch.records import Role, TrialConfig, TrialRecord, replay

SEEDS = 3
SD = 0.0022  # between seeds, a fraction
LUCK = 0.003  # what the search's choice owes to luck, a fraction
TEST_BELOW_VALIDATION = 0.006
GAINS = (0.016, 0.011, 0.0, 0.019, -0.004, 0.013)  # of distillation, by the students' order


class Sequel:
    """Goes on with a story; numbers of controls and repeats follow those that are there."""

    def __init__(self, story: journals.Story) -> None:
        self.story = story
        self._sweep = replay(story.events)
        self._next = {role: len(self._sweep.of_role(role)) for role in ("control", "confirm")}

    def add(
        self,
        role: Role,
        config: TrialConfig,
        partner: TrialRecord,
        accuracy: float,
        purpose: str = "",
        test_accuracy: float | None = None,
    ) -> str:
        number = self._next[role]
        self._next[role] += 1
        epochs = config.train.epochs
        curve = [round(accuracy * (1 - 0.6 * (1 - epoch / epochs) ** 2), 4) for epoch in range(1, epochs)]
        return self.story.trial(
            number, [*curve, accuracy], int(partner.cost["params"]), role, trial_config=config,
            max_epochs=epochs, macs=int(partner.cost["macs"]), purpose=purpose, partner=partner.trial_id,
            test_accuracy=test_accuracy,
        )  # fmt: skip


def confirmed(
    story: journals.Story,
    gains: Sequence[float] = GAINS,
    num_seeds: int = SEEDS,
    *,
    opens_test: bool = True,
    chosen: Callable[[list[TrialRecord]], list[TrialRecord]] = list,
) -> journals.Story:
    """What `near_front` asks for: two tuning trials a band and arm, then repeats with their controls."""
    sequel, rng = Sequel(story), random.Random(5)
    story.events[0]["data"] = {"num_validation": 5000}
    sweep = replay(story.events)
    wanted = chosen(pairing.near_front(sweep))
    for trial in {trial.band: trial for trial in wanted}.values():
        for arm in pairing.ARMS:
            for lr, loss in ((0.05, 0.004), (0.1, 0.009)):
                config = pairing.with_recipe(pairing.plain(sweep, trial.config, arm), lr, 5e-4)
                level = (trial.val_accuracy or 0) - loss - (0.012 if arm == "no_kd" else 0.002)
                sequel.add("control", config, trial, round(level, 4), pairing.TUNING[arm])
    sweep = replay(story.events)
    known: set[str] = set()
    for number in range(1, num_seeds + 1):
        for index, trial in enumerate(wanted):
            gain = gains[index % len(gains)]
            truth = (trial.val_accuracy or 0) - LUCK * (1 + index % 3) / 2
            again = dataclasses.replace(trial, config=pairing.repeat(sweep, trial, number))
            controls = [
                ("control", pairing.expected_pair(sweep, again, arm), truth - lost, arm)
                for arm, lost in (("no_kd", gain), ("kd", 0.4 * gain))
            ]
            levels = [("confirm", again.config, truth, ""), *controls]
            for role, config, level, purpose in levels:
                luck = rng.gauss(0, SD)
                if purpose and pairing.key(config) in known:
                    continue
                known.add(pairing.key(config))
                test = round(level + luck - TEST_BELOW_VALIDATION + rng.gauss(0, SD / 3), 4)
                accuracy = round(level + luck, 4)
                sequel.add(role, config, trial, accuracy, purpose, test if opens_test else None)
    if opens_test:
        story.add("test_opened", reason="confirmation")
    return story
