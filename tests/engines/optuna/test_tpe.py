"""TPE proposes what Optuna's own TPE proposes, from trials of every state."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import _split_trials
from optuna.trial import TrialState, create_trial

from bhsearch.engines.optuna.observations import Observations
from bhsearch.engines.optuna.tpe import IndependentTPE

SPACE = {
    "policy": CategoricalDistribution(("none", "stain", "zoom")),
    "tta": CategoricalDistribution((False, True)),
    "penalty": FloatDistribution(-1.0, 3.5, step=0.5),
    "rate": FloatDistribution(1e-4, 1e-1, log=True),
    "dropout": FloatDistribution(0.0, 0.6),
    "epochs": IntDistribution(2, 16, log=True),
    "units": IntDistribution(0, 64, step=16),
}
STATES = [*[TrialState.COMPLETE] * 5, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING]


def filled(n_trials: int, seed: int = 0, direction: str = "maximize") -> optuna.Study:
    """A study with trials of every state, equal scores, and trials whose process died before all was sampled."""
    random, study = np.random.default_rng(seed), optuna.create_study(direction=direction)
    memory = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    for number in range(n_trials):
        params = memory.ask(SPACE).params
        kept = list(SPACE)[: 3 if number % 13 == 7 else None]
        state = STATES[random.integers(len(STATES))]
        steps = {step: float(random.choice([0.5, 0.6, math.nan])) for step in range(random.integers(0, 4))}
        study.add_trial(
            create_trial(
                state=state,
                value=round(float(random.normal()), 1) if state == TrialState.COMPLETE else None,
                params={name: params[name] for name in kept},
                distributions={name: SPACE[name] for name in kept},
                intermediate_values=steps if state == TrialState.PRUNED else {},
            )
        )
    return study


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("n_trials", [5, 40, 400])
def test_the_proposals_are_those_of_optuna(n_trials, direction):
    study = filled(n_trials, n_trials, direction)
    expected = TPESampler(seed=3, multivariate=False, constant_liar=True, n_ei_candidates=64)
    found = IndependentTPE(3, 64)
    for _ in range(2):  # the second trial sees the first one as running
        trial = study._storage.get_trial(study._storage.create_new_trial(study._study_id))
        for name, values in SPACE.items():
            for _ in range(5):  # redraws
                wanted = expected.sample_independent(study, trial, name, values)
                assert found.sample_independent(study, trial, name, values) == wanted


@pytest.mark.parametrize("n_good", [0, 3, 25, 200, 1000])
def test_the_trials_are_split_as_optuna_splits_them(n_good):
    study = filled(300)
    observations = Observations(SPACE)
    for trial in study.trials:
        observations.put(trial)
    sampled = next(trial.number for trial in study.trials if trial.state == TrialState.RUNNING)
    known = [trial for trial in study.trials if trial.state != TrialState.FAIL and trial.number != sampled]
    below, above = _split_trials(study, known, n_good)
    good, others = observations.split(sampled, lambda _: n_good)
    assert observations.n_finished == sum(trial.state.is_finished() for trial in known)
    assert good.tolist() == [trial.number for trial in below]
    assert others.tolist() == [trial.number for trial in above]
    for name, values in SPACE.items():
        expected = [values.to_internal_repr(trial.params[name]) for trial in above if name in trial.params]
        assert observations.values(name, others).tolist() == expected


def test_a_trial_that_ends_takes_the_place_of_the_running_one():
    observations = Observations({"x": FloatDistribution(0.0, 1.0)})
    running = create_trial(state=TrialState.RUNNING)
    ended = create_trial(value=0.5, params={"x": 0.25}, distributions={"x": FloatDistribution(0.0, 1.0)})
    running.number = ended.number = 70
    observations.put(running)
    assert [each.tolist() for each in observations.split(0, lambda n: n)] == [[], [70]]
    assert not observations.n_finished
    observations.put(ended)
    good, others = observations.split(0, lambda n: n)
    assert (good.tolist(), others.tolist(), observations.n_finished) == ([70], [], 1)
    assert observations.values("x", good).tolist() == [0.25]
