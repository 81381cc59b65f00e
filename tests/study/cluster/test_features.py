"""`--only features`: workers find the features in the cache, and their costs and precision with the study."""

from __future__ import annotations

import pytest

from bhsearch.errors import SettingsError
from bhsearch.runtime import cache
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.feature_precision import stored_choices
from bhsearch.study.resume.open import open_engine
from bhsearch.study.runner import optimize
from tests.studies import cache_with_networks, search, settings

BOTH = ("staintex-s", "staintex-l")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A working directory and a cache without features."""
    monkeypatch.setenv("BHSEARCH_CACHE", cache_with_networks(tmp_path / "cache", *BOTH))
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


class Steps(ProgressReporter):
    """The names of the steps and activities that were reported."""

    def __init__(self):
        self.names = []

    def step(self, what):
        self.names.append(what)
        return super().step(what)

    def doing(self, what, number=None):
        self.names.append(what)


def compute(only, **changes):
    reporter = Steps()
    given = settings(**{"tracking": False, "backbones": BOTH, "only": only, **changes})
    return optimize(given, reporter), reporter.names


def stored_features():
    """The folder of each entry of the cache that holds features, by its key, as a number that a new folder changes."""
    keys = [entry.key for entry in cache.entries() if entry.kind == "features"]
    return {key: (cache.cache_root() / "features" / key).stat().st_ino for key in keys}


def engine():
    return open_engine(StudyContext.build(settings(tracking=False, backbones=BOTH), ProgressReporter()))[1]


def test_one_backbone_is_computed_and_its_cost_and_precision_are_stored(place):
    result, steps = compute("features:staintex-l")
    assert result.partial
    assert "features of staintex-l" in steps
    assert "features of staintex-s" not in steps
    assert len(stored_features()) == 1
    opened = engine()
    assert opened.trials() == []
    assert set(opened.costs()["seconds"]) == {"staintex-l"}
    assert {name: each["precision"] for name, each in stored_choices(opened).items()} == {"staintex-l": "f32"}
    compute("features:staintex-s")  # as the next job of an array does
    assert set(opened.costs()["seconds"]) == set(BOTH)
    assert set(stored_choices(opened)) == set(BOTH)
    assert len(stored_features()) == 2


def test_all_backbones_are_computed_without_a_name():
    _, steps = compute("features")
    assert {f"features of {name}" for name in BOTH} <= set(steps)
    assert len(stored_features()) == 2


def test_trials_use_what_was_computed_and_compute_further_views_only():
    compute("features")
    before = stored_features()
    stored = engine().costs()
    result = search(backbones=BOTH, trials=6)
    assert len(result.trials) == 6
    after = stored_features()
    assert {key: after[key] for key in before} == before
    assert engine().costs() == stored
    again, _ = compute("features")  # of a study with trials
    assert len(again.records) == 6
    assert stored_features() == after


@pytest.mark.parametrize("name", ["mobilenet", "staintex", "STAINTEX-S"])
def test_a_backbone_that_the_study_does_not_have_is_refused_and_nothing_is_left(place, name):
    with pytest.raises(SettingsError, match=rf"a backbone of the study \(staintex-s, staintex-l\), but got '{name}'"):
        compute(f"features:{name}")
    assert [file.name for file in place.iterdir() if not file.name.startswith("optuna.db")] == []
    assert engine().trials() == []
    assert stored_features() == {}


def test_a_wrong_name_leaves_an_existing_study_as_it_is():
    search(backbones=BOTH, trials=2)
    with pytest.raises(SettingsError, match="but got 'nosuch'"):
        compute("features:nosuch")
    assert len(engine().trials()) == 2


def test_a_finetune_study_computes_no_features():
    result, _ = compute("features", regime="finetune", backbones=("cnn",))
    assert result.partial
    assert stored_features() == {}
