"""One study from start to end, through the real stores: what it leaves behind, and how it goes on."""

from __future__ import annotations

import csv
import errno
import math
import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

import bhsearch
from bhsearch.cli.result_table import CAVEATS
from bhsearch.engines.base import SearchExhausted, Trial
from bhsearch.engines.keras_tuner.engine import KerasTunerEngine
from bhsearch.errors import StudyError
from bhsearch.evaluation.metrics import trial_metrics
from bhsearch.evaluation.predictions import Predictions
from bhsearch.evaluation.selection.bbc_cv import corrected_score
from bhsearch.evaluation.selection.proposal import MARGIN
from bhsearch.models import backend
from bhsearch.objectives.frozen import FrozenObjective
from bhsearch.objectives.space import frozen_space, starting_point
from bhsearch.runtime import cache
from bhsearch.states import COMPLETE, FAILED
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.feature_costs import stored_costs
from bhsearch.study.objective_factory import make_objective
from bhsearch.study.resume.open import open_engine
from bhsearch.study.runner import optimize
from bhsearch.tracking import keys, links
from bhsearch.tracking.keys import config_of
from bhsearch.tracking.upload.outbox import Outbox
from tests.reporting.drawn import Drawn
from tests.studies import (
    STUDY,
    Store,
    arguments,
    import_mlflow,
    killed_at,
    search,
    settings,
    tracked_search,
    uploading_here,
)
from tests.tasks.samples import BINARY
from tests.test_layers import command, loaded_by

METRICS = [
    "auc",
    "auc_low",
    "auc_high",
    "auc_fold_std",
    "average_precision",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "f1",
    "brier",
    "ece",
    "recognition_rate",
    "seconds",
]
PICTURES = ["roc", "precision_recall", "calibration", "confusion_matrix", "right_and_wrong"]


