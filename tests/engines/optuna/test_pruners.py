"""Pruners: what each hears of a trial, and that a bad one is ended by all but `none`, and a good one by none."""

from __future__ import annotations

import optuna
import pytest

from bhsearch.engines.optuna.engine import OptunaEngine, open_study
from bhsearch.engines.optuna.pruners import PRUNERS, check_pruner, pruner_inputs
from bhsearch.errors import SettingsError
from bhsearch.objectives.base import IntermediateValue
from bhsearch.objectives.space import finetune_space

STEPS, N_FOLDS = 4, 5
SPACE = finetune_space(("cnn",), (32,))
FACTS = {"uid": "1", "backbones": {"cnn": "digest"}}


def open_engine(pruner):
    study = open_study(optuna.storages.InMemoryStorage(), "study", FACTS)
    return OptunaEngine(study, SPACE, "random", 0, pruner, STEPS)


def run_trial(engine, by_fold):
    """Report a trial whose folds get these scores, and rise to them. Returns its state, and the steps it was at."""
    trial = engine.ask()
    before = []
    for fold, score in enumerate(by_fold):
        for share in range(STEPS):
            last = share == STEPS - 1
            now = score - 0.02 * (STEPS - 1 - share)
            report = IntermediateValue(
                fold * STEPS + share, sum([*before, now]) / (len(before) + 1), score if last else None
            )
            if engine.report(trial.number, report):
                engine.prune(trial.number, 1.0)
                return "PRUNED", report.step
        before.append(score)
    engine.complete(trial.number, sum(by_fold) / len(by_fold), 1.0)
    return "COMPLETE", N_FOLDS * STEPS - 1


def folds_of(level):
    """Folds differ more than trials do."""
    return [level + change for change in (0.05, -0.05, 0.02, -0.03, 0.0)]


@pytest.mark.parametrize("pruner", [name for name in PRUNERS if name != "none"])
def test_a_clearly_bad_trial_is_ended_early_and_the_best_one_is_not(pruner):
    engine = open_engine(pruner)
    for k in range(6):
        run_trial(engine, folds_of(0.8 + 0.001 * k))
    state, step = run_trial(engine, folds_of(0.5))
    assert state == "PRUNED"
    assert step < N_FOLDS * STEPS - 1
    assert run_trial(engine, folds_of(0.9)) == ("COMPLETE", N_FOLDS * STEPS - 1)
    states = [trial.state for trial in engine.trials()]
    assert states[6:] == ["PRUNED", "COMPLETE"]
    assert engine.trials()[6].value is None
    assert engine.trials()[6].notes["seconds"] == 1.0


def test_without_a_pruner_the_worst_trial_runs_to_its_end():
    engine = open_engine("none")
    for level in (0.8, 0.8, 0.8, 0.8, 0.8, 0.1):
        assert run_trial(engine, folds_of(level))[0] == "COMPLETE"


@pytest.mark.parametrize("pruner", PRUNERS)
def test_the_first_trial_has_nothing_to_be_worse_than(pruner):
    assert run_trial(open_engine(pruner), folds_of(0.5))[0] == "COMPLETE"


def test_the_median_waits_for_half_of_a_fold_and_for_two_trials():
    engine = open_engine("median")
    for level in (0.8, 0.7):  # the second worse than the first
        assert run_trial(engine, folds_of(level))[0] == "COMPLETE"
    state, step = run_trial(engine, folds_of(0.3))
    assert (state, step) == ("PRUNED", STEPS // 2 - 1)


def test_wilcoxon_hears_each_folds_own_score_and_the_others_the_mean_so_far():
    inside, end = IntermediateValue(5, 0.7, None), IntermediateValue(7, 0.72, 0.8)
    for pruner in ("none", "median", "halving"):
        assert pruner_inputs(pruner, inside, STEPS) == (5, 0.7)
        assert pruner_inputs(pruner, end, STEPS) == (7, 0.72)
    assert pruner_inputs("wilcoxon", inside, STEPS) is None
    assert pruner_inputs("wilcoxon", end, STEPS) == (1, 0.8)


def test_a_trial_that_starts_anew_is_not_heard_twice():
    """Optuna would warn of each step that it has already."""
    engine = open_engine("median")
    trial = engine.ask()
    for mean in (0.7, 0.1):
        assert not engine.report(trial.number, IntermediateValue(0, mean, None))
    assert not engine.report(trial.number, IntermediateValue(1, 0.2, None))
    engine.complete(trial.number, 0.5, 1.0)
    (kept,) = engine._study.get_trials()
    assert kept.intermediate_values == {0: 0.7, 1: 0.2}


def test_an_unknown_pruner_is_refused_with_those_that_are_known():
    for name in PRUNERS:
        check_pruner(name)
    with pytest.raises(SettingsError, match="--pruner must be one of none, median, halving, wilcoxon, but got 'best'"):
        check_pruner("best")
