"""A finetune study from start to end through the real stores: what it leaves behind, and how it goes on."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from optuna.trial import TrialState

from bhsearch.objectives.space import finetune_space
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter, StudyPlan
from bhsearch.study.runner import optimize
from tests.studies import Finished, arguments, cache_of, optuna_trials, run_here, settings
from tests.study.test_study_model import answers_elsewhere, answers_here

SMALL = {
    "data": "phantom:cases=16,images=2",
    "regime": "finetune",
    "backbones": ("cnn",),
    "image_size": 32,
    "folds": 2,
    "pruner": "median",
    "sampler": "random",
    "study": "tuned",
}
N_TRIALS = 8


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, empty_store) -> Finished:
    """By the command, in two sittings."""
    folder = tmp_path_factory.mktemp("tuned")
    shutil.copy(empty_store, folder / "mlflow.db")
    cache = cache_of(tmp_path_factory)
    sittings = (N_TRIALS // 2, N_TRIALS)
    ends = [run_here(folder, *arguments(**SMALL, trials=trials), cache=cache) for trials in sittings]
    assert [end.returncode for end in ends] == [0, 0], ends[0].stdout + ends[0].stderr
    return Finished(folder, ends)


@pytest.fixture(scope="module")
def trials(tuned):
    return optuna_trials(tuned.folder, "tuned")


def numbers(trials, state) -> list[int]:
    return [trial.number for trial in trials if trial.state == state]


def test_some_trials_are_complete_and_some_are_pruned(trials):
    assert len(trials) == N_TRIALS
    assert len(numbers(trials, TrialState.COMPLETE)) >= 4
    assert numbers(trials, TrialState.PRUNED)
    assert len(numbers(trials, TrialState.COMPLETE)) + len(numbers(trials, TrialState.PRUNED)) == N_TRIALS


def test_every_sampled_value_is_in_the_space(trials):
    space = {row.name: row for row in finetune_space(("cnn",), (32,))}
    for trial in trials:
        assert list(trial.params) == list(space)
        for name, value in trial.params.items():
            assert space[name].holds(value), (name, value)


class Heard(ProgressReporter):
    """Keep the plan, and the numbers of the trials that were started."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}
        self.started: list[int] = []

    def plan(self, plan: StudyPlan) -> None:
        self.rows = dict(plan.rows)

    def began(self, number: int) -> None:
        self.started.append(number)