def points(trials) -> list[dict]:
    return [trial.params for trial in trials]


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and time; the log that sqlite keeps beside a database comes and goes with readers."""
    files = (file for file in folder.rglob("*") if file.is_file() and not file.name.endswith(("-shm", "-wal")))
    return {str(file.relative_to(folder)): (file.stat().st_size, file.stat().st_mtime_ns) for file in files}


# -- what a finished study leaves behind -------------------------------------------------------------------------------


def test_two_trials_then_two_more_then_none(finished):
    """The same study three times: `--trials` is what the study shall have in all."""
    assert [end.returncode for end in finished.ends] == [0, 0, 0]
    lines = [sum(line.startswith("trial   ") for line in end.stdout.splitlines()) for end in finished.ends]
    assert lines == [2, 2, 0]
    assert [trial.state for trial in finished.trials()] == [TrialState.COMPLETE] * 4
    assert "0 to do, 4 finished before" in finished.ends[2].stdout


def test_nothing_is_left_but_the_stores(finished):
    left = {path.name for path in finished.folder.iterdir()} - {"optuna.db-shm", "optuna.db-wal"}
    assert left == {"optuna.db", "mlflow.db", "mlruns"}


def test_the_end_names_the_best_with_intervals_and_what_is_next(finished):
    best = max(finished.trials(), key=lambda trial: trial.value)
    for end in finished.ends[1:]:
        table = end.stdout[end.stdout.index("trial  AUC") :].splitlines()
        assert table[1].split()[:2] == [str(best.number), f"{best.value:.4f}"]
        assert table[1].count("[") == 1
        assert f"\n  python -m bhsearch.report --study {STUDY}\n" in end.stdout
        experiment = finished.store.parent().info.experiment_id
        assert f"\nTrials: {links.trials_url(experiment)}\n" in end.stdout
        assert "Synthetic data" in end.stdout
        assert not {"\x1b", "\r"} & set(end.stdout)
    assert f"Next:\n  mlflow ui\n  python -m bhsearch.report --study {STUDY}\n" in finished.ends[0].stdout


def test_every_trial_is_a_finished_run_with_its_parameters(finished):
    children = finished.store.children()
    assert {number: run.info.status for number, run in children.items()} == dict.fromkeys(range(4), "FINISHED")
    for trial in finished.trials():
        assert children[trial.number].data.params == {name: str(value) for name, value in trial.params.items()}
        assert children[trial.number].data.tags["mlflow.parentRunId"] == finished.store.parent().info.run_id


def test_optunas_storage_shows_the_interval_and_the_run_of_every_trial(finished):
    """Also of those of an earlier sitting; and nothing that is of no use to a person."""
    children = finished.store.children()
    for trial in finished.trials():
        run_ = children[trial.number]
        assert set(trial.user_attrs) == {"seconds", "auc_low", "auc_high", "ms_per_image", "mlflow_run", "mlflow_url"}
        assert trial.user_attrs["mlflow_run"] == run_.info.run_id
        assert trial.user_attrs["mlflow_url"].endswith(f"{run_.info.run_id}?workflowType=machine_learning")
        for name in ("auc_low", "auc_high"):
            assert trial.user_attrs[name] == pytest.approx(run_.data.metrics[name], abs=1e-6)


def test_every_trial_has_every_metric(finished):
    for run_ in finished.store.children().values():
        metrics = run_.data.metrics
        assert set(METRICS) <= set(metrics)
        assert any(name.startswith("recall/") for name in metrics)
        assert "magnification/100X" in metrics
        assert all(math.isfinite(value) for value in metrics.values())
        assert metrics["auc_low"] <= metrics["auc"] <= metrics["auc_high"]


def test_a_trial_with_a_hidden_layer_has_its_curves_per_epoch_and_a_linear_head_none(finished):
    """A linear head is solved, not trained: its curve over penalties is a picture."""
    store = finished.store
    kinds = set()
    for run_ in store.children().values():
        linear = run_.data.params["hidden_units"] == "0"
        kinds.add(linear)
        for name in ("epoch/auc", "epoch/loss", "epoch/training_loss"):
            history = store.client.get_metric_history(run_.info.run_id, name)
            steps = sorted(point.step for point in history)
            assert steps == ([] if linear else list(range(1, len(steps) + 1)))
            assert linear or len(steps) >= 20
    assert kinds == {True, False}


def test_every_trial_has_its_pictures_and_tables(finished):
    for run_ in finished.store.children().values():
        files = finished.store.files(run_)
        assert {f"pictures/{name}.svg" for name in PICTURES} <= set(files)
        for path, file in files.items():
            if path.endswith(".svg"):
                drawn = Drawn(file.read_bytes())
                assert min(drawn.width, drawn.height) > 100
                assert drawn.outside() == []
        assert "malignant" in files["classification_report.txt"].read_text()
        with files["roc.csv"].open() as stream:
            assert len(list(csv.reader(stream))) > 3


def test_stored_predictions_give_the_logged_auc_and_optunas_value(finished):
    children = finished.store.children()
    for trial in finished.trials():
        file = finished.store.files(children[trial.number])["out_of_fold_predictions.csv"]
        auc = trial_metrics(Predictions.from_csv(file), BINARY)["auc"]
        assert auc == pytest.approx(children[trial.number].data.metrics["auc"], abs=1e-12)
        assert auc == pytest.approx(trial.value, abs=1e-12)


def test_the_corrected_score_comes_from_all_stored_predictions_in_every_sitting(finished):
    """The last sitting made no trial of its own, and has everything from MLflow."""
    store = finished.store
    runs = store.children().values()
    kept = [Predictions.from_csv(store.files(run)["out_of_fold_predictions.csv"]) for run in runs]
    corrected = corrected_score(kept, BINARY, cost=[run.data.metrics["cost/ms_per_image"] for run in runs])
    metrics = store.parent().data.metrics
    assert metrics["corrected/auc"] == pytest.approx(corrected.score, abs=1e-9)
    assert metrics["corrected/auc_low"] == pytest.approx(corrected.low, abs=1e-9)
    assert metrics["corrected/auc_high"] == pytest.approx(corrected.high, abs=1e-9)
    line = f"corrected AUC  {corrected.score:.4f}  [{corrected.low:.3f} {corrected.high:.3f}]"
    for end in finished.ends[1:]:
        assert line in re.sub("  +", "  ", end.stdout)
        assert CAVEATS[1] in end.stdout


def test_best_and_proposed_trial_and_the_difference_to_the_default_are_with_the_study(finished):
    """In the engine, in MLflow, and in the output of a command that ran no trial of its own."""
    store, trials = finished.store, {trial.number: trial for trial in finished.trials()}
    assert {n: t.user_attrs["ms_per_image"] for n, t in trials.items()} == {
        number: pytest.approx(run.data.metrics["cost/ms_per_image"]) for number, run in store.children().items()
    }
    run = store.parent()
    best, chosen = (trials[int(run.data.tags[f"bhsearch.{name}_trial"])] for name in ("best", "proposed"))
    assert best.value == max(trial.value for trial in trials.values())
    assert chosen.value >= best.value - MARGIN
    assert chosen.user_attrs["ms_per_image"] <= best.user_attrs["ms_per_image"]
    default = trials[int(run.data.tags["bhsearch.default_trial"])]
    assert default.params == starting_point(frozen_space(("staintex-s",)), "staintex-s")
    difference, low, high = (run.data.metrics[f"over_default/auc{end}"] for end in ("", "_low", "_high"))
    assert difference == pytest.approx(chosen.value - default.value, abs=1e-9)
    assert low <= difference <= high
    reason = run.data.tags["bhsearch.proposed_because"]
    shown = re.sub(r"\s+", " ", finished.ends[-1].stdout)
    assert f"Proposed: trial {chosen.number} " in shown
    assert reason in shown
    assert reason in run.data.tags["mlflow.note.content"]


def test_predictions_are_of_the_development_rows_only_and_say_what_they_are_for(finished, monkeypatch):
    made = StudyContext.build(settings(), ProgressReporter())
    file = finished.store.files(finished.store.children()[0])["out_of_fold_predictions.csv"]
    for row in csv.DictReader(file.read_text().splitlines()):
        assert "Synthetic data" in row["use"]
        assert "Not for screening patients" in row["use"]
    assert set(Predictions.from_csv(file).path) == set(made.development.column("path"))


def test_every_trial_has_a_model_with_signature_and_data(finished):
    mlflow = import_mlflow()
    store = finished.store
    experiment = store.parent().info.experiment_id
    models = {model.source_run_id: model for model in store.client.search_logged_models([experiment])}
    for run_ in store.children().values():
        model = mlflow.models.Model.load(models[run_.info.run_id].artifact_location.removeprefix("file://"))
        (given,), (got,) = model.signature.inputs.inputs, model.signature.outputs.inputs
        assert (given.type, given.shape) == (np.dtype("uint8"), (-1, -1, -1, 3))
        assert (got.type, got.shape) == (np.dtype("float32"), (-1, 1))
        assert "keras" in model.flavors
        assert "screening" in model.metadata["use"]
        (data,) = run_.inputs.dataset_inputs
        assert data.dataset.digest == store.parent().data.tags["bhsearch.data_fingerprint"]


def test_the_study_has_a_run_with_split_audit_space_versions_and_pictures(finished):
    store, parent = finished.store, finished.store.parent()
    assert parent.info.status == "FINISHED"
    assert store.record(parent, "study/split.json")["fingerprint"] == parent.data.tags["bhsearch.split_fingerprint"]
    assert {"python", "keras", "optuna"} <= set(store.record(parent, "study/versions.json"))
    names = [row["name"] for row in store.record(parent, "study/space.json")]
    assert names == [row.name for row in frozen_space(("staintex-s",))]
    assert store.record(parent, "study/audit.json")
    assert {"pictures/history.svg", "pictures/slice.svg", "pictures/best_trials.svg"} <= set(store.files(parent))
    assert parent.data.metrics["finished_trials"] == 4
    assert parent.data.metrics["trial/best"] == pytest.approx(max(t.value for t in finished.trials()), abs=1e-12)
    tags = parent.data.tags
    assert (tags["bhsearch.group_by"], tags["bhsearch.regime"], tags["bhsearch.synthetic"]) == (
        "case",
        "frozen",
        "True",
    )
    assert "Synthetic data" in tags["mlflow.note.content"]


def test_the_parent_runs_record_of_the_split_can_be_read_back(finished):
    from bhsearch.data.splits import Split

    made = StudyContext.build(settings(), ProgressReporter())
    kept = Split.from_dict(finished.store.record(finished.store.parent(), "study/split.json"))
    assert kept.fingerprint == made.split.fingerprint


# -- the same seed -----------------------------------------------------------------------------------------------------


def test_the_same_seed_elsewhere_and_without_a_stop_gives_the_same_trials(finished, here):
    """The finished study was stopped at two and went on in another process; this one is made in one go."""
    again = search(trials=4).records
    expected = finished.trials()
    assert points(again) == points(expected)
    assert [trial.value for trial in again] == pytest.approx([trial.value for trial in expected], abs=1e-6)


def test_a_result_has_its_trials_as_a_table(here):
    result = bhsearch.optimize(
        data="phantom:cases=24,images=3", backbones=["staintex-s"], image_size=48, folds=3, trials=2, tracking=False,
        quiet=True, workers=0,
    )  # fmt: skip
    table = result.trials
    assert list(table["number"]) == [0, 1]
    assert set(table["state"]) == {"COMPLETE"}
    assert result.best.trial.value == table["auc"].max()
    assert (table["auc_low"] <= table["auc"]).all()
    assert (table["auc"] <= table["auc_high"]).all()
    assert table["tied"].any()
    assert {row.name for row in frozen_space(())} <= set(table.columns)
    assert list(here.iterdir()) != []


# -- going on ----------------------------------------------------------------------------------------------------------


def test_a_study_gets_another_backbone_and_keeps_its_trials(here):
    before = search(trials=2).records
    after = search(trials=6, backbones=("staintex-l", "staintex-s"), sampler="random").records
    assert points(after)[:2] == points(before)
    assert [trial.value for trial in after[:2]] == [trial.value for trial in before]
    assert {trial.params["backbone"] for trial in after[2:]} == {"staintex-s", "staintex-l"}
    with pytest.raises(StudyError, match="fewer backbones: staintex-l"):
        search(trials=6)


@pytest.mark.parametrize("changes", [{"image_size": 64}, {"data": "phantom:cases=24,images=3,seed=1", "study": STUDY}])
def test_a_study_of_something_else_is_refused_and_nothing_is_changed(finished, monkeypatch, changes):
    monkeypatch.chdir(finished.folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before, trials = snapshot(finished.folder), finished.trials()
    with pytest.raises(StudyError, match="created with other settings or data"):
        search(trials=9, tracking=True, **changes)
    assert snapshot(finished.folder) == before
    assert finished.trials() == trials


def test_time_is_up_after_the_time_given(here):
    """No trial is started after it; what is there is the result, and it says that it is not all."""
    result = search(trials=50, timeout=1e-3)
    assert result.interrupted
    assert result.n_finished < 50


def test_a_budget_ends_a_study_that_is_then_done(here):
    result = search(trials=50, budget=1e-6)
    assert (result.n_finished, result.done, result.budget) == (1, True, 1e-6)
    assert search(trials=50, budget=1e-6).n_finished == 1
    more = search(trials=2, budget=10.0)
    assert (more.n_finished, more.budget) == (2, None)


class Plans(ProgressReporter):
    """The rows of all plans so far, and what was computed before each."""

    def __init__(self) -> None:
        self.rows: list[dict[str, str]] = []
        self.cached: list[int] = []

    def plan(self, plan) -> None:
        self.rows.append(dict(plan.rows))
        self.cached.append(sum(entry.kind == "features" for entry in cache.entries()))


@pytest.mark.parametrize("engine", ["optuna", "keras-tuner"])
def test_the_costs_of_features_are_shown_before_any_are_computed_and_kept(here, monkeypatch, tmp_path, engine):
    monkeypatch.setenv("BHSEARCH_CACHE", str(tmp_path / "new"))
    plans, wanted = Plans(), {"tracking": False, "engine": engine, "budget": 5.0}
    optimize(settings(trials=1, **wanted), plans)
    assert plans.cached == [0, 0]
    assert plans.rows[1]["budget"] == "5 min for all trials"
    assert re.fullmatch(
        r"<?\d+\.\d min expected for 1 trial: staintex-s <?\d+\.\d \(.+ s a view\)",
        plans.rows[1]["features"],
    )
    context = StudyContext.build(settings(trials=1, **wanted), ProgressReporter())
    metadata, opened = open_engine(context)
    costs = opened.costs()
    assert set(costs["seconds"]) == {"staintex-s"}
    assert costs["cached"] == {"staintex-s": []}
    optimize(settings(trials=2, **wanted), ProgressReporter())
    assert opened.costs() == costs
    another = open_engine(context)[1]
    monkeypatch.setattr(FrozenObjective, "costs", lambda *_: pytest.fail("a second process measures nothing"))
    objective = make_objective(context, {}, ProgressReporter())
    held = stored_costs(context, metadata, another, objective, ProgressReporter()).to_record()
    assert held == {name: value for name, value in costs.items() if name != "precision"}


class Heard(ProgressReporter):
    def __init__(self) -> None:
        self.trials_heard: list[tuple[Trial, Trial | None]] = []

    def trial(self, trial: Trial, best: Trial | None) -> None:
        self.trials_heard.append((trial, best))


def test_the_reporter_hears_every_trial_with_the_best_so_far(here):
    heard = Heard()
    optimize(settings(trials=3, tracking=False), heard)
    values = [trial.value for trial, _ in heard.trials_heard]
    assert [trial.number for trial, _ in heard.trials_heard] == [0, 1, 2]
    assert [best.value for _, best in heard.trials_heard] == [max(values[: k + 1]) for k in range(3)]


@pytest.mark.skipif(backend.gpu_files(), reason="on a GPU, heads are trained by the framework")
def test_a_study_whose_features_are_cached_needs_no_framework(here):
    asked = {"trials": 4, "tracking": False, "storage": "sqlite:///optuna.db"}
    search(study="first", **asked)
    assert loaded_by(*command(*arguments(study="again", **asked), code=0)) <= {"optuna"}
    studies = [optuna.load_study(study_name=name, storage=asked["storage"]) for name in ("first", "again")]
    values = [[trial.value for trial in study.trials] for study in studies]
    assert values[0] == values[1]
    assert any(trial.params["hidden_units"] for trial in studies[0].trials)


@pytest.mark.skipif(backend.gpu_files(), reason="on a GPU, the framework computes the features")
def test_a_study_with_an_empty_cache_needs_no_framework_where_openvino_runs_its_backbones(here, monkeypatch):
    # The conversion of the backbones is a process of its own.
    monkeypatch.setenv("BHSEARCH_CACHE", str(here / "empty"))
    assert loaded_by(*command(*arguments(trials=2, tracking=False), code=0)) <= {"optuna", "openvino"}


class Full(ProgressReporter):
    """A display whose output cannot be written once the study is open, as on a full disk."""

    @contextmanager
    def step(self, what: str):
        yield lambda done, total: None
        if what == "opening the study":
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("engine", ["optuna", "keras-tuner"])
def test_a_study_that_cannot_be_reported_as_opened_leaves_nothing(here, engine):
    wanted = settings(trials=1, tracking=True, engine=engine)
    with pytest.raises(OSError, match="No space left"):
        optimize(wanted, Full())
    assert not Path("outbox").exists()
    with uploading_here():
        assert optimize(wanted, ProgressReporter()).n_finished == 1


# -- the other engine --------------------------------------------------------------------------------------------------


def layout(store) -> dict[str, object]:
    """What a study looks like in MLflow, without what failed, and what differs between linear heads and others.

    Only samplers that learn in Optuna begin with the default parameters, with which the proposed trial is compared.
    """
    finished = [run_ for run_ in store.children().values() if run_.info.status == "FINISHED"]
    runs = [store.parent(), *finished]
    return {
        "params": [sorted(run_.data.params) for run_ in runs],
        "metrics": [
            sorted(n for n in run_.data.metrics if not n.startswith((keys.EPOCH, "over_default"))) for run_ in runs
        ],
        "tags": [sorted(n for n in run_.data.tags if "retry" not in n and "default_trial" not in n) for run_ in runs],
        "files": [sorted(name for name in store.files(run_) if "_curve" not in name) for run_ in runs],
        "experiments": sorted(each.name for each in store.client.search_experiments()),
    }


def test_a_study_of_keras_tuner_looks_like_one_of_optuna_but_for_the_engines_name(here, finished):
    """Killed in its first trial, and the same command again: four finished trials, as many as were asked for."""
    words = {"engine": "keras-tuner", "trials": 4}
    with killed_at(Outbox, "put"):
        tracked_search(**words)
    result = tracked_search(**words)
    assert result.study == STUDY.replace("optuna", "keras-tuner")
    assert [trial.state for trial in result.records] == [FAILED] + [COMPLETE] * 4
    assert result.records[1].params == result.records[0].params
    for trial in result.records:
        trial.notes.pop("mlflow_run", None)  # known to the command that logged it; KerasTuner's journal has no place
    assert search(**words).records == result.records  # there is nothing left to do
    store = Store(here)
    ours, theirs = (config_of(each.parent().data.params) for each in (store, finished.store))
    differ = {name for name in ours if ours[name] != theirs[name]} - {"trials", "workers"}  # of the first sitting
    assert differ == {"engine", "sampler", "study"}
    assert (ours["engine"], ours["sampler"]) == ("keras-tuner", "bayesian")
    assert layout(store) == layout(finished.store)
    assert [run_.info.status for run_ in store.children().values()] == ["FAILED"] + ["FINISHED"] * 4
    left = {path.name for path in here.iterdir() if not path.name.startswith("mlflow.db-")}
    assert left == {"keras_tuner", "mlflow.db", "mlruns"}


def test_an_engine_without_more_points_ends_the_study_with_what_it_has(here, monkeypatch):
    real, said = KerasTunerEngine.ask, []

    def ask(self, *given):
        if len(self.trials()) == 2:
            raise SearchExhausted("the oracle has no more trials")
        return real(self, *given)

    monkeypatch.setattr(KerasTunerEngine, "ask", ask)
    monkeypatch.setattr(ProgressReporter, "say", lambda self, text: said.append(text))
    result = search(engine="keras-tuner", sampler="grid", trials=4)
    assert [trial.state for trial in result.records] == [COMPLETE] * 2
    assert not result.interrupted
    assert "the oracle has no more trials" in said
