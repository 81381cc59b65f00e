"""Large arrays are computed in parts, which change nothing."""

from __future__ import annotations

import numpy as np
import pytest

from bhsearch.models.training import heads as module
from bhsearch.models.training.heads import Heads, Moments


@pytest.mark.parametrize("linear", [True, False])
def test_held_out_logits(monkeypatch: pytest.MonkeyPatch, linear: bool):
    random = np.random.default_rng(0)
    n_hidden = 1 if linear else 3
    shapes = ((5, 2, n_hidden), (2, n_hidden), (2, n_hidden), (2,))
    heads = Heads(*(random.normal(size=shape).astype(np.float32) for shape in shapes), linear)
    features = random.normal(size=(40, 5)).astype(np.float32)
    held_out = random.integers(0, 40, (2, 17))
    expected = np.stack([heads.logits(features)[rows, model] for model, rows in enumerate(held_out)])
    for cells in (1, 60, 1 << 25):
        monkeypatch.setattr(module, "_HELD_OUT_CELLS", cells)
        np.testing.assert_allclose(heads.held_out_logits(features, held_out), expected, rtol=1e-5, atol=1e-6)


def test_moments(monkeypatch: pytest.MonkeyPatch):
    random = np.random.default_rng(0)
    features, weights = random.normal(size=(50, 4)).astype(np.float32), random.uniform(size=(50, 3))
    monkeypatch.setattr(module, "_MOMENT_ROWS", 7)
    found = Moments.of(features, weights)
    exact = features.astype(np.float64)
    np.testing.assert_allclose(found.first, weights.T @ exact)
    np.testing.assert_allclose(found.second, weights.T @ exact**2)
    np.testing.assert_allclose(found.total[:, 0], weights.sum(axis=0))
