"""Studies whose score counts shifts: the objective, what is used on a fold, identity, race, nested search, MLflow."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace

import numpy as np
import optuna
import pytest
from sklearn.metrics import roc_auc_score

from bhsearch.errors import StudyError
from bhsearch.evaluation.metrics import clean_score, score
from bhsearch.evaluation.predictions import Predictions
from bhsearch.lifecycle.stored_studies import load_study
from bhsearch.models.augmentation.shifts import SHIFTS
from bhsearch.models.features import FeatureSubset
from bhsearch.objectives.space import frozen_space, starting_point
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.feature_costs import cost_rows
from bhsearch.study.objective_factory import cached_features, frozen_objective
from bhsearch.study.outcome.nested import nested_score
from bhsearch.study.outcome.race import race
from bhsearch.study.outcome.ranking import correct
from bhsearch.study.outcome.robustness import robustness_of
from bhsearch.study.resume.open import open_engine
from bhsearch.study.runner import optimize
from bhsearch.tracking import keys
from tests.cli.printing import printed
from tests.studies import STUDY, Store, cache_of, cache_with_networks, search, settings, tracked_search
from tests.study.outcome.test_robustness import context_in, ranked, with_noise
from tests.tasks.samples import BINARY

DEFAULT = starting_point(frozen_space(("",)), "staintex-s")
TTA = DEFAULT | {"policy": "dihedral", "views": 4, "tta": True}
MLP = DEFAULT | {"hidden_units": 16, "log10_penalty": 0.0}
POINTS = {"linear": DEFAULT, "averaged over views": TTA, "hidden layer": MLP}
SAY = ProgressReporter()
WEIGHT = 0.5


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BHSEARCH_CACHE", cache_of(tmp_path_factory))
        folder = tmp_path_factory.mktemp("shifted") / "images"
        yield context_in(folder, repeats=2, score_weight_shift=WEIGHT)


def objective_of(context: StudyContext):
    return frozen_objective(context, context.images, cached_features(context, SAY))


def unshifted(context: StudyContext) -> StudyContext:
    """The same study with the AUC of unchanged images as its score."""
    return replace(
        context,
        settings=replace(context.settings, score_weight_shift=0.0),
        images=replace(context.images, shift_weight=0.0),
    )


def mixed_by_hand(predictions: Predictions, weight: float = WEIGHT) -> float:
    """The mixed score by scikit-learn."""
    means = []
    for probability in (predictions.probability, *predictions.shifted.values()):
        areas = []
        for repeat, k in np.ndindex(predictions.n_repeats, predictions.n_folds):
            rows = predictions.fold[repeat] == k
            _, case, count = np.unique(predictions.group[rows], return_inverse=True, return_counts=True)
            areas.append(
                roc_auc_score(predictions.label[rows], probability[repeat, rows], sample_weight=1 / count[case])
            )
        means.append(np.mean(areas))
    return float((1 - weight) * means[0] + weight * np.mean(means[1:]))


# -- the objective -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", POINTS.values(), ids=POINTS)
def test_heads_and_predictions_of_unchanged_images_are_those_without_shifts(prepared, params):
    mixed, plain = objective_of(prepared)(params), objective_of(unshifted(prepared))(params)
    assert plain.shifted == ()
    assert np.array_equal(plain.out_of_fold, plain.probability)
    assert plain.score == score(prepared.images.predictions(plain.probability), BINARY)
    for name, weights in plain.arrays.items():
        assert np.array_equal(mixed.arrays[name], weights)
    assert np.array_equal(mixed.probability, plain.probability)
    assert mixed.curves == plain.curves
    assert mixed.score != plain.score


@pytest.mark.parametrize("params", POINTS.values(), ids=POINTS)
def test_the_score_is_that_of_scikit_learn(prepared, params):
    outcome = objective_of(prepared)(params)
    predictions = prepared.images.predictions(outcome.out_of_fold)
    assert outcome.score == pytest.approx(mixed_by_hand(predictions), abs=1e-12)
    assert score(predictions, BINARY) == pytest.approx(outcome.score, abs=1e-12)


def test_the_shifts_are_those_of_the_robustness_column(prepared):
    outcomes = [objective_of(prepared)(params) for params in POINTS.values()]
    columns = robustness_of(prepared, ranked(*POINTS.values()), SAY)
    for number, outcome in enumerate(outcomes):
        _, *shifted = prepared.images.predictions(outcome.out_of_fold).conditions
        assert columns[number].auc == clean_score(prepared.images.predictions(outcome.probability), BINARY)
        assert {name: effect.auc for name, effect in columns[number].shifts.items()} == {
            name: clean_score(one, BINARY) for name, (_, one) in zip(SHIFTS, shifted, strict=True)
        }


def test_a_weight_of_1_is_the_mean_over_the_shifts(prepared):
    alone = replace(
        prepared,
        settings=replace(prepared.settings, score_weight_shift=1.0),
        images=replace(prepared.images, shift_weight=1.0),
    )
    outcome = objective_of(alone)(TTA)
    areas = [score(prepared.images.predictions(each), BINARY) for each in outcome.shifted]
    assert len(areas) == len(SHIFTS)
    assert outcome.score == pytest.approx(np.mean(areas), abs=1e-12)


def test_a_weight_without_shifted_features_is_refused(prepared):
    features = cached_features(unshifted(prepared), SAY)
    with pytest.raises(ValueError, match="requires shifted features"):
        frozen_objective(prepared, prepared.images, features)


# -- what is used on a fold --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [TTA, MLP], ids=["linear", "hidden"])
def test_noise_in_the_pixels_of_a_fold_changes_no_head_that_predicts_it(params, tmp_path, monkeypatch):
    monkeypatch.setenv("BHSEARCH_CACHE", cache_with_networks(tmp_path / "cache"))
    prepared = context_in(tmp_path / "images", score_weight_shift=WEIGHT)
    k, inside = 1, prepared.images.fold[0] == 1
    before = objective_of(prepared)(params)
    after = objective_of(with_noise(prepared, inside))(params)
    for name, weights in before.heads.to_arrays().items():
        axis = 1 if name == "kernel" else 0
        of_fold = [np.take(each, k, axis) for each in (weights, after.heads.to_arrays()[name])]
        np.testing.assert_array_equal(*of_fold)
    for old, new in zip(before.shifted, after.shifted, strict=True):
        assert (old[:, inside] != new[:, inside]).any()  # the shifts are of the noise
        assert (old[:, ~inside] != new[:, ~inside]).any()  # these heads are trained on the noise


@pytest.mark.parametrize("params", [TTA, MLP], ids=["linear", "hidden"])
def test_other_labels_of_a_fold_change_no_prediction_of_it(params, prepared):
    images = prepared.images.take(np.ones(len(prepared.images), bool), slice(1))
    inside = images.fold[0] == 2
    label = images.label.copy()
    label[inside] = np.random.default_rng(0).permutation(label[inside])
    assert (label != images.label).any()
    features = cached_features(prepared, SAY)
    before = frozen_objective(prepared, images, features)(params)
    after = frozen_objective(prepared, replace(images, label=label), features)(params)
    np.testing.assert_array_equal(after.out_of_fold[:, inside], before.out_of_fold[:, inside])
    for old, new in zip(before.shifted, after.shifted, strict=True):
        assert (old[:, ~inside] != new[:, ~inside]).any()


# -- race and nested search --------------------------------------------------------------------------------------------


def test_a_race_is_decided_by_the_mixed_score_of_all_divisions(tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("BHSEARCH_CACHE", cache_of(tmp_path_factory))
    monkeypatch.chdir(tmp_path)
    found = search(trials=4, race_divisions=1, score_weight_shift=WEIGHT)
    context = StudyContext.build(settings(race_divisions=1, score_weight_shift=WEIGHT), SAY)
    raced = race(context, found.records, SAY)
    assert sorted(raced) == [row.trial.number for row in sorted(found.ranking, key=lambda row: row.trial.number)]
    for row in found.ranking:
        predictions = raced[row.trial.number]
        assert predictions.n_repeats == 2
        assert row.raced == pytest.approx(mixed_by_hand(predictions), abs=1e-9)
    within = [row for row in found.ranking if row.raced >= max(other.raced for other in found.ranking) - 0.002]
    assert found.proposed in within


def test_a_nested_search_is_scored_by_the_mixed_score(tmp_path, tmp_path_factory, monkeypatch):
    """One trial leaves no choice, so that the score can be computed by hand."""
    monkeypatch.setenv("BHSEARCH_CACHE", cache_of(tmp_path_factory))
    context = context_in(tmp_path / "images", sampler="tpe", score_weight_shift=WEIGHT)
    features, images = cached_features(context, SAY), context.images
    backbone = context.backbones["staintex-s"]
    conditions = (features, *features.shifted)
    probability = np.zeros((len(conditions), len(images)))
    for fold in range(3):
        inside = images.fold[0] == fold
        part = images.without_fold(0, fold)
        heads = frozen_objective(context, part, FeatureSubset(features, ~inside))(DEFAULT).heads
        for row, each in zip(probability, conditions, strict=True):
            logits = heads.logits(each.get(backbone, "identity")[inside])
            row[inside] = (1 / (1 + np.exp(-logits))).mean(axis=1)
    found = nested_score(context, context.space(["staintex-s"]), 1, SAY)
    assert found.score == pytest.approx(mixed_by_hand(images.predictions(probability)), abs=1e-6)
    assert found.low <= found.score <= found.high


# -- identity ----------------------------------------------------------------------------------------------------------


def refusal(was: float, now: float) -> str:
    return (
        f"Cannot resume the study {STUDY!r}, because it was created with other settings or data:\n"
        f"  --score-weight-shift: was {was}, is now {now}\n"
        "Use the same options as before, or create a new study with --study."
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_study_goes_on_with_its_weight_and_with_no_other(folder):
    first = search(trials=2, score_weight_shift=WEIGHT)
    for other in (0.0, 0.25):
        with pytest.raises(StudyError) as caught:
            search(trials=3, score_weight_shift=other)
        assert str(caught.value) == refusal(WEIGHT, other)
    whole = search(trials=3, score_weight_shift=WEIGHT)
    values = {trial.number: trial.value for trial in whole.records}
    assert [values[trial.number] for trial in first.records] == [trial.value for trial in first.records]
    alone = search(trials=3, score_weight_shift=WEIGHT, study="alone")
    assert [(trial.params, trial.value) for trial in alone.records] == [
        (trial.params, trial.value) for trial in whole.records
    ]


def test_a_study_of_an_earlier_version_has_a_weight_of_0(folder):
    search(trials=1)
    with closing(sqlite3.connect(folder / "optuna.db")) as database, database:
        rows = database.execute("SELECT study_system_attribute_id, value_json FROM study_system_attributes").fetchall()
        held = [(number, json.loads(text)) for number, text in rows if "score_weight_shift" in text]
        assert held
        for number, value in held:
            change_in(database, number, value)
    with pytest.raises(StudyError) as caught:
        search(trials=2, score_weight_shift=WEIGHT)
    assert str(caught.value) == refusal(0.0, WEIGHT)
    assert search(trials=2).n_finished == 2


def change_in(database: sqlite3.Connection, number: int, value: object) -> None:
    """Write an attribute of a study as before there were mixed scores."""
    assert isinstance(value, dict)
    without = {key: item for key, item in value.items() if key != "score_weight_shift"}
    assert without != value
    database.execute(
        "UPDATE study_system_attributes SET value_json = ? WHERE study_system_attribute_id = ?",
        (json.dumps(without), number),
    )


def test_a_weight_of_0_is_a_study_without_the_option(folder):
    plain = search(trials=2)
    zero = search(trials=3, score_weight_shift=0.0)  # the same study
    alone = search(trials=3, study="alone")
    assert [trial.value for trial in zero.records][:2] == [trial.value for trial in plain.records]
    assert [(trial.params, trial.value) for trial in zero.records] == [
        (trial.params, trial.value) for trial in alone.records
    ]
    for row in alone.ranking:
        assert row.auc == pytest.approx(row.value, abs=1e-12)
    assert alone.corrected.title == "AUC"


# -- a whole study -----------------------------------------------------------------------------------------------------


def test_the_sampler_learns_from_the_mixed_score_in_either_engine(folder):
    for engine, sampler in (("optuna", "tpe"), ("keras-tuner", "random")):
        found = search(trials=2, engine=engine, sampler=sampler, score_weight_shift=1.0, study=engine)
        _, stored = open_engine(
            StudyContext.build(
                settings(engine=engine, sampler=sampler, score_weight_shift=1.0, study=engine, tracking=False), SAY
            )
        )
        for row in found.ranking:
            assert stored.trials()[row.trial.number].value == row.value
            assert row.value != row.auc


def test_a_tracked_study_has_the_mixed_score_everywhere_and_the_auc_beside_it(here, capsys):
    found = tracked_search(trials=3, score_weight_shift=WEIGHT)
    store = Store(here)
    parent, children = store.parent(), store.children()
    assert parent.data.params["config/score_weight_shift"] == "0.5"
    stored, values = {}, {}
    for trial in optuna.load_study(study_name=STUDY, storage="sqlite:///optuna.db").trials:
        run = children[trial.number]
        stored[trial.number] = Predictions.from_csv(store.files(run)[keys.PREDICTIONS])
        values[trial.number] = run.data.metrics
        mixed = mixed_by_hand(stored[trial.number])
        assert trial.value == pytest.approx(mixed, abs=1e-12)
        assert run.data.metrics["score"] == pytest.approx(mixed, abs=1e-9)
        assert run.data.metrics["score_low"] <= mixed <= run.data.metrics["score_high"]
        areas = [run.data.metrics[f"robustness/{name}/auc"] for name in SHIFTS]
        assert WEIGHT * run.data.metrics["auc"] + WEIGHT * np.mean(areas) == pytest.approx(mixed, abs=1e-9)
        assert f"Mixed score **{mixed:.4f}**" in run.data.tags["mlflow.note.content"]
        assert f"ROC AUC of unchanged images: {run.data.metrics['auc']:.4f}" in run.data.tags["mlflow.note.content"]
    history = store.client.get_metric_history(parent.info.run_id, "trial/score")
    assert {point.step: point.value for point in history} == {n: row["score"] for n, row in values.items()}
    assert parent.data.metrics["trial/best"] == pytest.approx(max(row["score"] for row in values.values()), abs=1e-9)
    corrected, _ = correct(found.records, stored, BINARY)
    for name, number in (("", corrected.score), ("_low", corrected.low), ("_high", corrected.high)):
        assert parent.data.metrics[f"corrected/score{name}"] == pytest.approx(number, abs=1e-9)
    assert parent.data.metrics["corrected/score_bound"] == pytest.approx(corrected.bound, abs=1e-9)
    assert not [
        name for name in parent.data.metrics if name.startswith(("corrected/auc", "trial/auc", "over_default/a"))
    ]
    assert parent.data.tags["bhsearch.best_trial"] == str(max(values, key=lambda number: values[number]["score"]))

    again = load_study(None, SAY)
    assert [(row.trial.number, row.tied, row.proposed) for row in again.ranking] == [
        (row.trial.number, row.tied, row.proposed) for row in found.ranking
    ]
    for one, other in zip(again.ranking, found.ranking, strict=True):
        assert (one.value, one.low, one.auc) == pytest.approx((other.value, other.low, other.auc), abs=1e-9)
        assert one.auc == pytest.approx(values[one.trial.number]["auc"], abs=1e-9)
    assert again.corrected.score == pytest.approx(found.corrected.score, abs=1e-9)
    table = again.trials.set_index("number")
    assert table.loc[0, "score"] == pytest.approx(values[0]["score"], abs=1e-9)
    assert table.loc[0, "auc"] == pytest.approx(values[0]["auc"], abs=1e-9)

    said = printed(found)
    best = found.best
    assert f"{best.value:.4f}" in said
    assert f"{best.auc:.4f}  of unchanged images" in said
    assert "corrected mixed score" in said
    assert "The mixed score is 0.5 x AUC + 0.5 x mean AUC under 5 shifts" in " ".join(said.split())


def test_the_plan_says_the_score_and_what_it_costs(folder):
    said = {}

    class Plans(ProgressReporter):
        def plan(self, plan):
            said.update(plan.rows)

    optimize(settings(trials=1, tracking=False, score_weight_shift=0.25), Plans())
    assert said["score"].startswith("0.75 x AUC + 0.25 x mean AUC under 5 shifts; 5 further feature passes over ")
    assert "s under the shifts" in said["features"]
    context = StudyContext.build(settings(tracking=False, score_weight_shift=0.25), SAY)
    metadata, engine = open_engine(context)
    costs = engine.costs()
    assert costs["shifted"]["staintex-s"] > 0
    assert dict(cost_rows(context, metadata, engine, engine.trials()))["features"].count("a view") == 1
