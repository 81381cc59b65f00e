"""The stack: the penalised logistic regression of scikit-learn, with weights that cannot be negative."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from bhsearch.errors import RunError
from bhsearch.evaluation.ensembles.stack import stack_weights


def drawn(signal):
    """Draw logits of one member per value of `signal`, the share of the label in the logit."""
    random = np.random.default_rng(0)
    label = (random.random(400) < 0.4).astype(np.int8)
    logits = np.outer(signal, 2 * label - 1) + random.normal(size=(len(signal), len(label)))
    return logits, label, random.uniform(0.2, 1.0, len(label))


@pytest.mark.parametrize("cost", [0.001, 0.1, 10.0])
def test_weights_above_zero_are_those_of_scikit_learn(cost):
    logits, label, weight = drawn([0.5, 1.0, 0.7])
    weights, intercept = stack_weights(logits, label, weight, cost)
    model = LogisticRegression(C=cost, tol=1e-10, max_iter=1000)
    model.fit(logits.T, label, weight / weight.mean())
    assert (model.coef_ > 0).all()
    np.testing.assert_allclose(weights, model.coef_[0], atol=1e-5)
    assert intercept == pytest.approx(model.intercept_[0], abs=1e-5)


def test_a_member_that_would_have_a_negative_weight_is_left_out():
    logits, label, weight = drawn([1.0, -0.5])
    weights, intercept = stack_weights(logits, label, weight, 1.0)
    assert weights[1] == 0
    alone = stack_weights(logits[:1], label, weight, 1.0)
    assert weights[0] == pytest.approx(alone[0][0], abs=1e-5)
    assert intercept == pytest.approx(alone[1], abs=1e-5)


def test_the_scale_of_image_weights_does_not_matter():
    logits, label, weight = drawn([0.5, 1.0])
    one, other = stack_weights(logits, label, weight), stack_weights(logits, label, 7 * weight)
    np.testing.assert_allclose(one[0], other[0], rtol=1e-6)


def test_logits_that_are_not_finite_are_an_error():
    logits, label, weight = drawn([0.5, 1.0])
    logits[0, 3] = np.nan
    with pytest.raises(RunError, match="must be finite, but got nan"):
        stack_weights(logits, label, weight)
