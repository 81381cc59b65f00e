"""The frozen objective: its score is that of its predictions, and no fold learns from its validation rows."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from bhsearch.data.dataset import Dataset
from bhsearch.data.images.pixel_cache import pixel_cache
from bhsearch.data.load_dataset import load_dataset
from bhsearch.data.splits import make_split
from bhsearch.errors import RunError
from bhsearch.evaluation.metrics import fold_scores, trial_metrics
from bhsearch.evaluation.predictions import Predictions
from bhsearch.models import backend
from bhsearch.models.augmentation.cached_views import views_of
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.backbones.registry import find_backbones
from bhsearch.models.features import FeatureCache
from bhsearch.models.resize import make_resize
from bhsearch.models.training.hidden_heads import fit, n_epochs
from bhsearch.objectives import frozen as module
from bhsearch.objectives.base import TrialResult
from bhsearch.objectives.feature_progress import FeatureProgress
from bhsearch.objectives.frozen import FrozenObjective
from tests.studies import SMALL, cache_of, fresh_cache
from tests.tasks.samples import BINARY

N_FOLDS, N_REPEATS, SIZE = 3, 2, 48
# Everything on that could let one fold see another: shared views, a hidden layer.
POINT = {
    "backbone": "staintex-s",
    "policy": "dihedral-stain",
    "views": 2,
    "tta": True,
    "hidden_units": 8,
    "log10_penalty": 0.5,
}
LINEAR = POINT | {"hidden_units": 0, "policy": "none", "tta": False}
LINEAR_VIEWS = POINT | {"hidden_units": 0}
Noisy = Callable[..., FrozenObjective]


class Data:
    """The phantom's files in a folder of their own, with one division that stays whatever happens to them."""

    def __init__(self, folder: Path) -> None:
        self.index = load_dataset(folder, layout="breakhis")
        self.split = make_split(self.index, n_folds=N_FOLDS, n_repeats=N_REPEATS)
        self.rows = self.split.development
        self.fold = self.split.folds[:, self.rows]
        self.group = self.split.groups[self.rows]
        self.label = self.index.labels[self.rows]

    def objective(self, dataset: Dataset, label: np.ndarray | None = None, backbone: Backbone | None = None):
        """An objective on other files of the same paths."""
        assert list(dataset.column("path")) == list(self.index.column("path"))
        backend.import_backend()
        used = backbone or find_backbones(["staintex-s"], None).backbones[0]
        pixels = pixel_cache(dataset.select(self.rows), make_resize("crop", SIZE))
        features = FeatureCache(pixels, "openvino")
        labels = self.label if label is None else label
        return FrozenObjective(features, {used.name: used}, labels, self.fold, self.group, seed=0, task=BINARY)

    def predictions(self, outcome: TrialResult) -> Predictions:
        text = {name: self.index.column(name)[self.rows] for name in ("path", "case", "subtype", "magnification")}
        strata = self.split.strata[self.rows]
        return Predictions(self.label, outcome.probability, self.fold, self.group, strata, **text)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BHSEARCH_CACHE", cache_of(tmp_path_factory))
        from bhsearch.data.synthetic.phantom import phantom_dataset

        root = phantom_dataset(str(SMALL["data"])).root
        return Data(root)


@pytest.fixture(scope="module")
def objective(data: Data, tmp_path_factory: pytest.TempPathFactory) -> FrozenObjective:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BHSEARCH_CACHE", cache_of(tmp_path_factory))
        return data.objective(data.index)


@pytest.fixture(scope="module")
def made() -> dict[tuple[bytes, bytes], tuple[FrozenObjective, str]]:
    """Objectives on noise, each with its cache, by noisy images and labels: made once for all points of a test."""
    return {}


