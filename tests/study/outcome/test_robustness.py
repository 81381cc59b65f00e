"""Robustness: shifted images meet the heads of their own fold, and nothing used on a fold comes from the fold."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bhsearch.data.images.decode import decode
from bhsearch.data.images.pixel_cache import pixel_cache
from bhsearch.data.open_data import open_data
from bhsearch.engines.base import Trial
from bhsearch.evaluation.metrics import score
from bhsearch.models.augmentation.shifts import SHIFTS
from bhsearch.models.features import FeatureCache
from bhsearch.models.resize import make_resize
from bhsearch.objectives.space import frozen_space, starting_point
from bhsearch.states import COMPLETE
from bhsearch.study.context import FINETUNE, StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.objective_factory import cached_features, frozen_objective, shifted_features
from bhsearch.study.outcome.robustness import N_BEST, in_the_running, is_default, plan_row, robustness_of, thresholds_of
from bhsearch.study.outcome.selection import RankedTrial
from tests.studies import cache_of, cache_with_networks, search, settings
from tests.study.test_sealed_rows import noised

DEFAULT = starting_point(frozen_space(("",)), "staintex-s")
TTA = DEFAULT | {"policy": "dihedral", "views": 4, "tta": True}
MLP = DEFAULT | {"hidden_units": 16, "log10_penalty": 0.0}
SAY = ProgressReporter()


def ranked(*params, value=0.7):
    return [RankedTrial(Trial(number, COMPLETE, one, value, {}), 0.5, 0.9, True) for number, one in enumerate(params)]


def context_in(folder: Path, **changes) -> StudyContext:
    """The context of a study on images in a folder of their own, where they can be changed."""
    if not folder.exists():
        shutil.copytree(open_data("phantom:cases=20,images=3").root, folder)
    return StudyContext.build(settings(data=str(folder), **changes), SAY)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BHSEARCH_CACHE", cache_of(tmp_path_factory))
        yield context_in(tmp_path_factory.mktemp("robustness") / "images", repeats=2)


@pytest.fixture(scope="module")
def found(prepared):
    return robustness_of(prepared, ranked(DEFAULT, TTA, MLP), SAY)


def test_every_trial_has_every_shift_and_the_score_of_its_trial(prepared, found):
    objective = frozen_objective(prepared, prepared.images, cached_features(prepared, SAY))
    for number, params in enumerate((DEFAULT, TTA, MLP)):
        predictions = prepared.images.predictions(objective(params).probability)
        assert found[number].auc == score(predictions, prepared.task)
        assert list(found[number].shifts) == list(SHIFTS)
        assert found[number].is_default == (params == DEFAULT)


def test_shifted_features_are_those_of_image_files_that_were_shifted(prepared, tmp_path):
    """The reference writes shifted images to files and reads them like any data set."""
    features = cached_features(prepared, SAY)
    for name in ("stain", "half_resolution"):
        shutil.copytree(prepared.index.root, tmp_path / name)
        moved = replace(prepared.development, root=tmp_path / name)
        table = moved.table.assign(pixels_digest=[f"{name} {row}" for row in range(len(moved))])
        for path, case in zip(moved.paths(), moved.column("case"), strict=True):
            Image.fromarray(SHIFTS[name].apply(decode(path), str(case))).save(path)
        resize = make_resize(prepared.settings.resize, prepared.settings.image_size)
        reference = FeatureCache(pixel_cache(replace(moved, table=table), resize), features.feature_backend)
        backbone = prepared.backbones["staintex-s"]
        for view in ("identity", "dihedral1"):
            of_shift = shifted_features(prepared, SHIFTS[name], features, SAY).get(backbone, view)
            np.testing.assert_allclose(of_shift, reference.get(backbone, view), rtol=1e-5, atol=1e-6)
            assert (of_shift != features.get(backbone, view)).any()


def test_every_image_is_predicted_by_the_heads_that_did_not_train_on_its_fold(prepared, found):
    features = cached_features(prepared, SAY)
    trained = frozen_objective(prepared, prepared.images, features)(TTA)
    backbone, fold = prepared.backbones["staintex-s"], prepared.images.fold
    of_shift = shifted_features(prepared, SHIFTS["jpeg"], features, SAY)
    logits = np.mean(
        [1 / (1 + np.exp(-trained.heads.logits(of_shift.get(backbone, view)))) for view in trained.model["views"]],
        axis=0,
    )  # of every fold model, n_images x (n_repeats * n_folds)
    n_folds = int(fold.max()) + 1
    by_hand = np.stack([logits[np.arange(fold.shape[1]), repeat * n_folds + fold[repeat]] for repeat in range(2)])
    predictions = prepared.images.predictions(by_hand.astype(np.float32))
    assert found[1].shifts["jpeg"].auc == pytest.approx(score(predictions, prepared.task), abs=0.01)
    assert found[1].shifts["jpeg"].auc != found[1].auc


def with_noise(prepared: StudyContext, rows: np.ndarray) -> StudyContext:
    """The same context after the pixels of some development images became noise."""
    random = np.random.default_rng(0)
    development = prepared.development
    digests = development.table["pixels_digest"].to_numpy(object).copy()
    for row in np.flatnonzero(rows):
        path = development.paths()[row]
        Image.fromarray(random.integers(0, 256, decode(path).shape, np.uint8)).save(path)
        digests[row] = f"noise {row}"
    table = development.table.assign(pixels_digest=digests)
    return replace(prepared, development=replace(development, table=table))


@pytest.mark.parametrize("params", [DEFAULT, MLP], ids=["linear", "hidden"])
def test_noise_in_the_pixels_of_a_fold_changes_nothing_that_is_used_on_it(params, tmp_path, monkeypatch):
    monkeypatch.setenv("BHSEARCH_CACHE", cache_with_networks(tmp_path / "cache"))
    prepared = context_in(tmp_path / "images")
    k, inside = 1, prepared.images.fold[0] == 1

    def fitted(context):
        features = cached_features(context, SAY)
        heads = frozen_objective(context, context.images, features)(params).heads
        weights = {
            name: np.moveaxis(array, 1 if name == "kernel" else 0, 0) for name, array in heads.to_arrays().items()
        }
        return (
            weights,
            thresholds_of(context, [params], features)[0][0],
            features.get(context.backbones["staintex-s"], "identity"),
        )

    before, after = fitted(prepared), fitted(with_noise(prepared, inside))
    for name, weights in before[0].items():
        np.testing.assert_array_equal(after[0][name][k], weights[k])
    assert (after[0]["kernel"] != before[0]["kernel"]).any()  # the heads of the other folds are trained on the noise
    assert after[1][k] == before[1][k]
    others = [fold for fold in range(3) if fold != k]
    assert (after[1][others] != before[1][others]).all()
    assert (after[2][inside] != before[2][inside]).any(axis=1).all()
    np.testing.assert_array_equal(after[2][~inside], before[2][~inside])


def test_noise_in_the_sealed_images_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("BHSEARCH_CACHE", cache_with_networks(tmp_path / "cache"))
    prepared = context_in(tmp_path / "images")
    one = robustness_of(prepared, ranked(DEFAULT), SAY)
    monkeypatch.setenv("BHSEARCH_CACHE", cache_with_networks(tmp_path / "other cache"))
    assert robustness_of(noised(prepared), ranked(DEFAULT), SAY) == one


def test_with_two_folds_the_threshold_is_a_half(tmp_path_factory, monkeypatch, tmp_path):
    monkeypatch.setenv("BHSEARCH_CACHE", cache_of(tmp_path_factory))
    prepared = context_in(tmp_path / "images", folds=2)
    (threshold,) = thresholds_of(prepared, [DEFAULT], cached_features(prepared, SAY))
    assert threshold.tolist() == [[0.5, 0.5]]


def test_the_best_the_proposed_and_the_default_are_in_the_running():
    other = DEFAULT | {"hidden_units": 64}
    assert DEFAULT["policy"] == "none"
    assert is_default(DEFAULT | {"views": 4, "tta": True})  # without a policy there is one view
    slow_default = DEFAULT | {"backbone": "staintex-l"}
    *many, slow, cheap = ranked(*[other] * (N_BEST + 3), slow_default, DEFAULT)
    many[-1] = replace(many[-1], proposed=True)
    numbers = [row.trial.number for row in in_the_running([*many, slow, replace(cheap, milliseconds=1.0)])]
    assert numbers == [*range(N_BEST), N_BEST + 2, N_BEST + 4]
    assert [row.trial.number for row in in_the_running(ranked(other, DEFAULT, other))] == [0, 1, 2]
    assert [row.trial.number for row in in_the_running(ranked(*[other] * 7))] == list(range(N_BEST))


def test_a_study_has_it_on_request_and_chooses_the_same_trial(monkeypatch, tmp_path, tmp_path_factory):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BHSEARCH_CACHE", cache_of(tmp_path_factory))
    plain = search(trials=3)
    assert plain.robustness == {}
    assert plain.no_robustness == ""
    wanted = search(trials=3, robustness=True)  # the same study, which is complete
    assert sorted(wanted.robustness) == [0, 1, 2]
    assert [(row.trial.number, row.value) for row in wanted.ranking] == [
        (row.trial.number, row.value) for row in plain.ranking
    ]


def test_the_plan_says_what_it_costs(prepared):
    assert plan_row(prepared) == ""
    wanted = replace(prepared, settings=replace(prepared.settings, robustness=True))
    assert plan_row(wanted).startswith(
        "after the search, of the 5 best trials, the proposed one and the default: 5 further feature passes over "
        f"{len(prepared.images)}"
    )
    assert plan_row(replace(wanted, regime=FINETUNE)).startswith("not computed: ")