def test_the_same_study_again_starts_nothing(tuned, trials, monkeypatch):
    lines = [sum(line.startswith("trial   ") for line in end.stdout.splitlines()) for end in tuned.ends]
    assert lines == [N_TRIALS // 2, N_TRIALS // 2]
    monkeypatch.chdir(tuned.folder)
    heard = Heard()
    optimize(settings(**SMALL, trials=N_TRIALS, tracking=False), heard)
    assert heard.rows["trials"] == f"0 to do, {N_TRIALS} finished before"
    assert heard.started == []
    assert optuna_trials(tuned.folder, "tuned") == trials


def test_a_pruned_trial_is_a_killed_run_with_its_curves(tuned, trials):
    store = tuned.store
    for number in numbers(trials, TrialState.PRUNED):
        run_ = store.children()[number]
        assert run_.info.status == "KILLED"
        assert run_.data.tags["bhsearch.state"] == "pruned"
        assert run_.data.params == {name: str(value) for name, value in trials[number].params.items()}
        assert run_.data.metrics["seconds"] > 0
        assert "auc" not in run_.data.metrics
        points = store.client.get_metric_history(run_.info.run_id, "epoch/auc")
        steps = sorted(point.step for point in points)
        assert steps == list(range(1, len(steps) + 1))
        assert 2 <= len(steps) <= 4  # the median ends none before half of its first fold
        assert not any(path.startswith("pictures") for path in store.files(run_))


def test_a_complete_trial_is_a_finished_run_with_score_curves_and_cost(tuned, trials):
    store = tuned.store
    for number in numbers(trials, TrialState.COMPLETE):
        run_ = store.children()[number]
        params = trials[number].params
        assert run_.info.run_name == f"{number:03d} {params['backbone']} {params['policy']} depth-{params['depth']}"
        assert run_.info.status == "FINISHED"
        assert run_.data.tags["bhsearch.state"] == "complete"
        metrics = run_.data.metrics
        assert metrics["auc"] == pytest.approx(trials[number].value, abs=1e-6)
        assert metrics["seconds"] > 0
        assert metrics["cost/trained_images"] >= 2 * trials[number].params["epochs"]
        assert metrics["cost/peak_memory_mb"] > 10
        for name in ("epoch/auc", "epoch/loss", "epoch/training_loss"):
            assert len(store.client.get_metric_history(run_.info.run_id, name)) == 4
        assert "pictures/learning_curves.svg" in store.files(run_)


@pytest.mark.parametrize("answers", [answers_here, pytest.param(answers_elsewhere, marks=pytest.mark.slow)])
def test_a_model_answers_also_where_bhsearch_was_never_imported(tuned, trials, monkeypatch, answers):
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    furthest = max(complete, key=lambda trial: trial.params["learning_rate"])  # one that has learnt to differ
    run_ = tuned.store.children()[furthest.number]
    (model,) = [
        model
        for model in tuned.store.client.search_logged_models([run_.info.experiment_id])
        if model.source_run_id == run_.info.run_id
    ]
    files = [str(path) for path in StudyContext.build(settings(**SMALL), ProgressReporter()).development.paths()][:4]
    monkeypatch.chdir(tuned.folder)
    probability, by_keras = answers(model.artifact_location, files)
    assert by_keras == pytest.approx(probability, abs=1e-6)
    assert len(probability) == 4
    assert np.ptp(probability) > 1e-6
    assert all(0 < value < 1 for value in probability)


def test_the_parent_shows_augmentation_cost_and_regime(tuned):
    store, parent = tuned.store, tuned.store.parent()
    assert parent.info.status == "FINISHED"
    assert {f"pictures/{name}.svg" for name in ("augmentation", "cost", "history", "slice", "best_trials")} <= set(
        store.files(parent)
    )
    assert parent.data.tags["bhsearch.regime"] == "finetune"
    assert (parent.data.params["config/regime"], parent.data.params["config/precision"]) == ("finetune", "float32")
    names = [row["name"] for row in store.record(parent, "study/space.json")]
    assert names == [row.name for row in finetune_space((), (32,))]


def test_pruned_trials_enter_neither_the_ranking_nor_the_correction(tuned, trials):
    table = tuned.ends[1].stdout[tuned.ends[1].stdout.index("trial  AUC") :].partition("\n\n")[0]
    complete = numbers(trials, TrialState.COMPLETE)
    shown = [int(line.split()[0]) for line in table.splitlines()[1:] if line[:1].strip().isdigit()]
    assert set(shown) <= set(complete)
    best = max(trial.value for trial in trials if trial.state == TrialState.COMPLETE)
    assert tuned.store.parent().data.metrics["trial/best"] == pytest.approx(best, abs=1e-9)
    assert f"over {len(complete)} trials" in tuned.store.parent().data.tags["mlflow.note.content"]


def test_a_study_in_one_go_gives_the_same_trials_as_one_that_was_stopped(trials, here):
    again = optimize(settings(**SMALL, trials=N_TRIALS, tracking=False), ProgressReporter()).records
    assert [trial.params for trial in again] == [trial.params for trial in trials]
    assert [trial.state for trial in again] == [trial.state.name for trial in trials]
    assert [trial.value for trial in again if trial.value is not None] == pytest.approx(
        [trial.value for trial in trials if trial.state == TrialState.COMPLETE], abs=1e-6
    )