@pytest.fixture
def noisy(data: Data, made, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Noisy:
    """A function: an objective on the data set with noise as the pixels of some images, and nothing cached of it."""

    def objective(rows: np.ndarray, label: np.ndarray | None = None) -> FrozenObjective:
        key = rows.tobytes(), b"" if label is None else label.tobytes()
        if key not in made:
            folder = tmp_path_factory.mktemp("noise")
            cache = fresh_cache(folder / "cache", tmp_path_factory)
            shutil.copytree(data.index.root, folder / "images")
            random = np.random.default_rng(1)
            for path in data.index.column("path")[rows]:
                noise = random.integers(0, 256, (160, 240, 3), np.uint8)
                Image.fromarray(noise).save(folder / "images" / path)
            monkeypatch.setenv("BHSEARCH_CACHE", cache)
            made[key] = data.objective(load_dataset(folder / "images", layout="breakhis"), label), cache
        found, cache = made[key]
        monkeypatch.setenv("BHSEARCH_CACHE", cache)
        return found

    return objective


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two results are bit-identical."""
    return one.shape == other.shape and one.tobytes() == other.tobytes()


def column_is_same(one: TrialResult, other: TrialResult, column: int) -> bool:
    return all(
        same(a, b)
        for a, b in (
            (one.heads.kernel[:, column], other.heads.kernel[:, column]),
            (one.heads.bias[column], other.heads.bias[column]),
            (one.heads.output_weights[column], other.heads.output_weights[column]),
            (one.heads.output_bias[column : column + 1], other.heads.output_bias[column : column + 1]),
        )
    )


@pytest.mark.parametrize("point", [POINT, LINEAR, LINEAR_VIEWS], ids=["hidden", "linear", "linear on views"])
def test_the_score_is_that_of_its_predictions(data, objective, point):
    outcome = objective(point)
    predictions = data.predictions(outcome)
    assert outcome.score == pytest.approx(fold_scores(predictions).mean(), abs=1e-12)
    assert outcome.score == pytest.approx(trial_metrics(predictions, BINARY)["auc"], abs=1e-12)


def test_the_cost_is_that_of_the_deployed_model(objective):
    """Every view that is averaged is a pass through the backbone; all heads share it."""
    one, two = (objective(LINEAR | {"tta": tta, "policy": "stain", "views": 2}) for tta in (False, True))
    assert two.cost["ms_per_image"] == pytest.approx(2 * one.cost["ms_per_image"])
    assert two.cost["model_mb"] == one.cost["model_mb"]
    heads = one.heads
    weights = sum(array.nbytes for array in (heads.kernel, heads.bias, heads.output_weights, heads.output_bias)) / 1e6
    assert one.cost["model_mb"] > weights > 0


def test_curves_of_a_hidden_layer_have_a_point_per_epoch_and_end_at_the_image_itself(data, objective):
    outcome = objective(POINT | {"tta": False})
    epochs = n_epochs(len(data.label))
    assert {name: len(curve) for name, curve in outcome.curves.items()} == {
        "auc": epochs,
        "loss": epochs,
        "training_loss": epochs,
    }
    assert outcome.curves["auc"][-1] == pytest.approx(outcome.score, abs=1e-6)


def test_curves_of_a_linear_head_have_a_point_per_penalty_down_to_its_own(objective):
    outcome, weaker = objective(LINEAR), objective(LINEAR | {"log10_penalty": -0.5})
    assert outcome.curves["log10_penalty"] == [3.5, 3.0, 2.5, 2.0, 1.5, 1.0, 0.5]
    assert outcome.curves["auc"][-1] == outcome.score
    assert weaker.curves["auc"][-3] == outcome.score
    losses = weaker.curves["training_loss"]
    assert (np.diff(losses) < 0).all()  # a weaker penalty fits better
    assert len(losses) == len(weaker.curves["loss"]) == 9


def test_the_penalties_of_a_path_give_the_same_heads_in_any_order(data, objective):
    """What other trials computed before must not move a score."""
    downwards = {value: objective(LINEAR_VIEWS | {"log10_penalty": value}) for value in (2.0, 1.0, 0.0)}
    fresh = data.objective(data.index)
    for value in (0.0, 2.0, 1.0):
        again = fresh(LINEAR_VIEWS | {"log10_penalty": value})
        assert all(column_is_same(downwards[value], again, k) for k in range(N_FOLDS * N_REPEATS))
        assert same(downwards[value].probability, again.probability)
        assert downwards[value].curves == again.curves


def test_a_path_is_solved_once_whatever_is_averaged(objective, monkeypatch):
    objective(LINEAR_VIEWS | {"log10_penalty": -1.0})
    monkeypatch.setattr(module, "fit_path", None)
    for value in (-1.0, 0.0, 3.5):
        objective(LINEAR_VIEWS | {"log10_penalty": value, "tta": False})


@pytest.mark.parametrize("policy", ["none", "stain"])
def test_a_linear_head_is_the_logistic_regression_of_scikit_learn(data, objective, policy):
    """Balanced classes, equal weight of cases, standardised by the training rows; views share an image's weight."""
    point = LINEAR | {"policy": policy, "views": 2}
    outcome = objective(point)
    views = [objective._features.get(objective._backbones["staintex-s"], view) for view in views_of(policy, 2)]
    k = 1
    rows = np.flatnonzero(data.fold[0] != k)
    group = data.group[rows]
    of_group = 1.0 / np.bincount(group)[group]
    mean = np.mean([np.average(view[rows], axis=0, weights=of_group) for view in views], axis=0)
    square = np.mean([np.average((view[rows] - mean) ** 2, axis=0, weights=of_group) for view in views], axis=0)
    balanced = of_group.copy()
    for value in (0, 1):
        balanced[data.label[rows] == value] /= of_group[data.label[rows] == value].sum()
    weight = balanced * (len(rows) / balanced.sum()) / len(views)
    model = LogisticRegression(C=10.0 ** -point["log10_penalty"], solver="newton-cholesky", tol=1e-10, max_iter=200)
    stacked = np.concatenate([(view[rows] - mean) / np.sqrt(square) for view in views])
    model.fit(stacked, np.tile(data.label[rows], len(views)), np.tile(weight, len(views)))
    expected = model.decision_function((views[0] - mean) / np.sqrt(square))
    np.testing.assert_allclose(outcome.heads.logits(views[0])[:, k], expected, atol=2e-4 * np.abs(expected).max())
    assert outcome.model["gradient_norm"] <= 1e-9


def test_the_same_point_gives_the_same_outcome_again(objective):
    first, second = objective(POINT), objective(POINT)
    assert first.score == second.score
    assert same(first.probability, second.probability)


def test_every_column_predicts_with_its_own_head(data, objective):
    """Out of fold: each image's probability is that of the head whose validation part it is in."""
    outcome = objective(LINEAR)
    features = objective._features.get(objective._backbones["staintex-s"], "identity")
    by_column = 1 / (1 + np.exp(-outcome.heads.logits(features)))
    for repeat in range(N_REPEATS):
        own = by_column[np.arange(len(data.label)), repeat * N_FOLDS + data.fold[repeat]]
        assert outcome.probability[repeat] == pytest.approx(own, abs=1e-5)


def test_test_time_augmentation_averages_the_probabilities_of_all_views(data, objective):
    with_tta, without = objective(POINT), objective(POINT | {"tta": False})
    assert len(with_tta.model["views"]) == POINT["views"]
    assert without.model["views"] == ["identity"]
    assert with_tta.heads.kernel.tobytes() == without.heads.kernel.tobytes()  # it changes what is predicted, not learnt
    backbone = objective._backbones["staintex-s"]
    by_view = [with_tta.heads.logits(objective._features.get(backbone, view)) for view in with_tta.model["views"]]
    by_column = np.mean([1 / (1 + np.exp(-logits)) for logits in by_view], axis=0)
    rows = np.arange(len(data.label))
    for repeat in range(N_REPEATS):
        assert with_tta.probability[repeat] == pytest.approx(
            by_column[rows, repeat * N_FOLDS + data.fold[repeat]], abs=1e-5
        )
    assert not same(with_tta.probability, without.probability)


@pytest.mark.parametrize("point", [POINT, LINEAR, LINEAR_VIEWS], ids=["hidden", "linear", "linear on views"])
def test_noise_in_a_folds_own_rows_leaves_its_head_unchanged_bit_for_bit(data, objective, noisy, point):
    """The leak test: pixels and labels of one validation part replaced, from the image files on."""
    column = 1
    held_out = data.fold[0] == column
    noisy_rows = np.flatnonzero(data.rows)[held_out]
    label = np.where(held_out, 1 - data.label, data.label).astype(np.int8)
    before = objective(point)
    after = noisy(noisy_rows, label)(point)
    assert column_is_same(before, after, column)
    others = [k for k in range(N_FOLDS * N_REPEATS) if k != column]
    assert not any(column_is_same(before, after, k) for k in others)  # they learn from those rows, so noise must show


def test_noise_in_the_sealed_test_changes_nothing(data, objective, noisy):
    before = objective(POINT)
    after = noisy(np.flatnonzero(data.split.test))(POINT)
    assert before.score == after.score
    assert same(before.probability, after.probability)
    assert before.curves == after.curves
    assert all(column_is_same(before, after, k) for k in range(N_FOLDS * N_REPEATS))


def test_a_trial_says_which_view_of_which_features_it_computes(data, tmp_path, monkeypatch):
    monkeypatch.setenv("BHSEARCH_CACHE", str(tmp_path))
    told = []
    feature_progress = FeatureProgress(told.append)
    used = find_backbones(["staintex-s"], None).backbones[0]
    pixels = pixel_cache(data.index.select(data.rows), make_resize("crop", SIZE))
    features = FeatureCache(pixels, "keras", progress=feature_progress)
    objective = FrozenObjective(
        features, {used.name: used}, data.label, data.fold, data.group, 0, feature_progress, task=BINARY
    )
    objective(POINT | {"policy": "dihedral", "views": 4})
    n = len(data.label)
    for place in range(1, 5):
        at_end = re.compile(
            rf"computing features of staintex-s: {n}/{n}, view {place} of 4, [0-9.e+]+ images/s, [0-9a-z ]+ left"
        )
        assert any(map(at_end.fullmatch, told))
    assert told[-1] == "training heads"
    told.clear()
    objective(POINT | {"policy": "dihedral", "views": 4})
    assert told == ["training heads"]  # they are in the cache now


def test_predictions_that_are_not_finite_are_an_error(objective, monkeypatch):
    def broken(*arguments, **options):
        fitted = fit(*arguments, **options)
        return replace(fitted, heads=replace(fitted.heads, output_bias=fitted.heads.output_bias * np.nan))

    monkeypatch.setattr(module, "fit", broken)
    with pytest.raises(RunError, match="the predictions contain NaN or infinite values"):
        objective(POINT)


def test_each_class_has_half_of_the_training_weight(data, objective):
    for column in range(N_FOLDS * N_REPEATS):
        by_class = np.bincount(data.label, objective._balanced[:, column])
        assert by_class == pytest.approx([1.0, 1.0])


def test_every_case_has_the_same_weight_in_every_fold_or_none(data, objective):
    """However many images it has: weights of a case's training images sum to one, of its validation images to zero."""
    for column in range(N_FOLDS * N_REPEATS):
        by_case = np.bincount(data.group, objective._weights[:, column])[np.unique(data.group)]
        assert set(np.round(by_case, 12)) == {0.0, 1.0}
