"""Heads on subsets see only the cases of the subset outside their fold, and nothing of the sealed cases."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bhsearch.data.nested_subsets import nested_subsets
from bhsearch.data.open_data import open_data
from bhsearch.errors import StudyError
from bhsearch.evaluation.metrics import score
from bhsearch.lifecycle.learning_curve import computed, stored
from bhsearch.lifecycle.learning_curve.computed import N_FAMILIES, SHARES, NoLearningCurve, curve_of
from bhsearch.objectives.space import frozen_space, starting_point
from bhsearch.study.context import FINETUNE, StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.objective_factory import cached_features, make_objective
from bhsearch.tracking import keys
from tests.registered import work_in
from tests.studies import cache_of, cache_with_networks, settings
from tests.study.test_sealed_rows import noised

PARAMS = starting_point(frozen_space(("staintex-s",)), "staintex-s")


def context_in(folder: Path, cases: int = 40, **changes) -> StudyContext:
    """The context of a study on images in a folder of their own."""
    if not folder.exists():
        shutil.copytree(open_data(f"phantom:cases={cases},images=2").root, folder)
    return StudyContext.build(settings(data=str(folder), folds=3, **changes), ProgressReporter())


def trained(prepared: StudyContext, params=PARAMS):
    """What a trial gives: its out-of-fold predictions."""
    outcome = make_objective(prepared, {}, ProgressReporter())(params, lambda _: None)
    return prepared.images.predictions(outcome.probability)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BHSEARCH_CACHE", cache_of(tmp_path_factory))
        yield context_in(tmp_path_factory.mktemp("curve") / "images", repeats=2)


def subset_of(prepared, share, seed=0):
    images = prepared.images
    return nested_subsets(images.group, images.stratum, images.label, images.fold[0], SHARES, seed)[share]


def test_all_cases_give_the_predictions_of_the_trial(prepared):
    features, everything = cached_features(prepared, ProgressReporter()), np.ones(len(prepared.images), dtype=bool)
    for changes in ({}, {"tta": True, "policy": "dihedral", "views": 4}):
        params = PARAMS | changes
        whole = trained(prepared, params)
        for repeat in range(2):
            found = computed._on_subset(prepared, params, features, everything, repeat)
            assert found.probability[0] == pytest.approx(whole.probability[repeat], abs=2e-6)


def test_heads_learn_nothing_from_their_fold_and_from_cases_outside_the_subset(prepared):
    features, mask = cached_features(prepared, ProgressReporter()), subset_of(prepared, 0.5)
    images = prepared.images
    before = computed._on_subset(prepared, PARAMS, features, mask, 0).probability[0]

    def with_flipped(rows):
        label = np.where(rows, 1 - images.label, images.label).astype(np.int8)
        changed = replace(prepared, images=replace(images, label=label))
        return computed._on_subset(changed, PARAMS, features, mask, 0).probability[0]

    assert (with_flipped(~mask) == before).all()
    in_fold = images.fold[0] == 1
    after = with_flipped(in_fold)
    assert (after[in_fold] == before[in_fold]).all()
    assert (after[~in_fold] != before[~in_fold]).any()


def test_the_curve_ends_at_the_score_of_the_trial(prepared):
    predictions = trained(prepared)
    curve = curve_of(prepared, PARAMS, predictions, ProgressReporter())
    assert curve.scores[-1] == pytest.approx(score(predictions, prepared.task))
    n_cases = len(set(prepared.images.group))
    assert curve.n_cases == n_cases
    assert curve.sizes[-1] == pytest.approx(n_cases * 2 / 3)
    assert curve.n_subsets == N_FAMILIES  # five of each repeat
    assert list(curve.sizes) == sorted(curve.sizes)
    assert len(curve.sizes) >= 4


def test_noise_in_the_sealed_images_changes_nothing(tmp_path, monkeypatch):
    curves = {}
    for name, change in (("as they are", lambda prepared: prepared), ("noise", noised)):
        monkeypatch.setenv("BHSEARCH_CACHE", cache_with_networks(tmp_path / f"cache of {name}"))
        (tmp_path / name).mkdir()
        changed = change(context_in(tmp_path / name / "images"))
        curves[name] = curve_of(changed, PARAMS, trained(changed), ProgressReporter())
    assert curves["noise"] == curves["as they are"]


def test_too_few_cases_and_torn_cases_have_a_reason(prepared, tmp_path):
    few = context_in(tmp_path / "few", cases=12)
    images = few.images
    unused = np.full(images.fold.shape, 0.5, np.float32)
    with pytest.raises(NoLearningCurve, match="too few cases"):
        curve_of(few, PARAMS, images.predictions(unused), ProgressReporter())
    torn = prepared.images.fold.copy()
    torn[0, 0] = (torn[0, 0] + 1) % 3
    changed = replace(prepared, images=replace(prepared.images, fold=torn))
    predictions = changed.images.predictions(np.full(torn.shape, 0.5, np.float32))
    with pytest.raises(NoLearningCurve, match="keep the images of a case together"):
        curve_of(changed, PARAMS, predictions, ProgressReporter())
    with pytest.raises(StudyError, match="other images"):
        curve_of(prepared, PARAMS, images.predictions(unused), ProgressReporter())


def test_a_study_without_a_curve_says_why(finished, tmp_path_factory, monkeypatch):
    work_in(finished.folder, cache_of(tmp_path_factory), monkeypatch)
    from bhsearch.tracking import reader

    study = reader.find_study(finished.store.client)
    trial = study.trials[0]
    assert stored.stored_curve(study, trial) == (
        None,
        "not computed; `bhsearch report --learning-curve` computes it from cached features",
    )
    finetuned = replace(study, tags={**study.tags, keys.REGIME: FINETUNE})
    curve, why_not = stored.stored_curve(finetuned, trial)
    assert curve is None
    assert "not computed in the finetune regime" in why_not
    assert stored.stored_curve(study, None) == (None, "no trial is complete")
    other = {"trial": study.trials[-1].number, "reason": "of then"}
    monkeypatch.setattr(reader, "read_record", lambda *_: other)
    assert f"the study now proposes trial {trial.number}" in stored.stored_curve(study, trial)[1]
    monkeypatch.setattr(reader, "read_record", lambda *_: {"trial": trial.number, "reason": "too few cases"})
    assert stored.stored_curve(study, trial) == (None, "too few cases")
