"""Nested search: each fold is predicted by a model that a search without the fold has chosen."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bhsearch.errors import RunError, SettingsError
from bhsearch.evaluation.selection.nested import NestedScore
from bhsearch.models.features import FeatureSubset
from bhsearch.objectives.space import starting_point
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.objective_factory import cached_features, frozen_objective
from bhsearch.study.outcome import nested
from bhsearch.study.outcome.nested import check_nested, nested_score, plan_row, search_without
from tests.studies import Store, cache_of, cache_with_networks, search, settings, uploading_here
from tests.study.outcome.test_robustness import context_in, with_noise

SAY = ProgressReporter()


@pytest.fixture
def prepared(tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("BHSEARCH_CACHE", cache_of(tmp_path_factory))
    return context_in(tmp_path / "images", sampler="tpe")


def test_with_one_trial_each_fold_is_predicted_by_the_default_heads_of_the_other_folds(prepared):
    """One trial leaves no choice, so that the score can be computed by hand."""
    features, images = cached_features(prepared, SAY), prepared.images
    backbone = prepared.backbones["staintex-s"]
    areas = []
    for fold in range(3):
        inside = images.fold[0] == fold
        objective = frozen_objective(prepared, images.without_fold(0, fold), FeatureSubset(features, ~inside))
        logits = objective(starting_point(prepared.space(["staintex-s"]), "staintex-s")).heads.logits(
            features.get(backbone, "identity")[inside]
        )
        assert logits.shape[1] == 2  # the heads of the two other folds
        probability = (1 / (1 + np.exp(-logits))).mean(axis=1)
        _, case, count = np.unique(images.group[inside], return_inverse=True, return_counts=True)
        areas.append(roc_auc_score(images.label[inside], probability, sample_weight=1 / count[case]))
    found = nested_score(prepared, prepared.space(["staintex-s"]), 1, SAY)
    assert found.score == pytest.approx(np.mean(areas), abs=1e-6)
    assert (found.n_trials, found.n_folds) == (1, 3)
    assert found.low <= found.score <= found.high


def test_noise_in_the_pixels_of_a_fold_changes_no_model_that_predicts_it(tmp_path, monkeypatch):
    monkeypatch.setenv("BHSEARCH_CACHE", cache_with_networks(tmp_path / "cache"))
    prepared = context_in(tmp_path / "images", sampler="tpe")
    inside = prepared.images.fold[0] == 1

    def predicted(context, fold):
        features = cached_features(context, SAY)
        space = context.space(["staintex-s"])
        return search_without(context, features, space, 4, fold, lambda _: None), features

    model, features = predicted(prepared, 1)
    other, _ = predicted(prepared, 0)
    noisy = with_noise(prepared, inside)
    model_with_noise, _ = predicted(noisy, 1)
    other_with_noise, _ = predicted(noisy, 0)
    np.testing.assert_array_equal(model_with_noise(features), model(features))
    assert (other_with_noise(features) != other(features)).any()  # this search has seen the noise


def test_a_search_that_completes_no_trial_is_said_with_its_fold(prepared, monkeypatch):
    class Broken:
        def __call__(self, _):
            raise RunError("it did not converge.")

    monkeypatch.setattr(nested, "frozen_objective", lambda *_: Broken())
    with pytest.raises(RunError, match="No trial of the search without fold 0"):
        nested_score(prepared, prepared.space(["staintex-s"]), 2, SAY)


def test_a_study_has_it_on_request_and_chooses_the_same_trial(here, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("BHSEARCH_CACHE", cache_of(tmp_path_factory))
    with uploading_here():
        plain = search(trials=3, tracking=True)
        assert (plain.nested, plain.no_nested) == (None, "")
        wanted = search(trials=3, tracking=True, nested=True)  # the same study, which is complete
    assert [(row.trial.number, row.value) for row in wanted.ranking] == [
        (row.trial.number, row.value) for row in plain.ranking
    ]
    parent, found = Store(here).parent(), wanted.nested
    assert found.n_trials == 3
    assert {name: value for name, value in parent.data.metrics.items() if name.startswith("nested/")} == {
        "nested/auc": found.score,
        "nested/auc_low": found.low,
        "nested/auc_high": found.high,
    }
    assert f"**{found}**" in parent.data.tags["mlflow.note.content"]
    assert NestedScore(**Store(here).record(parent, "nested.json")) == found


def test_the_plan_says_what_it_costs(prepared):
    assert plan_row(prepared) == ""
    planned = StudyContext.build(settings(data=str(prepared.index.root), nested=True, trials=7), SAY)
    assert plan_row(planned).startswith("after the search, 3 searches of 7 trials")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"regime": "finetune"}, "requires --regime frozen or auto, but got --regime finetune"),
        ({"folds": 2}, "requires --folds 3 or more, but got --folds 2"),
        ({"engine": "keras-tuner"}, "but the sampler of --engine keras-tuner is bayesian"),
    ],
)
def test_what_it_cannot_be_combined_with_is_said(changes, said):
    with pytest.raises(SettingsError, match=said):
        check_nested(settings(nested=True, **changes))
    check_nested(settings(**changes))
