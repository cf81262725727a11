"""Which trials a sweep wants when its search has no more to start: tuned controls, repeats and their pairs.

Goes in: the spec and the sweep's state. Comes out: one trial after another, and how many there are at most.
All of it is a function of (spec, what is in the journal), so a resumed sweep goes on where it was. Nothing
waits that need not: controls are tuned while the last search trials run, and a repeat's controls run beside
other repeats.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from kdsearch import pairing
from kdsearch.front import accuracy, front, objectives
from kdsearch.membership import p_on_front, pooled_variance
from kdsearch.pairing import ARMS, TUNING, Left
from kdsearch.records import Purpose, SweepRecord, TrialConfig, TrialRecord
from kdsearch.search import tuning
from kdsearch.search.queue import Wanted
from kdsearch.spec import SweepSpec

AT_LEAST = 2  # repeats of a contender: one alone says nothing of its noise
MOST = 2  # times `confirm.seeds`: no student gets more repeats, however undecided it is


def first_seeds(seeds: int) -> int:
    """Repeats that every front student gets; the rest of its seeds goes to whoever is most undecided.

    >>> [first_seeds(seeds) for seeds in range(1, 7)]
    [1, 2, 2, 3, 4, 4]
    """
    return seeds - seeds // 3


def most_trainings(seeds: int, num_points: int) -> tuple[int, int]:
    """Trainings for each place of the front at most, its contender and all controls included, and to tune
    the controls of a size band."""
    repeats = seeds + min(AT_LEAST, first_seeds(seeds)) if seeds else 0
    return (1 + len(ARMS)) * repeats, len(ARMS) * num_points if seeds and num_points > 1 else 0


class Afterwards:
    """Asked again and again: what it said holds until a trial starts or ends."""

    def __init__(self, spec: SweepSpec, sweep: SweepRecord) -> None:
        self._spec, self._sweep = spec, sweep
        self._seen = (-1, -1)
        self._state: _State | None = None

    def next(self) -> Wanted | None:
        """What to start now; None where nothing is left or it has to wait for what runs."""
        state = self._look()
        return None if state is None else state.next

    def left(self) -> Left:
        state = self._look()
        return Left() if state is None else state.left

    def _look(self) -> _State | None:
        trials = self._sweep.trials.values()
        now = len(trials), sum(trial.status == "running" for trial in trials)
        if now != self._seen and self._spec.confirm.seeds:
            self._state = _State(self._spec, self._sweep)
        self._seen = now
        return self._state


class _State:
    """One look at the sweep. The search has no more trials to start; some may still run."""

    def __init__(self, spec: SweepSpec, sweep: SweepRecord) -> None:
        self.spec, self.sweep = spec, sweep
        self.searching = any(trial.status == "running" for trial in sweep.of_role("search"))
        members = front(sweep)
        self.near = members if self.searching else pairing.near_front(sweep)
        on_front = {self._name(member) for member in members}
        # By name: whole trials, of which one student or several are near.
        self.trials = {self._name(student): sweep.trials[student.trial_id] for student in self.near}
        self.num_front = len(on_front & self.trials.keys())
        first = first_seeds(spec.confirm.seeds)
        self.base = {name: first if name in on_front else min(first, AT_LEAST) for name in self.trials}
        self.repeats = {name: pairing.repeats(sweep, trial) for name, trial in self.trials.items()}

    def _name(self, student: TrialRecord) -> str:
        """What students of one trial share, and trials that differ in their seed alone."""
        return pairing.recipe_key(self.sweep.trials[student.trial_id])

    @functools.cached_property
    def next(self) -> Wanted | None:
        tune = next(self._untuned(), None)
        if tune is not None or self.searching:
            return tune
        return self._next_repeat() or next(self._unpaired(), None) or self._next_extra()

    @functools.cached_property
    def left(self) -> Left:
        num_tuning = sum(1 for _ in self._untuned())
        if self.searching:
            return Left(num_tuning)
        missing = sum(max(0, self.base[n] - len(done)) for n, done in self.repeats.items())
        num_repeats = missing + self._num_extra_left()
        with_pairs = [trial for trial in self.near if trial.student_number == 1]
        pairs = sum(1 for _ in self._unpaired(ready=False)) + len(ARMS) * num_repeats * bool(with_pairs)
        return Left(num_tuning, num_repeats, pairs)

    def _untuned(self) -> Iterator[Wanted]:
        """Both kinds of control at every point, for each band that has students near the front.

        A band's student is its most accurate one when its first trial starts, and stays that.
        """
        best: dict[tuple[int, str], TrialRecord] = {}
        for trial in self._first_students():
            group = trial.band, trial.config.train.optimizer
            best[group] = max(best.get(group, trial), trial, key=accuracy)
        for (band, optimizer), trial in sorted(best.items(), key=lambda item: item[0]):
            begun = pairing.tuning_trials(self.sweep, band, optimizer)
            partner = self.sweep.trials[begun[0].partner] if begun else trial
            tried = {(one.purpose, pairing.key(one.config)) for one in begun}
            wanted = tuning.points(self.spec, partner.config.train, band)
            for point in wanted if len(wanted) > 1 else ():
                for arm in ARMS:
                    plain = pairing.plain(self.sweep, partner.config, arm)
                    config = pairing.with_recipe(plain, *point)
                    if (TUNING[arm], pairing.key(config)) not in tried:
                        yield self._control(config, TUNING[arm], partner)

    def _next_repeat(self) -> Wanted | None:
        """One repeat of everyone, then the second ones: cut short anywhere, all have about as many."""
        for number in range(1, max(self.base.values(), default=0) + 1):
            for name, runs in self.repeats.items():
                if len(runs) < number <= self.base[name]:
                    return self._repeat(name)
        return None

    def _unpaired(self, ready: bool = True) -> Iterator[Wanted]:
        """The missing controls of every repeat; with `ready` of those alone whose recipe is settled."""
        known = {pairing.key(t.config) for t in self.sweep.trials.values() if t.role != "search"}
        for trial in self._first_students():
            tune = pairing.tuning_trials(self.sweep, trial.band, trial.config.train.optimizer)
            if ready and any(one.status == "running" for one in tune):
                continue
            for run in self.repeats[self._name(trial)]:
                for arm in ARMS if run.status != "failed" else ():
                    config = pairing.expected_pair(self.sweep, run, arm)
                    if pairing.key(config) not in known:
                        known.add(pairing.key(config))
                        yield self._control(config, arm, run)

    def _num_extra_left(self) -> int:
        """What of the seeds is shared out one at a time. A repeat more than promised has used one."""
        seeds = self.spec.confirm.seeds
        used = sum(max(0, len(done) - self.base[name]) for name, done in self.repeats.items())
        most = sum(MOST * seeds - self.base[name] for name in self.repeats)
        return max(0, min((seeds - first_seeds(seeds)) * self.num_front, most) - used)

    def _next_extra(self) -> Wanted | None:
        """One more repeat where it is most undecided whether the student is on the front.

        Not of a student of which a repeat is running: what that will say is worth waiting for.
        """
        if not self._num_extra_left():
            return None
        doubt = self._doubt()
        waiting = [
            name
            for name, runs in self.repeats.items()
            if name in doubt
            and len(runs) < MOST * self.spec.confirm.seeds
            and all(run.status != "running" for run in runs)
        ]
        if not waiting:
            return None
        # Hundredths: beyond that shares of draws are noise, and who has fewer repeats comes first.
        return self._repeat(min(waiting, key=lambda name: (round(doubt[name], 2), len(self.repeats[name]))))

    def _doubt(self) -> dict[str, float]:
        """By name, how far the membership of its most undecided student is from one half."""
        near = {trial.student_id for trial in self.near}
        known = [one for one in pairing.confirmed(self.sweep) if one.student.student_id in near]
        if not known:
            return {}
        values = [[accuracy(run) for run in one.runs] for one in known]
        means = [float(np.mean(one)) for one in values]
        variance, degrees = pooled_variance(values)
        if not degrees:
            variance = float(np.mean([pairing.noise(self.sweep, mean) ** 2 for mean in means]))
        costs = [[one.student.cost[name] for name in objectives(self.sweep)[1:]] for one in known]
        shares = p_on_front(means, [len(v) for v in values], costs, variance, degrees or np.inf)
        doubt: dict[str, float] = {}
        for one, share in zip(known, shares, strict=True):
            name = self._name(one.student)
            doubt[name] = min(doubt.get(name, 1.0), abs(float(share) - 0.5))
        return doubt

    def _first_students(self) -> Sequence[TrialRecord]:
        """Those near the front that have controls: of students trained together the first alone."""
        return [trial for trial in self.near if trial.student_number == 1]

    def _repeat(self, name: str) -> Wanted:
        trial, taken = self.trials[name], {run.config.stream for run in self.repeats[name]}
        number = next(n for n in range(1, len(taken) + 2) if n not in taken)
        config = pairing.repeat(self.sweep, trial, number)
        return Wanted("confirm", len(self.sweep.of_role("confirm")), config, {}, {}, "", trial.trial_id)

    def _control(self, config: TrialConfig, purpose: Purpose, partner: TrialRecord) -> Wanted:
        number = len(self.sweep.of_role("control"))
        return Wanted("control", number, config, {}, {}, purpose, partner.trial_id)
