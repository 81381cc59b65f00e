"""The comparison of precisions: which images, and what heads trained and asked on either score."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bhsearch.evaluation.image_columns import ImageColumns
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.features import Cost, FeatureCache
from bhsearch.models.frozen.precision import BF16, F32
from bhsearch.objectives.precision import PrecisionComparison, compare_precisions, rows_by_case
from tests.tasks.samples import BINARY

N_CASES, N_EACH, N_FOLDS = 60, 6, 3
BACKBONE = Backbone("vit", None, "1", "staintex")


def columns(n_cases=N_CASES, n_each=N_EACH) -> ImageColumns:
    group = np.repeat(np.arange(n_cases), n_each)
    text = np.full(len(group), "", object)
    label = (group % 2).astype(np.int8)
    fold = (group // 2 % N_FOLDS).astype(np.int8)[None]
    return ImageColumns(label, fold, group, label.astype(np.int64), text, text, text, text)


class Drawn(FeatureCache):
    """Features that are drawn, in f32, and with more noise in bf16."""

    def __init__(self, images: ImageColumns, noise: float) -> None:
        random = np.random.default_rng(0)
        signal = images.label[:, None] * random.normal(0, 0.6, 8)
        single = (signal + random.normal(0, 1, (len(images), 8))).astype(np.float32)
        lower = single + noise * random.normal(0, 1, single.shape).astype(np.float32)
        self.arrays = {F32: single, BF16: lower}
        self.feature_backend, self.precisions, self.shifted = "openvino", {}, ()

    def of_rows(self, rows, precisions):
        part = Drawn.__new__(Drawn)
        part.arrays = {name: array[rows] for name, array in self.arrays.items()}
        part.feature_backend, part.precisions, part.shifted = "openvino", dict(precisions), ()
        return part

    def get(self, backbone, view):
        assert view == "identity"
        return self.arrays[self.precision_of(backbone)]

    def cost(self, backbone):
        return Cost(1.0, 1.0)


def test_equal_features_agree_exactly():
    found = compare_precisions(Drawn(columns(), 0.0), BACKBONE, columns(), BINARY)
    assert found.agrees
    assert found.widest == (0.0, 0.0)
    assert found.cosine == pytest.approx(1.0)
    assert len(set(found.auc.values())) == 1
    assert set(found.auc) == {"f32/f32", "f32/bf16", "bf16/f32", "bf16/bf16"}
    assert len(found.intervals) == 6
    assert (found.n_images, found.n_groups) == (N_CASES * N_EACH, N_CASES)


def test_noisy_features_do_not_agree_and_their_heads_score_less():
    found = compare_precisions(Drawn(columns(), 2.0), BACKBONE, columns(), BINARY)
    assert not found.agrees
    assert found.auc["bf16/bf16"] < found.auc["f32/f32"] - 0.05
    low, high = found.intervals["bf16/bf16 - f32/f32"]
    assert low < found.auc["bf16/bf16"] - found.auc["f32/f32"] < high < -0.005
    assert found.cosine < 0.9


def test_heads_are_trained_and_asked_on_the_precision_that_is_named(monkeypatch):
    """Against scikit-learn's AUC of the same predictions, fold by fold; all cases have the same number of images."""
    images, asked = columns(), []
    import bhsearch.objectives.precision as module

    original = module.bootstrap_scores

    def noted(predictions, counts, task):
        asked.append(predictions.probability[0])
        return original(predictions, counts, task)

    monkeypatch.setattr(module, "bootstrap_scores", noted)
    found = compare_precisions(Drawn(images, 1.0), BACKBONE, images, BINARY)
    for name, probability in zip(found.auc, asked, strict=True):
        folds = [images.fold[0] == fold for fold in range(N_FOLDS)]
        expected = np.mean([roc_auc_score(images.label[rows], probability[rows]) for rows in folds])
        assert found.auc[name] == pytest.approx(expected)
    # Heads that learned from noise rank noisy features better than heads that did not.
    assert len({array.tobytes() for array in asked}) == 4


def test_there_is_no_comparison_if_a_fold_lacks_a_class():
    images = columns()
    images.label[images.fold[0] == 1] = 0
    assert compare_precisions(Drawn(images, 0.0), BACKBONE, images, BINARY) is None


def test_a_comparison_is_kept_as_json():
    found = compare_precisions(Drawn(columns(), 0.1), BACKBONE, columns(), BINARY)
    assert PrecisionComparison.from_record(json.loads(json.dumps(found.to_record()))) == found


def test_agreement_is_of_every_interval_and_both_of_its_ends():
    found = SimpleNamespace(agrees=PrecisionComparison.agrees.fget)
    for ends, agrees in (((-0.005, 0.005), True), ((-0.0051, 0.0), False), ((0.0, 0.0051), False)):
        found.intervals = {"a - b": (0.0, 0.0), "b - c": ends}
        assert found.agrees(found) is agrees


def test_few_images_are_all_compared():
    images = columns()
    assert rows_by_case(images.group, images.label, len(images)).all()


def test_images_are_drawn_evenly_over_cases_and_classes():
    group = np.repeat(np.arange(10), [100, 50, 3, 40, 40, 40, 40, 40, 40, 40])
    label = np.zeros(len(group), np.int8)
    label[:50] = 1  # half of the first case
    rows = rows_by_case(group, label, 60)
    assert rows.sum() == 60
    counts = np.bincount(group[rows], minlength=10)
    assert counts[2] == 3
    assert counts[0] == pytest.approx(2 * counts[1], abs=2)  # it has two classes
    assert np.ptp(counts[[1, 3, 4, 5, 6, 7, 8, 9]]) <= 1
    assert label[rows & (group == 0)].mean() == pytest.approx(0.5, abs=0.1)
    np.testing.assert_array_equal(rows, rows_by_case(group, label, 60))


@pytest.mark.parametrize(("n_cases", "n_compared"), [(90, 540), (150, 400)])
def test_small_data_are_compared_as_a_whole(n_cases, n_compared):
    images = columns(n_cases)
    assert compare_precisions(Drawn(images, 0.0), BACKBONE, images, BINARY).n_images == n_compared
