"""Studies with features in bf16: who chooses it, where it is kept, who goes on with it, and what a model says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bhsearch.errors import SettingsError, StudyError
from bhsearch.lifecycle.registration import RegistrationRequest
from bhsearch.lifecycle.reproduce import reproduce
from bhsearch.models import features as features_module
from bhsearch.models.frozen import precision as precision_module
from bhsearch.models.frozen.precision import BF16, F32, supports_bf16
from bhsearch.objectives import precision as comparison_module
from bhsearch.study import feature_precision as module
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.feature_precision import check_feature_precision, precision_row, stored_choices
from bhsearch.study.resume.metadata import check_agreement
from bhsearch.study.resume.open import open_engine, study_lock
from bhsearch.study.runner import optimize
from bhsearch.tracking import model_files
from tests.registered import registered
from tests.studies import Store, cache_with_networks, search, settings, tracked_search

# Keras writes weights with TensorFlow's arrays, which are a version of NumPy behind.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
with_bf16 = pytest.mark.skipif(not supports_bf16(), reason="the processor has no bf16")
STUDY = "mine"


def engine_of(**changes):
    return open_engine(StudyContext.build(settings(study=STUDY, tracking=False, **changes), ProgressReporter()))[1]


def choice(**changes):
    return stored_choices(engine_of(**changes))["staintex-s"]


@pytest.fixture
def compares(monkeypatch):
    """Compare the precisions of any backbone, however fast, and let them agree or not."""

    def set_to(tolerance):
        monkeypatch.setattr(module, "LEAST_SECONDS", 0.0)
        monkeypatch.setattr(comparison_module, "TOLERANCE", tolerance)

    return set_to


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"regime": "finetune"}, "requires --regime frozen, but got --regime finetune"),
        ({"feature_backend": "keras"}, "requires --feature-backend openvino, but got keras"),
    ],
)
def test_bf16_is_refused_where_openvino_does_not_compute_the_features(changes, words):
    with pytest.raises(SettingsError, match=words):
        check_feature_precision(settings(feature_precision=BF16, **changes))
    for other in ("auto", F32):
        check_feature_precision(settings(feature_precision=other, **changes))


def test_bf16_on_a_gpu_needs_the_backend_to_be_named(monkeypatch):
    monkeypatch.setattr(module.backend, "gpu_files", lambda: True)
    with pytest.raises(SettingsError, match="this machine has a GPU, for which auto chooses keras"):
        check_feature_precision(settings(feature_precision=BF16))
    monkeypatch.setattr(module, "require_precision", lambda _: None)
    check_feature_precision(settings(feature_precision=BF16, feature_backend="openvino"))


def test_bf16_is_refused_before_anything_is_made_where_the_processor_has_none(here: Path, monkeypatch):
    monkeypatch.setattr(precision_module, "supports_bf16", lambda: False)
    with pytest.raises(SettingsError, match="OpenVINO reports BF16, but"):
        search(feature_precision=BF16, trials=1)
    assert not (here / "optuna.db").exists()


def test_auto_compares_nothing_where_it_costs_more_than_it_saves(here: Path):
    search(study=STUDY, trials=1)
    assert choice() == {"precision": F32, "reason": "a view takes less than 60 s", "comparison": None}
    assert precision_row(stored_choices(engine_of())) == []


def test_auto_is_f32_where_the_processor_has_no_bf16(here: Path, compares, monkeypatch):
    compares(1.0)
    monkeypatch.setattr(module, "supports_bf16", lambda: False)
    search(study=STUDY, trials=1)
    assert choice()["precision"] == F32
    assert choice()["comparison"] is None


class Plans(ProgressReporter):
    def __init__(self):
        self.rows = {}

    def plan(self, plan):
        self.rows |= dict(plan.rows)


@with_bf16
@pytest.mark.parametrize("engine", ["optuna", "keras-tuner"])
def test_auto_is_bf16_where_the_scores_agree_and_the_study_keeps_it(here: Path, compares, engine):
    compares(1.0)
    plans = Plans()
    optimize(settings(study=STUDY, trials=1, tracking=False, engine=engine), plans)
    kept = choice(engine=engine)
    assert kept["precision"] == BF16
    assert set(kept["comparison"]["auc"]) == {"f32/f32", "f32/bf16", "bf16/f32", "bf16/bf16"}
    assert plans.rows["precision"].startswith("staintex-s bf16 (AUC 0.")
    assert "cosine at least 0.9" in plans.rows["precision"]
    compares(0.0)  # another command would choose otherwise, but the study goes on as it began
    more = Plans()
    optimize(settings(study=STUDY, trials=2, tracking=False, engine=engine), more)
    assert choice(engine=engine) == kept
    assert more.rows["precision"] == plans.rows["precision"]


@with_bf16
def test_auto_is_f32_where_the_scores_do_not_agree(here: Path, compares):
    compares(-1.0)
    search(study=STUDY, trials=1)
    assert choice()["precision"] == F32
    assert choice()["comparison"] is not None


@with_bf16
def test_a_comparison_is_made_once_for_a_backbone_and_data(here: Path, compares, monkeypatch):
    compares(1.0)
    search(study="first", trials=1)
    monkeypatch.setattr(module, "compare_precisions", lambda *_: pytest.fail("compared again"))
    search(study="second", trials=1)


@with_bf16
def test_a_study_in_bf16_is_not_continued_where_the_processor_has_none(here: Path, compares, monkeypatch):
    compares(1.0)
    search(study=STUDY, trials=1)
    monkeypatch.setattr(precision_module, "supports_bf16", lambda: False)
    with pytest.raises(SettingsError, match="continue a study that was begun in bf16 on a processor with it"):
        search(study=STUDY, trials=2)


@with_bf16
def test_added_backbones_get_their_own_choice(here: Path, compares):
    compares(1.0)
    search(study=STUDY, trials=1)
    compares(-1.0)
    search(study=STUDY, trials=2, backbones=("staintex-s", "staintex-l"))
    kept = stored_choices(engine_of(backbones=("staintex-s", "staintex-l")))
    assert {name: each["precision"] for name, each in kept.items()} == {"staintex-s": BF16, "staintex-l": F32}


def test_a_study_is_not_resumed_with_another_precision(here: Path):
    search(study=STUDY, trials=1)
    with pytest.raises(StudyError, match="--feature-precision: was auto, is now f32"):
        search(study=STUDY, trials=2, feature_precision=F32)


@pytest.mark.parametrize("wanted", ["auto", F32, BF16])
def test_a_study_of_an_earlier_version_goes_on_in_f32(here: Path, compares, wanted):
    made = StudyContext.build(settings(feature_precision=wanted, tracking=False), ProgressReporter())
    held = made.metadata() | {"uid": "1", "backbones": {name: one.digest for name, one in made.backbones.items()}}
    del held["feature_precision"]
    if wanted == BF16:
        with pytest.raises(StudyError, match="--feature-precision: was f32, is now bf16"):
            check_agreement("old", held, made.metadata(), made.backbones)
        return
    check_agreement("old", held, made.metadata(), made.backbones)
    compares(1.0)
    metadata, engine = open_engine(made)
    del metadata["feature_precision"]
    from bhsearch.study.feature_costs import stored_costs
    from bhsearch.study.objective_factory import make_objective

    objective = make_objective(made, {}, ProgressReporter())
    stored_costs(made, metadata, engine, objective, ProgressReporter())
    assert stored_choices(engine)["staintex-s"]["precision"] == F32


@with_bf16
def test_runs_and_the_registered_model_say_the_precision_and_the_trial_comes_out_again(here: Path):
    tracked_search(study=STUDY, trials=2, feature_precision=BF16, race_divisions=2)
    store = Store(here)
    kept = json.loads(store.parent().data.tags["bhsearch.feature_precisions"])
    assert kept == {"staintex-s": {"precision": BF16, "reason": "--feature-precision bf16", "comparison": None}}
    assert store.parent().data.params["config/feature_precision"] == BF16
    for run in store.children().values():
        assert run.data.tags["bhsearch.feature_precision"] == BF16
    (model, *_) = store.client.search_logged_models([store.parent().info.experiment_id])
    assert model_files.metadata_of(Path(model.artifact_location.removeprefix("file://")))["feature_precision"] == BF16
    again = reproduce(None, ProgressReporter(), study=STUDY, trial=0)
    assert again.largest < 1e-5
    result = registered(RegistrationRequest(STUDY, 0, force=True, reason="a test"))
    assert model_files.metadata_of(model_files.download(result.version.uri))["feature_precision"] == BF16
    card = model_files.read_text(store.client.get_run(result.version.run_id).info.artifact_uri, "card.md")
    assert "| precision | heads trained on features in bf16; this model computes in f32 |" in card


@with_bf16
def test_what_follows_the_search_uses_the_features_of_the_search(here: Path, monkeypatch):
    """The race trains heads again; in another precision, its first division would not be the score of the search."""
    computed = []
    original = features_module.FeatureCache._compute

    def noted(self, backbone, view, parts, folder):
        computed.append(self.precision_of(backbone))
        return original(self, backbone, view, parts, folder)

    monkeypatch.setattr(features_module.FeatureCache, "_compute", noted)
    monkeypatch.setenv("BHSEARCH_CACHE", cache_with_networks(here / "cache"))
    search(study=STUDY, trials=2, feature_precision=BF16, race_divisions=2, nested=True)
    assert set(computed) == {BF16}


@with_bf16
def test_scores_in_bf16_are_close_to_those_in_f32(here: Path):
    values = [search(trials=1, study=name, feature_precision=name).best.value for name in (F32, BF16)]
    assert values[0] == pytest.approx(values[1], abs=0.05)
    assert not np.isnan(values).any()


def test_a_context_knows_the_precision_that_its_study_keeps(here: Path):
    made = StudyContext.build(settings(), ProgressReporter())
    assert made.precisions == {}
    assert replace(made, precisions={"staintex-s": BF16}).metadata() == made.metadata()


@with_bf16
def test_trials_of_other_processes_can_start_during_a_comparison(here: Path, compares, monkeypatch):
    """A comparison may take minutes, and every start of a trial needs the lock of the study."""
    compares(1.0)
    made = StudyContext.build(settings(study=STUDY, tracking=False), ProgressReporter())
    original = module.compare_precisions

    def compared(*arguments):
        with study_lock(made, seconds=1.0):
            return original(*arguments)

    monkeypatch.setattr(module, "compare_precisions", compared)
    monkeypatch.setenv("BHSEARCH_CACHE", cache_with_networks(here / "cache"))
    search(study=STUDY, trials=1)
    assert choice()["comparison"] is not None


@with_bf16
def test_the_choice_of_the_process_that_stored_it_first_counts(here: Path, compares, monkeypatch):
    compares(1.0)
    first = {"precision": F32, "reason": "another process was first", "comparison": None}
    original = module.choose_precisions

    def chosen(prepared, *arguments):
        engine_of().save_costs({"precision": {"staintex-s": first}})
        return original(prepared, *arguments)

    monkeypatch.setattr("bhsearch.study.feature_costs.choose_precisions", chosen)
    search(study=STUDY, trials=1)
    assert choice() == first
