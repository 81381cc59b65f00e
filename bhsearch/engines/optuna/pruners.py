"""Optuna's pruners by name, and the intermediate values that each of them receives."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner, WilcoxonPruner

from bhsearch.errors import SettingsError
from bhsearch.objectives.base import IntermediateValue

_N_FIRST = 2  # trials that a pruner compares with before it ends one


# All constants were chosen on recorded studies and judged on others: experiments/benchmarks/pruning.py. No trial is
# ended before half of its first fold: after a quarter, the best trials of those studies were lost.
def _median(steps_per_fold: int) -> BasePruner:
    return MedianPruner(n_startup_trials=_N_FIRST, n_warmup_steps=max(steps_per_fold // 2 - 1, 0))


def _halving(steps_per_fold: int) -> BasePruner:
    return SuccessiveHalvingPruner(min_resource=max(steps_per_fold // 2, 1), reduction_factor=3, bootstrap_count=0)


def _wilcoxon(_: int) -> BasePruner:
    # Two folds that are both worse have p = 0.25; a bound below would wait for a third.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # its interface may change; our bounds on Optuna hold it
        return WilcoxonPruner(p_threshold=0.3, n_startup_steps=2)


# A pruner from the number of reports in a fold.
PRUNERS: dict[str, Callable[[int], BasePruner]] = {
    "none": lambda _: NopPruner(),
    "median": _median,
    "halving": _halving,
    "wilcoxon": _wilcoxon,
}


def pruner_inputs(pruner: str, report: IntermediateValue, steps_per_fold: int) -> tuple[int, float] | None:
    """Return the step and the value that a pruner receives; None if it does not use the intermediate value.

    Wilcoxon's test compares fold by fold and wants each fold's own score; the others compare the mean so far, at shares
    of the schedule that are the same for trials of any length.
    """
    if pruner != "wilcoxon":
        return report.step, report.mean
    return None if report.fold is None else (report.step // steps_per_fold, report.fold)


def check_pruner(name: str) -> None:
    """Refuse an unknown pruner.

    Raises:
        SettingsError: Listing those that are.
    """
    if name not in PRUNERS:
        raise SettingsError(f"--pruner must be one of {', '.join(PRUNERS)}, but got {name!r}.")
