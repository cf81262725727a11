"""Proposals by expected hypervolume improvement per unit of work.

Goes in: the spec and the search trials so far. Comes out: the configuration of the next one: of some hundred
drawn ones that of which a Gaussian process expects most for the front, divided by what its training takes. A
proposal is a function of (spec, trials, number) and of nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import json_to_distribution
from scipy.special import ndtri  # type: ignore[import-untyped]  # its stubs are a package of their own
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]  # has none

from kdsearch import space
from kdsearch.records import TrialConfig, TrialRecord
from kdsearch.search import features, gaussian_process, improvement
from kdsearch.search.drawing import Draw
from kdsearch.search.features import Column, Features
from kdsearch.search.fidelity import final_accuracies
from kdsearch.search.sampler import NUM_RANDOM, Proposal, Sampler, texts
from kdsearch.spec import Stages, SweepSpec

Floats = NDArray[np.float64]

NUM_CANDIDATES = 128  # half of them variations of what was trained to the end
MAX_DRAWS = 400  # in a space of which nearly everything was tried
CHANGE = 0.3  # of a variation's values
FROM_FRONT = 0.7  # of the variations
MAX_KNOWN = 400  # trials that the process is conditioned on: finished ones first, then the newest
# Variances of log errors. 0.08 is what two seeds differ by at 5 % errors and 0.4 points of noise; the fit
# scales it. A stopped trial's end is a guess.
NOISE, STOPPED = 0.08**2, 4.0
# Added to an error before its logarithm, so that a perfect score is not infinitely far from a good one.
SMALLEST_ERROR = 0.005
SIZE: Column = ("size", None)  # a column of its own beside Optuna's parameters
# The process does not know how wrong its kernel may be. On the digits of benchmarks/ the work to 95 % of the
# hypervolume was 0.066 at 1, 0.043 at 1.5 (20 seeds) and 0.051 at 2 (14 seeds), on 8 slots.
OPTIMISM = 1.5  # times the standard deviation
QUANTILES = OPTIMISM * ndtri((np.arange(16) + 0.5) / 16)
OVERHEAD = 0.3  # of the mean work: what a training takes however small its student is
BEYOND = 0.01  # of the size axis: how far the front reaches beyond the largest student, which counts, too
# One thread: two, which spin while they wait, took three times the processor time for a proposal at 1,000
# trials, on cores that train.
BLAS = ThreadpoolController().select(user_api="blas")


@dataclass(frozen=True)
class _Candidate:
    draw: Draw
    config: TrialConfig
    size: float
    work: float


class EhviSampler:
    """Makes proposals; the first ones, before the process knows enough, are those of `Sampler`.

    `floor` gives the accuracy below which a student adds nothing to the front.
    """

    def __init__(
        self,
        spec: SweepSpec,
        num_teacher_stages: Stages,
        floor: Callable[[], float],
        first: Sampler,
    ) -> None:
        self._spec, self._num_teacher_stages = spec, num_teacher_stages
        self._floor, self._first = floor, first
        self._features: dict[str, Features] = {}  # reading its distributions is the dear part of a trial
        self._keys: dict[str, str] = {}

    def ask(self, number: int, records: Sequence[TrialRecord]) -> Proposal:
        """The configuration of search trial `number`, given the search trials that were started before."""
        with BLAS.limit(limits=1):
            return self._ask(number, records)

    def _ask(self, number: int, records: Sequence[TrialRecord]) -> Proposal:
        known = self._known(records)
        if len(known) < NUM_RANDOM or not any(record.status == "completed" for record in known):
            return self._first.ask(number, records)
        candidates = list(self._candidates(records, space.trial_seed(self._spec, number)))
        if not candidates:
            return self._first.ask(number, records)
        running = [record for record in records if record.status == "running"]
        gains = self._gains(known, running, candidates)
        work = np.array([one.work for one in candidates])
        chosen = candidates[int(np.argmax(gains / (work + OVERHEAD * work.mean())))]
        return Proposal(chosen.config, dict(chosen.draw.params), texts(chosen.draw.distributions))

    def _gains(
        self, known: Sequence[TrialRecord], running: Sequence[TrialRecord], candidates: Sequence[_Candidate]
    ) -> Floats:
        """[M] the expected hypervolume improvement of each candidate.

        A running trial counts as if it had ended as expected (Ginsbourger, Le Riche and Carraro, 2010, the
        Kriging believer), so that several workers do not train the same thing. The front is that of expected
        accuracies: of observed ones the luckiest would be the bar.
        """
        rows = [self._features_of(record) for record in (*known, *running)]
        rows += [_features(one.draw, one.size) for one in candidates]
        x, parameters = features.matrix(rows)
        values, noise = self._observed(known)
        n, m = len(known), len(known) + len(running)
        kernel = gaussian_process.fit(x[:n], parameters, values, noise)
        covariances = kernel.between(x, x[:m])
        seen = gaussian_process.condition(kernel, covariances[:n, :n], values, noise)
        expected = seen.mean(covariances[n:m, :n])
        believed = np.append(values, expected), np.append(noise, np.full(m - n, NOISE))
        process = gaussian_process.condition(kernel, covariances[:m], *believed)
        means = process.mean(covariances[:m])
        points = [
            (self._first.place(record.cost), float(accuracy))
            for record, accuracy in zip((*known, *running), _accuracy(means), strict=True)
            if record.status in ("completed", "running")
        ]
        front = improvement.staircase(points, self._floor(), start=0.0, end=1.0 + BEYOND)
        mean, sd = process.predict(covariances[m:])
        accuracies = _accuracy(mean[:, None] + sd[:, None] * QUANTILES)
        return improvement.expected(front, np.array([one.size for one in candidates]), accuracies)

    def _known(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """The trials that ended with an accuracy, or diverged: what is not told of would be tried again."""
        ended = [
            r
            for r in records
            if (r.status in ("completed", "stopped") and r.val_accuracy is not None) or _diverged(r)
        ]
        ended.sort(key=lambda record: (record.status != "completed", -record.number))
        return sorted(ended[:MAX_KNOWN], key=lambda record: record.number)

    def _observed(self, known: Sequence[TrialRecord]) -> tuple[Floats, Floats]:
        """Values [N] and noise variances [N] of the trials; one that diverged has no accuracy at all."""
        finished = [record for record in known if record.status == "completed"]
        stopped = [record for record in known if record.status == "stopped"]
        likely = dict(zip((r.trial_id for r in stopped), final_accuracies(stopped, finished), strict=True))

        def end(record: TrialRecord) -> float | None:
            if _diverged(record):
                return 0.0
            carried_on = likely.get(record.trial_id)
            return record.val_accuracy if carried_on is None else carried_on

        ends = [end(record) for record in known]
        noise = [STOPPED * NOISE if record.status == "stopped" else NOISE for record in known]
        return _log_error(np.array(ends, dtype=np.float64)), np.array(noise)

    def _candidates(self, records: Sequence[TrialRecord], seed: int) -> Iterator[_Candidate]:
        """Configurations that were not tried: even ones out of the whole space, odd ones near known ones."""
        rng = np.random.default_rng(seed)
        seen = {self._key_of(record) for record in records}
        finished = [record for record in records if record.status == "completed"]
        front = _front(finished, self._first.place)
        num_found = 0
        for position in range(MAX_DRAWS):
            parents = front if rng.random() < FROM_FRONT else finished
            parent = parents[int(rng.integers(len(parents)))].params if position % 2 else None
            draw = Draw(rng, parent, CHANGE)
            config = space.suggest(draw, self._spec, self._num_teacher_stages, seed)
            key = features.key(draw.params)
            if key in seen:
                continue
            seen.add(key)
            costs = self._first.costs_of(config)
            work = sum(cost["macs"] for cost in costs)
            yield _Candidate(draw, config, self._first.place(costs[0]), work)
            num_found += 1
            if num_found == NUM_CANDIDATES:
                return

    def _key_of(self, record: TrialRecord) -> str:
        if record.trial_id not in self._keys:
            self._keys[record.trial_id] = features.key(record.params)
        return self._keys[record.trial_id]

    def _features_of(self, record: TrialRecord) -> Features:
        found = self._features.get(record.trial_id)
        if found is None:
            distributions = {name: json_to_distribution(text) for name, text in record.distributions.items()}
            found = features.features(record.params, distributions)
            found = {**found, SIZE: self._first.place(record.cost)}
            self._features[record.trial_id] = found
        return found


def _diverged(record: TrialRecord) -> bool:
    """Whether its recipe is what failed, and not the machine."""
    return record.status == "failed" and record.reason == "diverged"


def _features(draw: Draw, size: float) -> Features:
    return {**features.features(draw.params, draw.distributions), SIZE: size}


def _front(
    finished: Sequence[TrialRecord], place: Callable[[Mapping[str, float]], float]
) -> list[TrialRecord]:
    """Those that are more accurate than all that are no larger."""
    front: list[TrialRecord] = []
    for record in sorted(finished, key=lambda r: (place(r.cost), -(r.val_accuracy or 0.0), r.number)):
        if not front or (record.val_accuracy or 0.0) > (front[-1].val_accuracy or 0.0):
            front.append(record)
    return front


def _log_error(accuracy: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(0.0, 1 - accuracy) + SMALLEST_ERROR))


def _accuracy(log_error: Floats) -> Floats:
    return np.asarray(1 + SMALLEST_ERROR - np.exp(log_error))
