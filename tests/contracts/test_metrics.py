"""The contract of metrics, over the built-in ones and those of plugins."""

from __future__ import annotations

import numpy as np
import pytest

from bhsearch.evaluation.metrics import METRICS
from bhsearch.evaluation.plugin_metrics import EXTRA_METRICS

ALL = {**METRICS, **{name: EXTRA_METRICS.get(name) for name in EXTRA_METRICS}}


@pytest.fixture(params=ALL)
def metric(request):
    assert ALL[request.param].name == request.param
    return ALL[request.param]


@pytest.fixture
def rows(metric):
    source = np.random.default_rng(0)
    label = (np.arange(40) % 3 == 0).astype(np.int8)
    probability = source.random(40)
    predicted = (probability > 0.5).astype(np.int8)
    return label, predicted if metric.needs_threshold else probability, source.uniform(0.5, 2, 40)


def test_a_metric_is_one_number_in_its_range_that_does_not_depend_on_the_order_of_rows(metric, rows):
    assert metric.title
    value = float(metric.function(*rows))
    assert metric.low <= value <= metric.high
    order = np.random.default_rng(1).permutation(40)
    assert float(metric.function(*(array[order] for array in rows))) == pytest.approx(value, abs=1e-12)


def test_a_weight_counts_as_repetition_and_its_scale_does_not_count(metric, rows):
    label, predicted, _ = rows
    counts = np.arange(40) % 4
    repeated = [np.repeat(array, counts) for array in (label, predicted)]
    once = float(metric.function(label, predicted, counts.astype(np.float64)))
    assert float(metric.function(*repeated, np.ones(counts.sum()))) == pytest.approx(once, abs=1e-12)
    assert float(metric.function(label, predicted, 3.0 * counts)) == pytest.approx(once, abs=1e-12)


def test_several_rows_of_weights_give_a_value_each(metric, rows):
    """The bootstrap computes many draws in one call."""
    label, predicted, weight = rows
    weights = np.stack([weight, np.arange(40) % 4, np.ones(40)])
    values = metric.function(label, predicted, weights)
    assert values.shape == (3,)
    alone = [float(metric.function(label, predicted, row)) for row in weights]
    np.testing.assert_allclose(values, alone, atol=1e-12)


def test_without_one_of_the_classes_a_metric_is_a_number_or_nan_and_no_error(metric, rows):
    label, predicted, weight = rows
    for value in (0, 1):
        assert np.asarray(metric.function(label, predicted, weight * (label == value))).shape == ()
