"""Studies where nothing can be found: ten of them, small; `experiments/benchmarks/null-studies.md` has a hundred."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest

from bhsearch.data.synthetic.phantom import phantom_dataset
from bhsearch.errors import DataError
from bhsearch.evaluation.bootstrap import Interval
from bhsearch.evaluation.selection.bbc_cv import CorrectedScore
from tests.experiments.test_experiments import load

SMALL = ["--data", "phantom:cases=75,images=2", "--backbones", "staintex-s", "--image-size", "48"]


@pytest.fixture(scope="module")
def null_studies():
    return load("null_studies")


@pytest.mark.slow
def test_the_correction_removes_most_of_what_the_search_put_there(null_studies, capsys):
    found = null_studies.main([*SMALL, "--samplers", "random", "--studies", "10", "--trials", "10"])["random"]
    raw, corrected = (np.mean([getattr(null.corrected, name) for null in found]) for name in ("raw", "score"))
    assert raw > 0.55
    assert abs(corrected - 0.5) < (raw - 0.5) / 2
    held = sum(null.corrected.low <= 0.5 <= null.corrected.high for null in found)
    assert held >= 9
    assert sum(null.naive.low <= 0.5 <= null.naive.high for null in found) < held
    printed = capsys.readouterr().out
    assert "60 development cases" in printed
    assert f"| random | {raw:.3f} | {corrected:.3f} +-" in printed
    assert f"| {held} of 10 |" in printed


def test_labels_are_permuted_over_cases_and_nothing_else_changes(null_studies):
    index = null_studies.development(phantom_dataset("phantom:cases=75,images=2"))
    one, other = null_studies.permuted(index, 0, 5), null_studies.permuted(index, 1, 5)
    assert (one.label != other.label).any()
    assert (one.label != index.labels).any()
    for made in (one, other):
        labels = [set(made.label[made.case == case]) for case in np.unique(index.column("case"))]
        assert all(len(of_case) == 1 for of_case in labels)
        assert sum(map(max, labels)) == 36
        for fold in range(5):
            assert set(made.label[made.fold[0] == fold]) == {0, 1}
        assert (made.path == index.column("path")).all()
    again = null_studies.permuted(index, 1, 5)
    assert (other.label == again.label).all()


def test_cases_with_both_labels_cannot_be_permuted(null_studies):
    index = phantom_dataset("phantom:cases=75,images=2")
    mixed = replace(index, table=index.table.assign(label=np.arange(len(index), dtype=np.int8) % 2))
    with pytest.raises(DataError, match="one label each"):
        null_studies.development(mixed)


def test_a_row_says_how_much_is_removed_and_how_often_intervals_hold_chance(null_studies):
    nulls = [
        null_studies.Null(CorrectedScore(0.6, 0.52, 0.4, 0.7, 0.45, 30, 60), Interval(0.45, 0.7)),
        null_studies.Null(CorrectedScore(0.7, 0.54, 0.4, 0.6, 0.45, 30, 60), Interval(0.55, 0.8)),
    ]
    assert null_studies.row("tpe", nulls) == (
        "| tpe | 0.650 | 0.530 +- 0.010 | 80% | 2 of 2 | 0.250 | 1 of 2 | 0.250 |"
    )


def test_trials_are_those_of_the_engine_and_its_space(null_studies):
    """TPE begins with the sound point of each backbone, as in a study; random does not."""
    index = null_studies.development(phantom_dataset("phantom:cases=75,images=2"))
    options = Namespace(studies=1, trials=2, folds=3, image_size=48, backbones="staintex-s", feature_backend="keras")
    first, second = (next(null_studies.studies(index, options, sampler)) for sampler in ("tpe", "random"))
    assert first.corrected.n_trials == second.corrected.n_trials == 2
    assert first.corrected != second.corrected
