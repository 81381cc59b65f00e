"""`bhsearch.optimize`, for notebooks: the command's own settings, errors instead of exit codes, and a result."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import numpy as np
import pytest

import bhsearch
from bhsearch.config import load_settings
from bhsearch.config.settings import SECTIONS
from bhsearch.errors import DataError, SettingsError, StudyError
from tests.studies import SMALL, STUDY, Store, environment, import_mlflow, optuna_trials, uploading_here


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_package_exports_the_commands_as_functions():
    assert bhsearch.__all__ == sorted(bhsearch.__all__)
    assert {
        "Settings",
        "load_study",
        "optimize",
        "predict_images",
        "register_model",
        "validate_model",
        "write_report",
    } == {*bhsearch.__all__}
    assert bhsearch.__version__.count(".") == 2
    assert (Path(bhsearch.__file__).parent / "py.typed").is_file()


def test_the_keywords_of_optimize_are_the_settings():
    """Completion in an editor or a notebook reads the signature."""
    signature = inspect.signature(bhsearch.optimize)
    assert list(signature.parameters) == ["config", *(f.name for section in SECTIONS for f in fields(section))]
    hints = get_type_hints(bhsearch.optimize, vars(bhsearch.api) | {"StudyResult": object})
    for name, hint in get_type_hints(bhsearch.Settings).items():
        if name == "title":
            continue
        assert signature.parameters[name].default is None
        wanted = {kind for kind in get_args(hint) or (hint,) if isinstance(kind, type)}
        if get_origin(hint) is tuple:
            assert str(hints[name]).count("Sequence") == 1
        else:
            assert wanted - {type(None)} <= set(get_args(hints[name]))


def test_the_docstring_of_optimize_describes_every_setting():
    described = re.findall(r"^    (\w+): \w", bhsearch.optimize.__doc__.partition("Returns:")[0], re.MULTILINE)
    assert described[1:] == [field.name for field in fields(bhsearch.Settings)]


MODULES = ("run", "register", "predict", "validate", "report", "reproduce", "dataset", "worker")


@pytest.mark.parametrize("modules", [MODULES, MODULES[::-1], MODULES[3:] + MODULES[:3]])
def test_the_functions_work_whatever_root_modules_were_imported(here, modules):
    """A module of a function's name would take its place once it was imported."""
    lines = [f"import bhsearch.{name}" for name in modules]
    calls = [
        "load_study('x', quiet=True)",
        "register_model('x', quiet=True)",
        "write_report('x', quiet=True)",
        "predict_images('nosuch', quiet=True)",
        "validate_model('x', data='y', quiet=True)",
        "optimize(data='nosuch', quiet=True)",
    ]
    code = ["import bhsearch", "from bhsearch.errors import InputError", *lines]
    for call in calls:
        code += ["try:", f"    bhsearch.{call}", "except InputError as error:", "    print(type(error).__name__)"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "\n".join(code)],
        capture_output=True, text=True, env=environment(), cwd=here, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["StudyError", "StudyError", "StudyError", "DataError", "StudyError", "DataError"], (
        done.stderr
    )


def test_options_win_over_the_file_and_the_result_is_what_the_storage_holds(here, capsys):
    file = here / "study.toml"
    file.write_text('trials = 9\nstudy = "mine"\ntracking = false\nquiet = true\n')
    assert load_settings(file, {}).trials == 9  # what the file alone would give
    result = bhsearch.optimize(config=str(file), trials=2, workers=0, **SMALL)
    kept = optuna_trials(here, "mine")
    assert [trial.params for trial in result.records] == [trial.params for trial in kept]
    assert [trial.value for trial in result.records] == [trial.value for trial in kept]
    assert result.study == "mine"
    assert result.n_finished == 2
    assert not result.tracked
    assert capsys.readouterr().out == ""  # quiet


def test_what_is_not_quiet_is_told(here, capsys):
    bhsearch.optimize(**SMALL, trials=1, tracking=False, workers=0)
    shown = capsys.readouterr().out
    assert "1 to do, 0 finished before" in shown
    assert sum(line.startswith("trial   ") for line in shown.splitlines()) == 1


def test_a_result_is_short_in_a_terminal_and_a_table_in_a_notebook(finished, monkeypatch):
    """The same values from the store as the command printed."""
    monkeypatch.chdir(finished.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished.folder}/mlflow.db")
    import_mlflow()
    result = bhsearch.load_study(quiet=True)
    trials = {trial.number: trial for trial in finished.trials()}
    best = max(trials.values(), key=lambda trial: trial.value)
    assert (result.best.trial.number, result.best.value) == (best.number, pytest.approx(best.value, abs=1e-9))
    assert result.best.params == best.params
    assert finished.store.client.get_run(result.best.run_id).data.tags["bhsearch.trial"] == str(best.number)
    assert repr(result) == f"StudyResult('{STUDY}', 4 of 4 trials, best AUC {best.value:.4f})"
    assert repr(result.best).startswith(f"RankedTrial(number={best.number}, auc={best.value:.4f} [")
    page = result._repr_html_()
    assert page.count("<tr>") == 5
    assert f"[{result.best.low:.3f} {result.best.high:.3f}]" in page
    assert "tied with the best" in page
    assert all(sentence in page for sentence in result.selected_because())
    assert result.trials["proposed"].sum() == 1
    assert result.proposed.value - result.default.score == result.default.difference
    assert "corrected AUC" in page
    assert "Synthetic data" in page
    assert f"{best.value:.4f}" in finished.ends[-1].stdout
    assert f"{result.corrected.score:.4f}" in finished.ends[-1].stdout


def test_a_result_draws_its_history_and_its_roc_curve(finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished.folder}/mlflow.db")
    import_mlflow()
    result = bhsearch.load_study(STUDY, quiet=True)
    for figure in (result.plot_history(), result.plot_roc()):
        assert figure.axes
        assert figure.axes[0].lines or figure.axes[0].collections
    mean = result.plot_roc().axes[0].lines[-1].get_xydata()
    assert np.trapezoid(mean[:, 1], mean[:, 0]) == pytest.approx(result.proposed.value, abs=0.02)


def test_a_result_without_tracking_has_no_run_but_a_roc_curve_of_its_own_trials(here):
    result = bhsearch.optimize(**SMALL, trials=1, tracking=False, quiet=True)
    assert result.best.run_id == ""
    assert result.plot_roc().axes
    with pytest.raises(StudyError, match="Cannot plot the ROC curve"):
        dataclasses.replace(result, proposed_predictions=None).plot_roc()


def test_every_trial_of_a_tracked_result_knows_its_run(here):
    with uploading_here():
        result = bhsearch.optimize(**SMALL, trials=2, quiet=True, workers=0)
    runs = {row.trial.number: row.run_id for row in result.ranking}
    assert runs == {number: run.info.run_id for number, run in Store(here).children().items()}


def test_a_path_may_be_a_path(here):
    with pytest.raises(DataError, match="nosuch"):
        bhsearch.optimize(data=Path("nosuch"), quiet=True)


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
    """As a keyword that Python itself refuses, with the close one."""
    with pytest.raises(TypeError, match="trails"):
        bhsearch.optimize(trails=3)  # type: ignore[call-arg]
