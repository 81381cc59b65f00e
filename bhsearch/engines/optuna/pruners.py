"""Optuna's pruners by name, and the selection of the intermediate values that each pruner receives."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner, WilcoxonPruner

from bhsearch.errors import SettingsError
from bhsearch.objectives.base import IntermediateValue

_N_FIRST = 2  # number of complete trials before the median pruner may prune one


# All constants were tuned on some recorded studies and evaluated on others; see experiments/benchmarks/pruning.py. No
# trial is pruned before half of its first fold: pruning after a quarter lost the best trials of these studies.
def _median(steps_per_fold: int) -> BasePruner:
    return MedianPruner(n_startup_trials=_N_FIRST, n_warmup_steps=max(steps_per_fold // 2 - 1, 0))


def _halving(steps_per_fold: int) -> BasePruner:
    return SuccessiveHalvingPruner(min_resource=max(steps_per_fold // 2, 1), reduction_factor=3, bootstrap_count=0)


def _wilcoxon(_: int) -> BasePruner:
    # If both of the first two folds are worse, p is 0.25; a threshold below 0.25 would wait for a third fold.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # the interface is stable within the pinned versions
        return WilcoxonPruner(p_threshold=0.3, n_startup_steps=2)


# Factories of pruners by name; the argument is the number of intermediate values per fold.
PRUNERS: dict[str, Callable[[int], BasePruner]] = {
    "none": lambda _: NopPruner(),
    "median": _median,
    "halving": _halving,
    "wilcoxon": _wilcoxon,
}


def pruner_inputs(pruner: str, report: IntermediateValue, steps_per_fold: int) -> tuple[int, float] | None:
    """Return the step and the value that a pruner receives; None if the pruner does not use the intermediate value.

    The Wilcoxon pruner compares trials fold by fold, so it receives the score of each finished fold. The other pruners
    compare trials step by step, so they receive the mean score so far; a step is a fixed fraction of a fold, so that
    trials with different numbers of epochs are comparable.
    """
    if pruner != "wilcoxon":
        return report.step, report.mean
    return None if report.fold is None else (report.step // steps_per_fold, report.fold)


def check_pruner(name: str) -> None:
    """Check that a pruner of this name exists.

    Raises:
        SettingsError: If the name is unknown; the message lists the known names.
    """
    if name not in PRUNERS:
        raise SettingsError(f"--pruner must be one of {', '.join(PRUNERS)}, but got {name!r}.")
