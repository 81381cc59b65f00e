"""Studies with `--combine`, from the decision to a registered model of several encoders, with kills and two workers."""

from __future__ import annotations

import csv
import json
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bhsearch import predict
from bhsearch.engines.optuna.engine import OptunaEngine
from bhsearch.errors import RunError, StudyError
from bhsearch.lifecycle.registration import RegistrationRequest
from bhsearch.lifecycle.reproduce import reproduce
from bhsearch.objectives.frozen import FrozenObjective
from bhsearch.objectives.space import frozen_space, starting_point
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.joined import TrialBackbones, with_joints_of
from bhsearch.study.objective_factory import cached_features, frozen_objective
from bhsearch.study.outcome.nested import nested_score
from bhsearch.study.outcome.result import StudyResult
from bhsearch.study.resume.open import open_engine
from bhsearch.tracking import model_files
from tests.models.finetuning import own_backbone
from tests.registered import registered, work_in
from tests.shared import copy_database
from tests.studies import (
    Store,
    arguments,
    cache_of,
    command_here,
    killed_at,
    optuna_trials,
    search,
    settings,
    started,
    tracked_search,
    wait_for,
    working_in,
)
from tests.study.outcome.test_robustness import context_in
from tests.study.test_study_model import answers_elsewhere, answers_here

# Keras writes weights with TensorFlow's arrays, which are a version of NumPy behind.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
STUDY = "combined"
BOTH = ("staintex-s", "staintex-l")
N_FIRST = 4  # starting points of both
# What Keras answers, and what `mlflow models serve` does, whose loader takes image files.
LOAD = """
import json, sys, warnings
warnings.simplefilter("ignore")
import mlflow, numpy as np, pandas as pd
from pathlib import Path
from PIL import Image
uri, *files = sys.argv[1:]
images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
by_keras = mlflow.keras.load_model(uri).predict(images, verbose=0)
loaded = sorted(name for name in sys.modules if name.split(".")[0] == "bhsearch")
by_server = mlflow.pyfunc.load_model(uri).predict(pd.DataFrame({"image": [Path(file).read_bytes() for file in files]}))
print("\\n" + json.dumps([np.ravel(by_keras).tolist(), by_server["probability"].tolist(), loaded]))
"""
THREE = (*BOTH, "small.keras")
PAIR: dict[str, Any] = {"backbones": BOTH, "combine": 2, "study": STUDY}
SAY = ProgressReporter()


def context(**changes: Any) -> StudyContext:
    return StudyContext.build(settings(**{**PAIR, "tracking": False, **changes}), SAY)


def joints() -> dict[str, list[str]]:
    """What the study in this folder has decided, as a command that goes on with it reads it."""
    return dict(open_engine(context())[1].joints())


@pytest.fixture(scope="module")
def joined(tmp_path_factory) -> tuple[Path, StudyResult]:
    """The folder of a tracked study with every combination of three backbones, and its result. Look only."""
    folder = tmp_path_factory.mktemp("joined")
    with working_in(folder, cache_of(tmp_path_factory)):
        own_backbone(folder)
        return folder, tracked_search(backbones=THREE, combine=3, trials=10, study=STUDY)


@pytest.fixture
def in_joined(joined, tmp_path_factory, monkeypatch) -> Path:
    """That folder as working directory."""
    work_in(joined[0], cache_of(tmp_path_factory), monkeypatch)
    return joined[0]


def joints_by_rank(trials: list[Any]) -> dict[str, list[str]]:
    """The joint backbones that three backbones with these first trials must give."""
    best = sorted((-trials[k].value, trials[k].params["backbone"]) for k in range(3))
    first, second, third = (name for _, name in best)
    return {
        "joint-1": [first, second],
        "joint-2": [first, third],
        "joint-3": [second, third],
        "joint-4": [first, second, third],
    }


def test_joint_trials_join_the_best_and_their_runs_say_which_at_what_cost(joined, in_joined: Path):
    trials = optuna_trials(in_joined, STUDY)
    assert [trial.params["backbone"] for trial in trials[6:]] == ["joint-1", "joint-2", "joint-3", "joint-4"]
    store = Store(in_joined)
    runs, parent = store.children(), store.parent()
    held = joints_by_rank(trials)
    assert joined[1].joints == held
    assert json.loads(parent.data.tags["bhsearch.joints"]) == held
    costs = {trials[k].params["backbone"]: runs[k].data.metrics for k in range(3)}
    for number in range(6, 10):
        members = held[trials[number].params["backbone"]]
        assert runs[number].data.tags["bhsearch.joined"] == " + ".join(members)
        alone = [costs[name]["cost/ms_per_image"] for name in members]
        assert runs[number].data.metrics["cost/ms_per_image"] == pytest.approx(sum(alone))
        assert runs[number].data.metrics["cost/model_mb"] > max(costs[name]["cost/model_mb"] for name in members)
        licence = "unknown" if "small" in members else "no weights"
        assert runs[number].data.tags["bhsearch.licence"] == licence


