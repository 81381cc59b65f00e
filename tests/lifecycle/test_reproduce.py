"""A trial again, from MLflow alone: the same numbers, or the names of what is not as it was."""

from __future__ import annotations

import shutil

import pytest

from bhsearch.data.open_data import open_data
from bhsearch.errors import DataError, MissingError, SettingsError, StudyError
from bhsearch.lifecycle import reproduce
from bhsearch.lifecycle.restore import complete_params_of, settings_of
from bhsearch.study.events import ProgressReporter
from tests.registered import work_in
from tests.studies import SMALL, cache_of, optuna_trials, settings


@pytest.fixture
def inside(finished, tmp_path_factory, monkeypatch):
    work_in(finished.folder, cache_of(tmp_path_factory), monkeypatch)
    return finished


def test_a_frozen_trial_comes_out_again(inside):
    """Issue 4, E: under 1e-5 on the same machine. The last trial has views, dropout and a hidden layer or none."""
    for number, run in inside.store.children().items():
        result = reproduce.reproduce(run.info.run_id, ProgressReporter())
        assert (result.number, result.study) == (number, inside.store.parent().data.tags["bhsearch.study"])
        assert result.largest < 1e-5
        assert result.score_now == pytest.approx(result.score, abs=1e-5)
        assert result.versions == ()


def test_a_trial_is_named_by_its_study_and_its_number_too(inside):
    name = inside.store.parent().data.tags["bhsearch.study"]
    by_number = reproduce.reproduce(None, ProgressReporter(), study=name, trial=1)
    assert (by_number.study, by_number.number) == (name, 1)
    with pytest.raises(StudyError, match="--trial must be a complete trial"):
        reproduce.reproduce(None, ProgressReporter(), trial=99)
    with pytest.raises(MissingError, match="nosuch"):
        reproduce.reproduce(None, ProgressReporter(), study="nosuch")
    with pytest.raises(SettingsError, match="by its run or by --study and --trial, but got the run 'x' and --trial"):
        reproduce.reproduce("x", ProgressReporter(), trial=1)


def test_params_and_settings_come_back_as_they_were(inside):
    from bhsearch.tracking import reader

    study = reader.find_study(inside.store.client)
    assert {trial.number: complete_params_of(study, trial) for trial in study.trials} == {
        trial.number: trial.params for trial in optuna_trials(inside.folder)
    }
    kept = settings_of(study.settings)
    for name in SMALL:
        assert getattr(kept, name) == getattr(settings(), name), name
    assert (kept.case_pattern, kept.ignore_predefined_split, kept.timeout) == (None, False, None)


def test_a_study_without_settings_is_refused_with_what_to_do():
    with pytest.raises(StudyError, match="Run the command that created the study again"):
        settings_of({})


def test_another_value_than_then_is_seen(inside, monkeypatch):
    """The comparison would show a difference if there was one."""
    from dataclasses import replace

    real = reproduce.restore_study
    monkeypatch.setattr(
        reproduce,
        "restore_study",
        lambda *args: (o := real(*args)) and replace(o, settings=replace(o.settings, seed=5)),
    )
    # A linear head has no seed.
    runs = inside.store.children().items()
    number, run = next(each for each in runs if each[1].data.params["hidden_units"] != "0")
    assert reproduce.reproduce(run.info.run_id, ProgressReporter()).largest > 1e-5, number


def test_changed_data_are_refused_and_the_files_named(inside, tmp_path):
    index = open_data(SMALL["data"])
    shutil.copytree(index.root, tmp_path / "moved")
    first, second, third = (tmp_path / "moved" / path for path in index.column("path")[[0, 1, 2]])
    shutil.copy(third, first)
    shutil.copy(third, second.with_name(second.name.replace("-00", "-10")))
    run = inside.store.children()[0]
    with pytest.raises(DataError) as caught:
        reproduce.reproduce(run.info.run_id, ProgressReporter(), str(tmp_path / "moved"))
    text = str(caught.value)
    assert f"{first.name}: other pixels" in text
    assert f"{second.name.replace('-00', '-10')}: new" in text
    assert "2 images of the study" in text


def test_data_that_were_moved_are_found_where_the_option_says(inside, tmp_path):
    shutil.copytree(open_data(SMALL["data"]).root, tmp_path / "moved")
    run = inside.store.children()[0]
    assert reproduce.reproduce(run.info.run_id, ProgressReporter(), str(tmp_path / "moved")).largest < 1e-5


@pytest.mark.parametrize("which", ["nosuch", "parent"])
def test_what_is_no_trial_is_refused(inside, which):
    run_id = inside.store.parent().info.run_id if which == "parent" else which
    with pytest.raises(StudyError, match="RUN_ID"):
        reproduce.reproduce(run_id, ProgressReporter())
