"""Inner predictions: those of heads that saw neither the fold nor the image, and nothing of the fold moves them."""

from __future__ import annotations

import numpy as np
import pytest

from bhsearch.data.images.pixel_cache import pixel_cache
from bhsearch.data.splits import make_split
from bhsearch.data.synthetic.phantom import phantom_dataset
from bhsearch.models import backend
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.backbones.registry import find_backbones
from bhsearch.models.features import FeatureCache, FeatureSubset
from bhsearch.models.resize import make_resize
from bhsearch.objectives.frozen import FrozenObjective
from bhsearch.objectives.inner_folds import FoldPairs, with_own_fold
from tests.studies import SMALL, cache_of
from tests.tasks.samples import BINARY

N_FOLDS, N_REPEATS = 3, 2
HIDDEN = {
    "backbone": "staintex-s",
    "policy": "dihedral-stain",
    "views": 2,
    "tta": True,
    "hidden_units": 8,
    "log10_penalty": 0.5,
}
LINEAR = HIDDEN | {"hidden_units": 0}
POINTS = pytest.mark.parametrize("point", [HIDDEN, LINEAR], ids=["hidden", "linear"])


class NoisyFeatures(FeatureSubset):
    """Features in which those of some images are noise."""

    def __init__(self, features: FeatureCache, noisy: np.ndarray) -> None:
        super().__init__(features, np.ones(len(noisy), bool))
        self._noisy = noisy

    def get(self, backbone: Backbone, view: str) -> np.ndarray:
        found = super().get(backbone, view)
        noise = np.random.default_rng(1).normal(5.0, 3.0, found.shape).astype(np.float32)
        return np.where(self._noisy[:, None], noise, found)


class Study:
    def __init__(self) -> None:
        index = phantom_dataset(str(SMALL["data"]))
        split = make_split(index, n_folds=N_FOLDS, n_repeats=N_REPEATS)
        rows = split.development
        self.label, self.fold, self.group = index.labels[rows], split.folds[:, rows], split.groups[rows]
        backend.import_backend()
        self.backbones = {each.name: each for each in find_backbones(["staintex-s"], None).backbones}
        self.features: FeatureCache = FeatureCache(pixel_cache(index.select(rows), make_resize("crop", 48)), "openvino")

    def inner(self, point, features=None, label=None):
        """The predictions for the weights of each fold, without those of the fold itself."""
        objective = FrozenObjective(
            features or self.features,
            self.backbones,
            self.label if label is None else label,
            self.fold,
            self.group,
            0,
            task=BINARY,
            held_out=FoldPairs(self.fold),
        )
        return objective.predictions(point)[2]

    def of_fold(self, repeat: int, k: int) -> np.ndarray:
        return self.fold[repeat] == k


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BHSEARCH_CACHE", cache_of(tmp_path_factory))
        yield Study()


def test_linear_predictions_are_those_of_a_study_of_the_training_part_alone(study):
    """The heads for fold k are those of an objective that never receives a row of fold k."""
    found = study.inner(LINEAR)
    assert found.shape == (N_REPEATS * N_FOLDS, len(study.label))
    for repeat in range(N_REPEATS):
        for k in range(N_FOLDS):
            rows = ~study.of_fold(repeat, k)
            inner = study.fold[None, repeat, rows]
            alone = FrozenObjective(
                FeatureSubset(study.features, rows),
                study.backbones,
                study.label[rows],
                inner - (inner > k),
                study.group[rows],
                0,
                task=BINARY,
            )
            np.testing.assert_allclose(found[repeat * N_FOLDS + k, rows], alone(LINEAR).probability[0], atol=1e-4)


@POINTS
def test_noise_in_a_fold_moves_no_prediction_for_its_weights(study, point):
    """Labels and features of one fold are replaced: the inner predictions for this fold stay the same bit for bit."""
    repeat, k = 1, 2
    noisy = study.of_fold(repeat, k)
    label = np.where(noisy, 1 - study.label, study.label).astype(np.int8)
    before, after = study.inner(point), study.inner(point, NoisyFeatures(study.features, noisy), label)
    row = repeat * N_FOLDS + k
    assert before[row, ~noisy].tobytes() == after[row, ~noisy].tobytes()
    for other in range(N_FOLDS * N_REPEATS):  # all other folds learn from these images, so that noise must show
        if other != row:
            assert (before[other, ~noisy] != after[other, ~noisy]).any()


@POINTS
def test_no_image_is_predicted_by_heads_that_learn_from_its_inner_fold(study, point):
    repeat, k, j = 0, 0, 1
    noisy = study.of_fold(repeat, j)
    label = np.where(noisy, 1 - study.label, study.label).astype(np.int8)
    before, after = study.inner(point), study.inner(point, label=label)
    assert before[repeat * N_FOLDS + k, noisy].tobytes() == after[repeat * N_FOLDS + k, noisy].tobytes()


def test_the_own_fold_has_the_out_of_fold_predictions():
    fold = np.array([[0, 1, 2, 0], [2, 1, 0, 1]], np.int8)
    inner = np.arange(24, dtype=np.float32).reshape(6, 4) / 100
    out_of_fold = np.array([[0.5, 0.6, 0.7, 0.8], [0.55, 0.65, 0.75, 0.85]], np.float32)
    whole = with_own_fold(inner, out_of_fold, fold)
    for repeat in range(2):
        for k in range(3):
            own = fold[repeat] == k
            row = repeat * 3 + k
            assert (whole[row, own] == out_of_fold[repeat, own]).all()
            assert (whole[row, ~own] == inner[row, ~own]).all()
