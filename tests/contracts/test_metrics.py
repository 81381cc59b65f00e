"""The contract of logged metrics, over those of plugins and, as an example, two built-in ones."""

from __future__ import annotations

import numpy as np
import pytest

from bhsearch.evaluation.logged_metrics import METRICS
from bhsearch.evaluation.metrics import weighted_auc, weighted_average_precision

CASES = {"auc": weighted_auc, "average_precision": weighted_average_precision, **{n: METRICS.get(n) for n in METRICS}}


@pytest.fixture(params=CASES)
def metric(request):
    return CASES[request.param]


@pytest.fixture
def rows():
    source = np.random.default_rng(0)
    label = (np.arange(40) % 3 == 0).astype(np.int8)
    return label, source.random(40), source.uniform(0.5, 2, 40)


def test_a_metric_is_one_number_that_does_not_depend_on_the_order_of_rows(metric, rows):
    value = float(metric(*rows))
    assert np.isfinite(value)
    order = np.random.default_rng(1).permutation(40)
    assert float(metric(*(array[order] for array in rows))) == pytest.approx(value, abs=1e-12)


def test_a_weight_counts_as_repetition_and_its_scale_does_not_count(metric, rows):
    label, probability, _ = rows
    counts = np.arange(40) % 4
    repeated = [np.repeat(array, counts) for array in (label, probability)]
    once = float(metric(label, probability, counts.astype(np.float64)))
    assert float(metric(*repeated, np.ones(counts.sum()))) == pytest.approx(once, abs=1e-12)
    assert float(metric(label, probability, 3.0 * counts)) == pytest.approx(once, abs=1e-12)


def test_without_one_of_the_classes_a_metric_is_a_number_or_nan_and_no_error(metric, rows):
    label, probability, weight = rows
    with np.errstate(all="ignore"):
        for value in (0, 1):
            assert np.asarray(metric(label, probability, weight * (label == value))).shape == ()
