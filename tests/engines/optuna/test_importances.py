from __future__ import annotations

import numpy as np
import optuna
import pytest

from bhsearch.engines.base import Trial
from bhsearch.engines.optuna.distributions import distribution
from bhsearch.engines.optuna.importances import N_RESAMPLES, importance_spread, shares_of
from bhsearch.objectives.space import Parameter, finetune_space, frozen_space
from bhsearch.states import COMPLETE, FAILED

SPACE = (
    Parameter("decides", "what the score comes from", 0.5, low=0.0, high=1.0),
    Parameter("idle", "nothing", "a", choices=("a", "b")),
    Parameter("idle_too", "nothing either", 1, low=1, high=8, log=True, whole=True),
)


def trials(n: int, signal: float, seed: int = 0) -> list[Trial]:
    rng = np.random.default_rng(seed)
    made = []
    for number in range(n):
        params = {"decides": float(rng.random()), "idle": "ab"[rng.integers(2)], "idle_too": int(rng.integers(1, 9))}
        made.append(Trial(number, COMPLETE, params, signal * params["decides"] + float(rng.normal(0, 0.05)), {}))
    return made


def test_a_parameter_that_decides_stands_out_of_its_spread_and_the_others_do_not():
    done = trials(40, signal=1.0)
    shares, spread = shares_of(done, SPACE), importance_spread(done, SPACE)
    assert set(spread) == set(shares) == {row.name for row in SPACE}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert [name for name, share in shares.items() if share > spread[name]] == ["decides"]


def test_the_same_trials_give_the_same_spread_and_progress_is_told():
    done, steps = trials(12, signal=0.5), []
    first = importance_spread(done, SPACE, lambda at, of: steps.append((at, of)))
    assert first == importance_spread(done, SPACE)
    assert steps == [(k, N_RESAMPLES) for k in range(1, N_RESAMPLES + 1)]


def test_what_has_no_importances_has_no_spread():
    failed = [Trial(number, FAILED, {}, None, {}) for number in range(20)]
    assert importance_spread(trials(9, 1.0) + failed, SPACE) == {}
    equal = [Trial(t.number, COMPLETE, t.params, 0.5, {}) for t in trials(20, 1.0)]
    assert importance_spread(equal, SPACE) == {}


def drawn(space, n: int) -> list[Trial]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    found, random = [], np.random.default_rng(0)
    for number in range(n):
        params = study.ask({row.name: distribution(row) for row in space}).params
        signal = len(str(params.get("policy"))) + 3 * bool(params.get("tta"))
        found.append(Trial(number, COMPLETE, params, 0.01 * signal + 0.02 * float(random.normal())))
    return found


@pytest.mark.parametrize("n_trials", [12, 150])
@pytest.mark.parametrize(
    "space", [SPACE, frozen_space(("a", "b", "c")), frozen_space(("a",)), finetune_space(("a", "b"), (96,))]
)
def test_the_importances_are_those_of_optuna(space, n_trials):
    done = drawn(space, n_trials)
    distributions = {row.name: distribution(row) for row in space}
    study = optuna.create_study(direction="maximize")
    for trial in done:
        study.add_trial(optuna.trial.create_trial(params=trial.params, distributions=distributions, value=trial.value))
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=16, max_depth=16, seed=0)
    expected = optuna.importance.get_param_importances(study, evaluator=evaluator)
    found = shares_of(done, space)
    assert found == pytest.approx(expected, abs=1e-9)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_thirty_backbones_do_not_need_two_to_the_power_of_thirty_steps():
    done = drawn(frozen_space(tuple(f"backbone-{n}" for n in range(30))), 60)
    assert sum(shares_of(done, frozen_space(tuple(f"backbone-{n}" for n in range(30)))).values()) == pytest.approx(1)


def test_resamples_without_any_difference_are_left_out():
    done = trials(12, signal=1.0)
    assert shares_of([Trial(t.number, COMPLETE, t.params, 0.5, {}) for t in done], SPACE, least=1) == {}
