"""The search of `plain_optuna.py` in KerasTuner's own loop: a tuner whose trials fit one network per fold.

python experiments/benchmarks/plain_keras_tuner.py --data path/to/BreaKHis_v1 --weights-dir path/to/weights --trials 3
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import keras_tuner
import numpy as np
import plain_optuna


def space(values: keras_tuner.HyperParameters) -> dict[str, Any]:
    """The parameters of `plain_optuna.suggest`."""
    return {
        "backbone": values.Choice("backbone", list(plain_optuna.BACKBONES)),
        "augmentation": values.Boolean("augmentation"),
        "hidden_units": values.Choice("hidden_units", [0, 16, 64]),
        "dropout": values.Float("dropout", 0.0, 0.6),
        "optimizer": values.Choice("optimizer", ["adamw", "sgd"]),
        "learning_rate": values.Float("learning_rate", 1e-4, 1e-1, sampling="log"),
        "weight_decay": values.Float("weight_decay", 1e-4, 1e-1, sampling="log"),
    }


class FoldTuner(keras_tuner.BayesianOptimization):
    """A tuner whose objective is the mean AUC over the folds."""

    def __init__(self, options: argparse.Namespace, folds: list[Any], **settings: Any) -> None:
        super().__init__(**settings)
        self._options, self._folds = options, folds

    def run_trial(self, trial: Any, *_: Any, **__: Any) -> dict[str, float]:
        """Fit and score a network per fold."""
        params = space(trial.hyperparameters)
        scores = [plain_optuna.fit_fold(params, *fold, self._options) for fold in self._folds]
        return {"auc": float(np.mean(scores))}


def main() -> None:
    options = plain_optuna.options_of(__doc__)
    folds, said = plain_optuna.folds_of(options)
    with tempfile.TemporaryDirectory() as folder:
        tuner = FoldTuner(
            options,
            folds,
            hypermodel=lambda values: space(values) and None,
            objective=keras_tuner.Objective("auc", "max"),
            max_trials=options.trials,
            seed=0,
            directory=folder,
        )
        started = time.perf_counter()
        tuner.search(verbose=0)
        seconds = (time.perf_counter() - started) / options.trials
        best = tuner.oracle.get_best_trials(1)[0].score
    print(f"{said}, best AUC {best:.4f}")
    print(f"{seconds:.2f} seconds a trial")


if __name__ == "__main__":
    main()
