"""The third side of benchmarks.overhead: the same trainings by Ray Tune with nothing around them.

    python -m benchmarks.tune_alone SPEC.yaml CONFIGS.json SLOTS OUT.json

Goes in: a spec, the configurations and the number of slots. Comes out: OUT.json, as of `pool_alone`.
No sampler, no early stopping, no journal, no MLflow, no loggers, a report a trial, processes that are used
again: the least that a search with Tune can take.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from kdsearch.search import cluster  # before ray.tune: sets its environment
from kdsearch.search.driver import lookahead

from ray import tune  # isort: skip
import torch

from benchmarks import pool_alone
from kdsearch.records import TrialConfig


class Training(tune.Trainable):
    """One training a task, whole, in its only step."""

    def setup(self, config: dict[str, Any], *, spec: Path, configs: list[TrialConfig]) -> None:  # type: ignore[override]
        torch.set_num_threads(1)
        self._spec, self._configs, self._number = spec, configs, config["number"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._number = new_config["number"]
        return True

    def step(self) -> dict[str, Any]:
        return {**pool_alone.train((self._spec, self._configs[self._number])), "done": True}


def main() -> None:
    options = pool_alone.arguments(__doc__)
    here = str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])  # of the workers
    # Else Tune stages sixteen, and starts a process for the next of them instead of using one that is free.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(options.slots + lookahead(options.slots))
    with tempfile.TemporaryDirectory() as folder, cluster.connected(None, options.slots):
        trainable = tune.with_parameters(Training, spec=options.spec, configs=options.configs)
        results = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space={"number": tune.grid_search(list(range(len(options.configs))))},
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=tune.RunConfig(
                storage_path=folder,
                verbose=0,
                # Else it asks for a checkpoint at the end, and ends the process that has none.
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        ).fit()
    found = [{name: result.metrics[name] for name in pool_alone.FOUND} for result in results]
    options.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
