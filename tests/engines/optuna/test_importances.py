from __future__ import annotations

import numpy as np
import pytest

from bhsearch.engines.base import Trial
from bhsearch.engines.optuna.importances import N_RESAMPLES, importance_spread, shares_of
from bhsearch.objectives.space import Parameter
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
