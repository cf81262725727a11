"""The next search trial's configuration: replayed, with the usual settings, or a sampler's.

Goes in: the spec, the sweep's state so far and a trial's number. Comes out: a `Proposal`, the same one
whenever the sweep has come this far.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from kdsearch import space, volume
from kdsearch.records import Scalar, SweepRecord
from kdsearch.search import usual
from kdsearch.search.bands import CostOf
from kdsearch.search.ehvi import EhviSampler
from kdsearch.search.sampler import CostsOf, Policy, Proposal, Sampler, proposal
from kdsearch.spec import Stages, SweepSpec


class Proposer:
    """Proposes trial after trial; `sweep` is watched."""

    def __init__(
        self,
        spec: SweepSpec,
        num_teacher_stages: Stages,
        cost_of: CostOf,
        sweep: SweepRecord,
        policy: Policy | None = None,
        costs_of: CostsOf | None = None,
    ) -> None:
        self._spec, self._num_teacher_stages, self._sweep = spec, num_teacher_stages, sweep
        self._policy = policy or Policy()
        self._sampler = Sampler(spec, num_teacher_stages, cost_of, self._policy, costs_of)
        self._ask = self._sampler.ask
        if spec.search.sampler == "ehvi":
            floor = partial(volume.floor, sweep)
            self._ask = EhviSampler(spec, num_teacher_stages, floor, self._sampler).ask

    def propose(self, number: int) -> Proposal:
        """The configuration of search trial `number`, which is the next one to start."""
        replayed = self._sweep.warm_start
        if number < len(replayed):
            return self._given(number, replayed[number]["params"], replayed[number]["origin"])
        params = self._usual(number, number - len(replayed))
        if params is not None:
            return self._given(number, params, usual.ORIGIN)
        return self._ask(number, self._sweep.of_role("search"))

    def _usual(self, number: int, position: int) -> dict[str, Scalar] | None:
        if not (self._policy.usual and usual.is_due(position)):
            return None
        target = self._sampler.target(number)
        return usual.params(
            self._spec,
            self._num_teacher_stages,
            position,
            lambda config: self._sampler.distance(config, target),
        )

    def _given(self, number: int, params: Mapping[str, Scalar], origin: str) -> Proposal:
        seed = space.trial_seed(self._spec, number)
        return proposal(self._spec, self._num_teacher_stages, params, seed, origin)
