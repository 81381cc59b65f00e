"""What the plan says before the first trial of a sealed test that is too small for the gate."""

from __future__ import annotations

from bhsearch.data.open_data import open_data
from bhsearch.data.splits import make_split
from bhsearch.evaluation.promotion import FEWEST_GROUPS
from bhsearch.evaluation.supplementary.auc_precision import auc_standard_error
from bhsearch.objectives.space import frozen_space
from bhsearch.study.checks.test_set_size import gate_size_warnings
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.plan import make_plan
from tests.studies import settings

FEW = "phantom:cases=35,images=1,difficulty=0.2"  # 3 benign and 4 malignant cases are sealed


def sealed(index, fraction, folds=2):
    split = make_split(index, test_fraction=fraction, n_folds=folds)
    return [len(set(split.groups[split.test & (index.labels == label)])) for label in (0, 1)]


def test_the_smallest_fraction_that_does_is_named():
    index = open_data(FEW)
    (said,) = gate_size_warnings(index, make_split(index, n_folds=2))
    assert "3 cases with benign and 4 with malignant images" in said
    fraction = float(said.partition("--test-fraction ")[2].split()[0])
    assert min(sealed(index, fraction)) >= FEWEST_GROUPS
    assert min(sealed(index, fraction - 0.05)) < FEWEST_GROUPS
    assert gate_size_warnings(index, make_split(index, test_fraction=fraction, n_folds=2)) == []


def test_where_none_does_it_says_so():
    index = open_data("phantom:cases=14,images=1")
    (said,) = gate_size_warnings(index, make_split(index, n_folds=3))
    assert "No --test-fraction does" in said


def test_it_stands_in_the_plan_and_not_where_nothing_may_be_promoted_anyway():
    made = StudyContext.build(settings(data=FEW, folds=2), ProgressReporter())
    warnings = make_plan(made, frozen_space(("staintex-s",)), 0).warnings
    assert sum("--test-fraction" in sentence for sentence in warnings) == 1
    by_image = make_split(made.index, n_folds=2, group_by="image")
    assert gate_size_warnings(made.index, by_image) == []
    large = open_data("phantom:cases=120,images=1")
    assert gate_size_warnings(large, make_split(large)) == []


def test_the_plan_says_what_the_sealed_cases_can_show():
    made = StudyContext.build(settings(data=FEW, folds=2), ProgressReporter())
    rows = dict(make_plan(made, frozen_space(("staintex-s",)), 0).rows)
    assert f"standard error of {auc_standard_error(0.9, 3, 4):.3f}" in rows["sealed can show"]
