"""Coverage of lower bounds: a few small studies; `experiments/benchmarks/bound-coverage.md` has hundreds."""

from __future__ import annotations

import numpy as np
import pytest

from tests.experiments.test_experiments import load


@pytest.fixture(scope="module")
def bound_coverage():
    return load("bound_coverage")


def test_a_row_counts_the_bounds_that_hold_and_compares_distances(bound_coverage, capsys):
    found = bound_coverage.main(["--studies", "3", "--trials", "12", "--draws", "100"])
    assert set(found) == {(search, null) for search in ("random", "adaptive") for null in (True, False)}
    printed = capsys.readouterr().out
    judged = found["random", True]
    held = sum(study.bounds["MABT"] <= study.truth for study in judged)
    assert f"| random | null | MABT | {held} of 3 |" in printed
    assert all(study.truth == 0.5 for study in judged)
    assert all(study.bounds["MABT"] <= study.raw for study in judged)


def test_the_truth_of_a_simulated_trial_is_its_auc_on_many_cases(bound_coverage, monkeypatch):
    """Every study has thousands of cases here, so that the raw score of a single trial is the truth."""
    monkeypatch.setattr(bound_coverage, "N_CASES", (4000,))
    for number in range(3):
        found = bound_coverage.simulated_study((9, number), False, "random", 1, 2)
        assert found.raw == pytest.approx(found.truth, abs=0.03)


def test_phases_have_different_studies(bound_coverage):
    seeds = [(phase, 0, 0, 0) for phase in bound_coverage.PHASES.values()]
    raw = [bound_coverage.simulated_study(seed, True, "random", 3, 50).raw for seed in seeds]
    assert len(np.unique(raw)) == len(seeds)
