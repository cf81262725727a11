"""Which settings mattered for accuracy: Optuna's PED-ANOVA over the journal's completed search trials.

Goes in: a `SweepRecord` with Optuna's params and distributions. Comes out: shares by setting that sum to 1,
the largest first. Sources: Watanabe et al., IJCAI 2023, arXiv 2304.10255; conditional settings
arXiv 2601.20800.
"""

from __future__ import annotations

import warnings

from kdsearch import results, summary
from kdsearch.records import SweepRecord

MIN_TRIALS = 10
_MIN_GOOD_TRIALS = 5  # Optuna's documentation: at least 5 trials above the quantile for a stable answer


def importances(sweep: SweepRecord, band: int | None = None) -> dict[str, float]:
    """How far each setting separates the best tenth (at least 5) of the trials from all of them.

    Of all sizes, or of one size band; there for the accuracy beyond what size explains (`beyond_size`). Of
    students that were trained together the first counts, the one that the sampler hears of.

    Empty with fewer than MIN_TRIALS completed trials or where nothing was searched.
    """
    found = [t for t in results.completed(sweep, "search") if t.params and t.student_number == 1]
    found = sorted((t for t in found if band in (None, t.band)), key=lambda trial: trial.number)
    if len(found) < MIN_TRIALS:
        return {}
    values = [results.accuracy(t) for t in found] if band is None else summary.beyond_size(found)
    import optuna  # takes a second; a report of a young sweep does without

    frozen = [
        optuna.trial.create_trial(
            params=trial.params,
            distributions={
                name: optuna.distributions.json_to_distribution(text)
                for name, text in trial.distributions.items()
            },
            value=value,
        )
        for trial, value in zip(found, values, strict=True)
    ]
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    optuna.logging.set_verbosity(verbosity)
    study.add_trials(frozen)
    quantile = max(0.1, _MIN_GOOD_TRIALS / len(found))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a setting with one value left is no news to the reader
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))
