"""What an engine does not have is said with what it has."""

from __future__ import annotations

import pytest

from bhsearch.config import Settings
from bhsearch.engines.registry import ENGINES, check_engine, with_sampler
from bhsearch.errors import SettingsError
from bhsearch.study.workers.pool import n_workers

OPTUNA, KERAS_TUNER = BUILT_IN = tuple(ENGINES.built_in)


@pytest.mark.parametrize("engine", BUILT_IN)
def test_what_an_engine_has_is_let_through(engine):
    for sampler in (None, *ENGINES.get(engine).samplers()):
        check_engine(engine, sampler)
    check_engine(engine, None, workers=1, pruner="none")
    check_engine(engine, None, workers=0, pruner=None)
    check_engine(OPTUNA, "tpe", workers=8, pruner="median", storage="sqlite:///other.db")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"engine": "nosuch"}, "--engine must be one of optuna, keras-tuner, but got 'nosuch'"),
        ({"engine": OPTUNA, "sampler": "nosuch"}, "tpe, random, qmc, cmaes with --engine optuna, but got 'nosuch'.$"),
        (
            {"engine": OPTUNA, "sampler": "grid"},
            "tpe, random, qmc, cmaes .* 'grid'. It is a sampler of --engine keras-tuner",
        ),
        (
            {"engine": KERAS_TUNER, "sampler": "tpe"},
            "bayesian, random, hyperband, grid .* a sampler of --engine optuna",
        ),
        ({"engine": KERAS_TUNER, "workers": 2}, "--workers must be 0 or 1 with --engine keras-tuner.*but got 2"),
        (
            {"engine": KERAS_TUNER, "pruner": "median"},
            "--pruner must be none with --engine keras-tuner, but got 'median'.*hyperband",
        ),
        (
            {"engine": KERAS_TUNER, "storage": "sqlite:///hunter2.db"},
            "--storage must be left out .* folder keras_tuner",
        ),
    ],
)
def test_what_it_has_not_is_refused(arguments, words):
    with pytest.raises(SettingsError, match=words) as caught:
        check_engine(**arguments)
    assert "hunter2" not in str(caught.value)


def test_the_first_sampler_is_the_default_and_a_named_one_stays():
    for engine in BUILT_IN:
        samplers = ENGINES.get(engine).samplers()
        assert with_sampler(Settings(engine=engine)).sampler == samplers[0]
        assert with_sampler(Settings(engine=engine, sampler="random")).sampler == "random"


def test_several_gpus_make_no_second_worker_where_the_engine_has_one_oracle(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert [n_workers(Settings(engine=engine)) for engine in (OPTUNA, KERAS_TUNER)] == [2, 1]
    assert [n_workers(Settings(engine=engine, workers=0)) for engine in (OPTUNA, KERAS_TUNER)] == [0, 0]
