"""The names that help and the reference list are those that the rooms implement."""

from __future__ import annotations

from bhsearch.config import choices
from bhsearch.data.layouts.registry import LAYOUTS
from bhsearch.data.splits import GROUPINGS
from bhsearch.engines.optuna.pruners import PRUNERS
from bhsearch.engines.registry import ENGINE_SAMPLERS
from bhsearch.lifecycle.predict import FORMATS
from bhsearch.models.features import FEATURE_BACKENDS
from bhsearch.models.openvino_export import EXPORTS
from bhsearch.models.resize import MODES


def test_the_choices_are_what_the_rooms_implement():
    assert choices.layouts() == ("auto", *LAYOUTS)
    assert choices.samplers() == ENGINE_SAMPLERS
    assert choices.engines() == tuple(ENGINE_SAMPLERS)
    assert set(choices.sampler_names()) == {name for names in ENGINE_SAMPLERS.values() for name in names}
    assert set(choices.pruners()) == set(PRUNERS)
    assert choices.groupings() == GROUPINGS
    assert choices.resize_modes() == MODES
    assert choices.feature_backends() == FEATURE_BACKENDS
    assert choices.exports() == EXPORTS
    assert choices.prediction_formats() == FORMATS