def test_a_joint_trial_comes_out_again(in_joined: Path):
    again = reproduce(None, SAY, study=STUDY, trial=9)
    assert (again.largest, again.score_now) == (0.0, again.score)


@pytest.mark.slow
def test_a_joint_trial_becomes_a_registered_model(in_joined: Path, tmp_path: Path, tmp_path_factory, monkeypatch):
    """In databases of its own: registering adds runs."""
    for name in ("mlflow.db", "optuna.db"):
        copy_database(in_joined / name, tmp_path / name)
    shutil.copy(in_joined / "small.keras", tmp_path)
    work_in(tmp_path, cache_of(tmp_path_factory), monkeypatch)
    store, held = Store(tmp_path), joints_by_rank(optuna_trials(tmp_path, STUDY))
    version = registered(RegistrationRequest(trial=9, force=True, reason="a test")).version
    made = StudyContext.build(settings(backbones=THREE), SAY)
    files = [str(path) for path in made.development.paths()[:8]]
    with started(tmp_path, "-c", LOAD, version.uri, *files) as process:
        output, _ = process.communicate()
        assert process.returncode == 0, output
    by_keras, by_server, loaded = json.loads(output.splitlines()[-1])
    assert loaded == []
    assert np.ptp(by_keras) > 1e-4
    assert by_server == pytest.approx(by_keras, abs=1e-5)
    done = command_here(predict, *files, "--model", version.uri)
    assert done.returncode == 0, done.stderr
    by_command = [float(row["probability"]) for row in csv.DictReader(done.stdout.splitlines())]
    assert by_keras == pytest.approx(by_command, abs=1e-5)
    title = f"joint-4 ({' + '.join(held['joint-4'])})"
    card = model_files.read_text(store.client.get_run(version.run_id).info.artifact_uri, "card.md")
    assert f"fold heads on {title}" in card
    assert f"the licence of the backbone {title} is unknown" in card
    assert model_files.metadata_of(model_files.download(version.uri))["joined"] == held["joint-4"]


@pytest.mark.parametrize("answers", [answers_here, pytest.param(answers_elsewhere, marks=pytest.mark.slow)])
def test_a_logged_joint_model_computes_what_the_heads_compute_on_joined_features(in_joined: Path, answers):
    store, made = Store(in_joined), context(backbones=THREE, combine=3)
    (model,) = [
        model
        for model in store.client.search_logged_models([store.parent().info.experiment_id])
        if model.source_run_id == store.children()[9].info.run_id
    ]
    _, by_keras = answers(model.artifact_location, [str(path) for path in made.development.paths()])
    features = cached_features(made, SAY)
    objective = frozen_objective(made, made.images, features)
    _, engine = open_engine(made)
    objective.use(with_joints_of(made, engine))
    heads = objective(optuna_trials(in_joined, STUDY)[9].params).heads
    apart = [features.get(made.backbones[name], "identity") for name in engine.joints()["joint-4"]]
    expected = (1 / (1 + np.exp(-heads.logits(np.hstack(apart))))).mean(axis=1)
    assert by_keras == pytest.approx(expected, abs=1e-3)  # features by OpenVINO, the model by Keras


def test_joined_features_are_standardised_block_by_block_on_training_rows(tmp_path, tmp_path_factory, monkeypatch):
    """The heads are those of scikit-learn on blocks that were standardised by hand."""
    from sklearn.linear_model import LogisticRegression

    monkeypatch.setenv("BHSEARCH_CACHE", cache_of(tmp_path_factory))
    made = context_in(tmp_path / "images", backbones=BOTH, combine=2)
    features = cached_features(made, SAY)
    objective = frozen_objective(made, made.images, features)
    single = [features.get(made.backbones[name], "identity") for name in BOTH]

    class Decided:
        def joints(self):
            return {"joint-1": list(BOTH)}

    objective.use(with_joints_of(made, Decided()))
    heads = objective(starting_point(frozen_space(BOTH, combine=2), "joint-1")).heads
    images = made.images
    for fold in range(3):
        inside = images.fold[0] != fold
        _, group, count = np.unique(images.group[inside], return_inverse=True, return_counts=True)
        weight = 1 / count[group]
        blocks = []
        for block in single:
            mean = np.average(block[inside], axis=0, weights=weight)
            deviation = np.sqrt(np.average((block[inside] - mean) ** 2, axis=0, weights=weight))
            varies = deviation > 1e-5
            blocks.append(((block - mean) / np.where(varies, deviation, np.inf), varies.sum()))
        n_mean = np.mean([n for _, n in blocks])
        joined = np.hstack([block * np.sqrt(n_mean / n) for block, n in blocks])
        label = images.label[inside]
        for value in (0, 1):
            weight[label == value] /= 2 * weight[label == value].sum()
        by_hand = LogisticRegression(C=0.1, tol=1e-10, max_iter=10_000)
        by_hand.fit(joined[inside], label, weight * inside.sum())
        logits = heads.logits(np.hstack(single))[:, fold]
        np.testing.assert_allclose(logits, by_hand.decision_function(joined), atol=2e-3)


