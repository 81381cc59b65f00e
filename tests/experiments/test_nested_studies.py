"""Two small studies of each kind; `experiments/benchmarks/nested-studies.md` has more and larger ones."""

from __future__ import annotations

import numpy as np
import pytest

from bhsearch.config import Settings
from bhsearch.study.events import ProgressReporter
from bhsearch.study.runner import optimize
from tests.experiments.test_experiments import load

SMALL = ["--cases", "24", "--images", "3", "--backbones", "staintex-s", "--image-size", "48", "--folds", "3"]


@pytest.fixture(scope="module")
def nested_studies():
    return load("nested_studies")


@pytest.fixture(scope="module")
def found(nested_studies):
    return nested_studies.main([*SMALL, "--studies", "2", "--trials", "3", "--fresh-cases", "20"])


@pytest.mark.slow
def test_each_kind_has_its_truth(found):
    assert [study.truth for study in found["null"]] == [0.5, 0.5]
    assert all(0.5 < study.truth <= 1 for study in found["non-null"])


def test_a_study_is_that_of_the_command(found, here):
    asked = {"data": "phantom:cases=24,images=3,difficulty=0.7,seed=1", "backbones": ("staintex-s",)}
    settings = Settings(
        **asked,
        image_size=48,
        folds=3,
        trials=3,
        sampler="tpe",
        seed=1,
        nested=True,
        tracking=False,
        workers=0,
        quiet=True,
    )
    result, study = optimize(settings, ProgressReporter()), found["non-null"][1]
    assert result.nested is not None
    assert result.corrected is not None
    assert result.proposed is not None
    assert study.raw == pytest.approx(result.proposed.value)
    assert (study.nested, study.nested_low, study.nested_high) == pytest.approx(
        (result.nested.score, result.nested.low, result.nested.high)
    )
    assert (study.corrected, study.bound) == pytest.approx((result.corrected.score, result.corrected.bound))


def test_rows_count_what_holds(nested_studies, found):
    lines = nested_studies.rows("non-null", found["non-null"])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    nested = np.array([study.nested for study in found["non-null"]])
    truth = np.array([study.truth for study in found["non-null"]])
    assert [row[1] for row in cells] == ["proposed trial", "corrected (BBC-CV)", "lower bound (MABT)", "nested search"]
    assert cells[3][3].startswith(f"{(nested - truth).mean():+.3f}")
    held = sum(study.nested_low <= study.truth <= study.nested_high for study in found["non-null"])
    assert cells[3][4] == f"{held} of 2"
