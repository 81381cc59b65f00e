"""The names that help and the reference list are those that the rooms implement."""

from __future__ import annotations

from bhsearch.config import choices
from bhsearch.data.layouts.base import LAYOUTS
from bhsearch.data.splits import GROUPINGS
from bhsearch.engines.optuna.pruners import PRUNERS
from bhsearch.engines.registry import ENGINES
from bhsearch.lifecycle.predict import FORMATS
from bhsearch.models.features import FEATURE_BACKENDS
from bhsearch.models.openvino_export import EXPORTS
from bhsearch.models.resize import MODES
from bhsearch.study.workers.launchers.base import LAUNCHERS


def test_the_choices_are_what_the_rooms_implement():
    assert choices.layouts() == ("auto", *LAYOUTS)
    samplers = {name: ENGINES.get(name).samplers() for name in ENGINES.built_in}
    assert choices.samplers() == samplers
    assert choices.engines() == ENGINES.names()
    assert set(choices.sampler_names()) == {name for names in samplers.values() for name in names}
    assert choices.launchers() == LAUNCHERS.names()
    assert set(choices.pruners()) == set(PRUNERS)
    assert choices.groupings() == GROUPINGS
    assert choices.resize_modes() == MODES
    assert choices.feature_backends() == FEATURE_BACKENDS
    assert choices.exports() == EXPORTS
    assert choices.prediction_formats() == FORMATS


def test_a_wrong_value_of_the_variable_of_plugins_breaks_no_help(monkeypatch):
    monkeypatch.setenv("BHSEARCH_PLUGINS", "no")
    assert choices.engines() == tuple(ENGINES.built_in)