def test_a_study_that_is_killed_between_decision_and_first_joint_trial_goes_on(here: Path, monkeypatch):
    original, begun = OptunaEngine._start, []

    def start(engine, *others):
        begun.append(engine)
        if len(begun) == N_FIRST + 1:
            raise KeyboardInterrupt
        return original(engine, *others)

    with monkeypatch.context() as patch:
        patch.setattr(OptunaEngine, "_start", start)
        search(**PAIR, trials=7)
    assert [trial.params["backbone"] in BOTH for trial in optuna_trials(here, STUDY)] == [True] * N_FIRST
    decided = joints()
    assert set(decided["joint-1"]) == set(BOTH)
    search(**PAIR, trials=7)
    assert [trial.params["backbone"] for trial in optuna_trials(here, STUDY)[4:6]] == ["joint-1", "joint-1"]
    assert joints() == decided


def test_a_joint_trial_that_is_killed_is_run_again(here: Path):
    search(**PAIR, trials=N_FIRST)
    with killed_at(FrozenObjective, "_cost"):
        search(**PAIR, trials=N_FIRST + 1)
    search(**PAIR, trials=N_FIRST + 1)
    dead, again = optuna_trials(here, STUDY)[N_FIRST:]
    assert (dead.state.name, again.state.name) == ("FAIL", "COMPLETE")
    assert dead.params == again.params == starting_point(context().space(BOTH), "joint-1")


@pytest.mark.slow
def test_two_workers_join_the_same(here: Path, monkeypatch):
    """The second worker comes while the first one has decided and is in its first joint trial."""
    own_backbone(here)
    words = arguments(backbones=THREE, combine=2, study=STUDY, trials=10, workers=1, tracking=False, quiet=True)
    original, came = FrozenObjective.__call__, []

    def call(objective, params, on_report):
        if params["backbone"] == "joint-1" and not came:
            came.append(second.enter_context(started(here, "-m", "bhsearch.run", *words)))
            wait_for(
                lambda: any(joint_2(trial) and trial.state.is_finished() for trial in optuna_trials(here, STUDY)),
                came[0],
            )
        return original(objective, params, on_report)

    def joint_2(trial):
        return trial.params.get("backbone") == "joint-2"

    monkeypatch.setattr(FrozenObjective, "__call__", call)
    with ExitStack() as second:
        search(backbones=THREE, combine=2, study=STUDY, trials=14)
        output, _ = came[0].communicate(timeout=120)
        assert came[0].returncode == 0, output
    trials = optuna_trials(here, STUDY)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 14
    first = {trial.params["backbone"]: trial for trial in reversed(trials)}
    assert set(first) == {*BOTH, "small", "joint-1", "joint-2", "joint-3"}
    owner = {name: trial.system_attrs["bhsearch:owner"]["pid"] for name, trial in first.items()}
    assert owner["joint-1"] == os.getpid() != owner["joint-2"] == owner["joint-3"]
    assert first["joint-2"].datetime_complete < first["joint-1"].datetime_complete
    singles = (*BOTH, "small")
    assert first["joint-1"].datetime_start > max(first[name].datetime_complete for name in singles)


def test_a_joint_trial_that_a_user_enqueued_too_early_fails_with_a_sentence(here: Path):
    made = context()
    _, engine = open_engine(made)
    point = starting_point(made.space(BOTH), "joint-2")
    backbones = TrialBackbones(made, engine, frozen_objective(made, made.images, cached_features(made, SAY)))
    with pytest.raises(RunError, match="joint-2 joins no backbones"):
        backbones.require(engine.ask(point))


def test_a_study_goes_on_with_the_same_combine_only(here: Path):
    search(**PAIR, trials=1)
    for combine in (0, 3):
        with pytest.raises(StudyError, match=f"--combine: was 2, is now {combine}"):
            search(**{**PAIR, "combine": combine}, trials=2)
    search(backbones=BOTH, trials=1, study="without")
    with pytest.raises(StudyError, match="--combine: was 0, is now 2"):
        search(**{**PAIR, "study": "without"}, trials=2)


def test_a_nested_search_decides_in_each_fold_for_itself(tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("BHSEARCH_CACHE", cache_of(tmp_path_factory))
    made = context_in(tmp_path / "images", backbones=BOTH, combine=2, sampler="tpe")
    found = nested_score(made, made.space(BOTH), N_FIRST + 2, SAY)
    assert (found.n_trials, found.n_folds) == (N_FIRST + 2, 3)
    assert found.low <= found.score <= found.high
