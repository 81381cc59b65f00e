"""The search of `plain_optuna.py` in Ray Tune: one trial per core, and ASHA stops trials after some of their folds.

Ray is no dependency of bhsearch; run it with the Python of an environment that has `ray[tune]`, TensorFlow and Optuna.

    python experiments/benchmarks/plain_ray.py --data path/to/BreaKHis_v1 --weights-dir path/to/weights --trials 4
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])

import plain_optuna


def space() -> dict[str, Any]:
    """The parameters of `plain_optuna.suggest`."""
    from ray import tune

    return {
        "backbone": tune.choice(list(plain_optuna.BACKBONES)),
        "augmentation": tune.choice([False, True]),
        "hidden_units": tune.choice([0, 16, 64]),
        "dropout": tune.uniform(0.0, 0.6),
        "optimizer": tune.choice(["adamw", "sgd"]),
        "learning_rate": tune.loguniform(1e-4, 1e-1),
        "weight_decay": tune.loguniform(1e-4, 1e-1),
    }


def objective(params: dict[str, Any], options: Any) -> None:
    """Report the mean AUC so far after each fold."""
    import tensorflow as tf
    from ray import tune

    tf.config.threading.set_intra_op_parallelism_threads(1)
    folds, _ = plain_optuna.folds_of(options)
    scores: list[float] = []
    for fold in folds:
        scores.append(plain_optuna.fit_fold(params, *fold, options))
        tune.report({"auc": sum(scores) / len(scores)})


def main() -> None:
    options = plain_optuna.options_of(__doc__)
    _, said = plain_optuna.folds_of(options)

    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    ray.init(num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(objective, options=options), {"cpu": 1}),
        param_space=space(),
        tune_config=tune.TuneConfig(
            metric="auc",
            mode="max",
            num_samples=options.trials,
            scheduler=ASHAScheduler(max_t=options.folds, grace_period=1, reduction_factor=2),
        ),
        run_config=tune.RunConfig(verbose=0),
    )
    started = time.perf_counter()
    results = tuner.fit()
    seconds = (time.perf_counter() - started) / options.trials
    if results.num_errors:
        sys.exit(f"{results.num_errors} trials failed: {results.errors[0]}")
    print(f"{said}, best AUC {results.get_best_result().metrics['auc']:.4f}")
    print(f"{seconds:.2f} seconds a trial")


if __name__ == "__main__":
    main()
