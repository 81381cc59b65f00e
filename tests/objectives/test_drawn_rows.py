"""Heads with a hidden layer see the same number of images of each case, which stand for all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bhsearch.data.embeddings.join import ImageVectors
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.features import VectorCache
from bhsearch.objectives import drawn_rows as module
from bhsearch.objectives.base import TrialResult
from bhsearch.objectives.drawn_rows import draw_rows
from bhsearch.objectives.frozen import FrozenObjective
from tests.tasks.samples import BINARY

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@given(sizes=SIZES, most=st.integers(1, 200), seed=st.integers(0, 5))
def test_rows_are_drawn_evenly(sizes: list[int], most: int, seed: int):
    group = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)) * 3, sizes))
    rows, times = draw_rows(group, most, seed)
    assert (np.diff(rows) > 0).all()
    assert len(rows) <= max(most, len(sizes))
    drawn = np.array([np.sum(group[rows] == 3 * number) for number in range(len(sizes))])
    assert (drawn == np.minimum(sizes, drawn.max())).all()
    # One more of each group would be too many, unless all are drawn.
    assert len(rows) == len(group) or np.minimum(sizes, drawn.max() + 1).sum() > most
    total = np.array([times[group[rows] == 3 * number].sum() for number in range(len(sizes))])
    np.testing.assert_allclose(total, sizes)


def test_another_seed_draws_other_rows():
    group = np.repeat(np.arange(4), 50)
    assert (draw_rows(group, 40, 0)[0] == draw_rows(group, 40, 0)[0]).all()
    assert (draw_rows(group, 40, 0)[0] != draw_rows(group, 40, 1)[0]).any()


class Table:
    """Vectors in memory."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors, self.n_features = vectors, vectors.shape[1]

    def mapped(self) -> np.ndarray:
        return self.vectors


UNI = Backbone("uni", None, "", "vectors")
POINT = {"backbone": "uni", "hidden_units": 8, "log10_penalty": 0.0}


def trial(n_images: int = 60, point: dict[str, object] = POINT) -> tuple[TrialResult, np.ndarray, np.ndarray]:
    """A trial on 24 cases, of which every second one is malignant."""
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(24), n_images)
    label = (group % 2).astype(np.int8)
    vectors = (random.normal(size=(len(group), 6)) + label[:, None]).astype(np.float32)
    fold = (group // 2 % 3).astype(np.int8)[None]
    images = ImageVectors(Table(vectors), np.arange(len(group)))  # type: ignore[arg-type]
    objective = FrozenObjective(VectorCache({"uni": images}), {"uni": UNI}, label, fold, group, 0, task=BINARY)
    return objective(point), vectors, label


def test_few_images_are_all_trained_on(monkeypatch: pytest.MonkeyPatch):
    whole, *_ = trial()
    monkeypatch.setattr(module, "MOST_ROWS", 24 * 60)
    same, *_ = trial()
    np.testing.assert_array_equal(whole.probability, same.probability)


def test_many_images_are_all_predicted(monkeypatch: pytest.MonkeyPatch):
    """By heads of some images, which are nearly as good, and whose curve is of these images."""
    whole, vectors, _ = trial()
    monkeypatch.setattr(module, "MOST_ROWS", 24 * 15)
    some, *_ = trial()
    assert some.probability.shape == whole.probability.shape == (1, len(vectors))
    assert not np.array_equal(some.probability, whole.probability)
    assert some.score == pytest.approx(whole.score, abs=0.03)
    assert some.curves["auc"][-1] == pytest.approx(some.score, abs=0.03)
    logits = some.heads.logits(vectors)  # that of the held-out fold model is the out-of-fold prediction
    held_out = np.repeat(np.arange(24) // 2 % 3, 60)
    by_hand = 1 / (1 + np.exp(-logits[np.arange(len(vectors)), held_out]))
    np.testing.assert_allclose(some.probability[0], by_hand, atol=2e-6)


def test_linear_heads_are_trained_on_all(monkeypatch: pytest.MonkeyPatch):
    whole, *_ = trial(point=POINT | {"hidden_units": 0})
    monkeypatch.setattr(module, "MOST_ROWS", 100)
    same, *_ = trial(point=POINT | {"hidden_units": 0})
    np.testing.assert_array_equal(whole.probability, same.probability)
    assert whole.curves["auc"][-1] == whole.score
