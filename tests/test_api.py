"""`bhsearch.optimize`, for notebooks: the command's own settings, errors instead of exit codes, and a result."""

from __future__ import annotations

import pytest

import bhsearch
from bhsearch.config import load_settings
from bhsearch.errors import DataError, SettingsError, StudyError
from tests.studies import SMALL, optuna_trials


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_package_gives_one_function_and_a_version():
    assert bhsearch.__all__ == ["optimize"]
    assert bhsearch.__version__.count(".") == 2


def test_options_win_over_the_file_and_the_result_is_what_the_storage_holds(here, capsys):
    file = here / "study.toml"
    file.write_text('trials = 9\nstudy = "mine"\ntracking = false\nquiet = true\n')
    assert load_settings(file, {}).trials == 9  # what the file alone would give
    result = bhsearch.optimize(config=str(file), trials=2, **SMALL)
    kept = optuna_trials(here, "mine")
    assert [trial.params for trial in result.records] == [trial.params for trial in kept]
    assert [trial.value for trial in result.records] == [trial.value for trial in kept]
    assert result.study == "mine"
    assert result.n_finished == 2
    assert not result.tracked
    assert capsys.readouterr().out == ""  # quiet


def test_what_is_not_quiet_is_told(here, capsys):
    bhsearch.optimize(**SMALL, trials=1, tracking=False)
    shown = capsys.readouterr().out
    assert "1 to do, 0 finished before" in shown
    assert sum(line.startswith("trial   ") for line in shown.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"data": "nosuch"}, DataError),
        ({"trials": 0}, SettingsError),
        ({"trials": "many"}, SettingsError),
        ({"config": "nosuch.toml"}, SettingsError),
        ({"storage": "nosuch://"}, StudyError),
    ],
)
def test_wrong_input_raises_and_leaves_nothing(here, options, kind):
    with pytest.raises(kind):
        bhsearch.optimize(**{**SMALL, **options})
    assert list(here.iterdir()) == []


def test_an_unknown_option_is_named(here):
    """In a notebook there is no command that would have refused it."""
    with pytest.raises(SettingsError, match="trails"):
        bhsearch.optimize(trails=3)
