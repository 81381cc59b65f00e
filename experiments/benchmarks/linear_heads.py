"""Exact linear heads against scikit-learn: the seconds of a whole path of penalties, and the largest difference.

All fold models and penalties are solved by `logistic_path.fit_path`; scikit-learn fits one fold model at the largest C
in float64. A solver of scikit-learn counts only if its gradient falls to the same norm, 1e-9 of that at weights of
zero. Without `--data`, the features are synthetic: correlated, not negative, and with case weights.

    python experiments/benchmarks/linear_heads.py --data path/to/features.npz
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from bhsearch.models.training.heads import Moments, standardisation
from bhsearch.models.training.logistic_path import TOLERANCE, fit_path

# The criterion of lbfgs also ends at rounding errors of the loss, so a lower value makes no difference.
SOLVERS = {"lbfgs": 1e-12, "newton-cholesky": 1e-11}


def synthetic(n_rows: int, n_features: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, labels and weights of rows that are learned only in part."""
    random = np.random.default_rng(0)
    n_hidden = max(8, n_features // 8)
    hidden = random.normal(size=(n_rows, n_hidden)) * np.linspace(2.0, 0.2, n_hidden)
    mixed = hidden @ random.normal(size=(n_hidden, n_features)) / np.sqrt(n_hidden)
    features = np.maximum(mixed + 0.5 * random.normal(size=mixed.shape), 0.0).astype(np.float32)
    labels = (hidden[:, :5].sum(axis=1) + 3 * random.normal(size=n_rows) > 0).astype(np.int8)
    return features, labels, random.uniform(0.2, 1.0, n_rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="file with the arrays `features`, `labels` (0 or 1) and `weights`")
    parser.add_argument("--rows", type=int, default=4000, help="rows of synthetic features (4000)")
    parser.add_argument("--features", type=int, default=1280, help="number of synthetic features (1280)")
    parser.add_argument("--folds", type=int, default=5, help="fold models (5)")
    parser.add_argument("--penalties", type=int, default=12, help="values of C from 1e-4 to 1 (12)")
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS), help="of scikit-learn (all)")
    options = parser.parse_args()

    if options.data is None:
        features, labels, weights = synthetic(options.rows, options.features)
    else:
        stored = np.load(options.data)
        features, labels, weights = (stored[name] for name in ("features", "labels", "weights"))
    held_out = np.arange(len(labels))[:, None] % options.folds == np.arange(options.folds)
    weights = np.where(held_out, 0.0, weights[:, None])
    mean, scale = standardisation([Moments.of(features, weights)])
    costs = np.geomspace(1e-4, 1.0, options.penalties)
    started = time.perf_counter()
    path = fit_path(features, labels, weights, mean, scale, costs)
    seconds = time.perf_counter() - started

    inside = weights[:, 0] > 0
    inputs = (features.astype(np.float64) - mean[0]) * scale[0].astype(np.float64)
    sample_weight = weights[inside, 0] * inside.sum() / weights[inside, 0].sum()
    ours = features.astype(np.float64) @ path.kernel[-1, :, 0, 0] + path.bias[-1, 0, 0]
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| | seconds | relative gradient norm | path / fit | largest difference of logits |")
    print("| --- | --- | --- | --- | --- |")
    print(
        f"| path, {options.folds} x {options.penalties} heads | {seconds:.1f} | {path.gradient_norms.max():.1e} | | |"
    )
    for solver in options.solvers:
        model = LogisticRegression(C=costs[-1], solver=solver, tol=SOLVERS[solver], max_iter=100_000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the line search at the rounding error
            started = time.perf_counter()
            model.fit(inputs[inside], labels[inside], sample_weight)
            passed = time.perf_counter() - started
        theirs = inputs @ model.coef_[0] + model.intercept_[0]
        probability = 1 / (1 + np.exp(-theirs[inside]))
        gradient = inputs[inside].T @ (sample_weight * (probability - labels[inside])) + model.coef_[0] / costs[-1]
        frequency = np.average(labels[inside], weights=sample_weight)
        norm = np.linalg.norm(gradient) / np.linalg.norm(
            inputs[inside].T @ (sample_weight * (frequency - labels[inside]))
        )
        ratio = f"{seconds / passed:.2f}" if norm <= TOLERANCE else "does not reach the norm"
        difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
        print(f"| scikit-learn, {solver}, one head | {passed:.1f} | {norm:.1e} | {ratio} | {difference:.1e} |")


if __name__ == "__main__":
    main()
