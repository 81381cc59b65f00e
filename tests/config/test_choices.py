"""The names that help and the reference list are those that the rooms implement."""

from __future__ import annotations

from bhsearch.config import choices
from bhsearch.data.layouts.base import LAYOUTS
from bhsearch.data.splits import GROUPINGS
from bhsearch.engines.optuna.pruners import PRUNERS
from bhsearch.engines.registry import ENGINES
from bhsearch.lifecycle.predict import FORMATS
from bhsearch.models.features import FEATURE_BACKENDS
from bhsearch.models.frozen.precision import FEATURE_PRECISIONS
from bhsearch.models.openvino_export import EXPORTS
from bhsearch.models.resize import MODES
from bhsearch.study.workers.launchers.base import LAUNCHERS


def test_the_choices_are_what_the_rooms_implement():
    assert choices.layouts() == ("auto", *LAYOUTS)
    samplers = {name: ENGINES.get(name).samplers() for name in ENGINES.built_in}
    assert choices.samplers() == samplers
    assert choices.engines() == ENGINES.names()
    assert choices.launchers() == LAUNCHERS.names()
    assert set(choices.pruners()) == set(PRUNERS)
    assert choices.groupings() == GROUPINGS
    assert choices.resize_modes() == MODES
    assert choices.feature_backends() == FEATURE_BACKENDS
    assert choices.feature_precisions() == FEATURE_PRECISIONS
    assert choices.exports() == EXPORTS
    assert choices.prediction_formats() == FORMATS


def test_a_wrong_value_of_the_variable_of_plugins_breaks_no_help(monkeypatch):
    monkeypatch.setenv("BHSEARCH_PLUGINS", "no")
    assert choices.engines() == tuple(ENGINES.built_in)


def test_the_parts_of_other_packages_are_among_the_choices(tmp_path, monkeypatch):
    """Their names come from metadata: the module of this one does not exist."""
    folder = tmp_path / "other-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    groups = ("layouts", "engines", "samplers", "launchers", "augmentations", "metrics")
    lines = [f"[bhsearch.{group}]\nmine = nosuch:PART\n" for group in groups]
    (folder / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("BHSEARCH_PLUGINS", raising=False)
    lists = (choices.layouts, choices.engines, choices.launchers, choices.augmentations, choices.metrics)
    assert all(found()[-1] == "mine" for found in lists)
    assert choices.samplers()["optuna"][-1] == "mine"
    monkeypatch.setenv("BHSEARCH_PLUGINS", "none")
    assert not any("mine" in found() for found in lists)
