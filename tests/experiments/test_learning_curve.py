"""Coverage of the learning curve: a few small studies; `experiments/benchmarks/learning-curve.md` has hundreds."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.experiments.test_experiments import load


@pytest.fixture(scope="module")
def benchmark_module():
    return load("learning_curve")


def test_a_row_counts_the_curves_that_cover_the_truth(benchmark_module, capsys, monkeypatch):
    monkeypatch.setattr(benchmark_module, "SETTINGS", benchmark_module.SETTINGS[:2])
    found = benchmark_module.main(["--studies", "2"])
    table = capsys.readouterr().out.splitlines()[2:]
    assert len(table) == len(found) == 2
    for row, (setting, curves) in zip(table, found.items(), strict=True):
        auc, doubled = (benchmark_module.true_auc(setting, round(factor * setting.n_cases)) for factor in (0.8, 1.6))
        covered = sum(curve.gain_low <= doubled - auc <= curve.gain_high for curve in curves)
        assert f"| {covered} of 2 |" in row


def test_the_truth_is_the_auc_on_many_cases(benchmark_module, monkeypatch):
    monkeypatch.setattr(benchmark_module, "N_TRUTH", 1)
    setting = benchmark_module.SETTINGS[0]
    weight = benchmark_module.weights(setting, *benchmark_module.simulated(setting, 40, np.random.default_rng(1)))
    features, label = benchmark_module.simulated(setting, 100_000, np.random.default_rng(2))
    found = roc_auc_score(label, features @ weight)
    assert benchmark_module.true_auc(setting, 40) == pytest.approx(found, abs=0.005)
