"""Ready studies and benchmarks: each file says how it is run, and that is how it runs."""

from __future__ import annotations

import importlib.util
import re
import runpy
import shlex
import sys
import time
import tomllib
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import typer.main
from PIL import Image

import bhsearch
from bhsearch.config import Settings, load_settings
from bhsearch.data.phantom import phantom_index
from bhsearch.errors import DataError
from bhsearch.run import app
from bhsearch.search.space import frozen_space

ROOT = Path(__file__).resolve().parents[1]
STUDIES = sorted((ROOT / "experiments").glob("*.toml"))
SCRIPTS = sorted((ROOT / "experiments" / "benchmarks").glob("*.py"))
by_name = pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
TINY = {
    "data": "phantom:cases=20,images=2",
    "layout": "auto",
    "backbones": ("staintex-s",),
    "image_size": 48,
    "trials": 1,
}


def load(name: str) -> ModuleType:
    """A benchmark script as a module; the folder is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def opening(file: Path) -> str:
    """The comment block at the top of a file."""
    found = re.match(r"(#.*\n)+", file.read_text(encoding="utf-8"))
    assert found is not None, f"{file.name} must open with a comment"
    return found[0]


def test_the_promised_studies_are_there():
    """The tests below go by glob, and would pass on an empty folder."""
    assert {"quick", "breakhis-frozen", "idc-frozen"} <= {file.stem for file in STUDIES}


@by_name
def test_a_study_opens_with_its_own_command_its_cost_and_its_score(file):
    (command,) = re.findall(r"^# +python -m bhsearch\.run (.*)$", opening(file), re.MULTILINE)
    given = typer.main.get_command(app).make_context("run", shlex.split(command)).params
    assert given["config"] == file.relative_to(ROOT)
    assert re.search(r"^# .*[Cc]ost.* score", opening(file), re.MULTILINE)


@by_name
def test_the_command_of_a_study_needs_nothing_that_it_does_not_name(file):
    """Data of the user's own are given in the command, so that nobody has to edit the file."""
    data = tomllib.loads(file.read_text(encoding="utf-8"))["data"]
    assert data == "phantom" or f"--data {data}" in opening(file)


@by_name
def test_a_study_runs_as_it_stands_but_smaller(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = bhsearch.optimize(config=file, **TINY, tracking=False, quiet=True)
    settings = load_settings(file, {})
    assert result.study == settings.study
    assert list(result.trials["state"]) == ["COMPLETE"]
    assert 0.0 <= result.best.trial.value <= 1.0


@pytest.mark.parametrize("name", ["breakhis-frozen", "idc-frozen"])
def test_a_study_of_the_users_data_never_falls_back_on_synthetic_tissue(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = ROOT / "experiments" / f"{name}.toml"
    with pytest.raises(DataError, match="path/to"):
        bhsearch.optimize(config=file, quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_studies_are_called_differently_from_each_other_and_from_the_default():
    """In one folder they would else be refused as the same study with another split."""
    names = [load_settings(file, {}).study for file in STUDIES]
    assert len(set(names)) == len(names)
    assert None not in names


def test_full_settings_keep_the_default_size_and_repeat_the_folds():
    for name in ("breakhis-frozen", "idc-frozen"):
        settings = load_settings(ROOT / "experiments" / f"{name}.toml", {})
        default = Settings()
        assert (settings.image_size, settings.folds, settings.trials) == (
            default.image_size,
            default.folds,
            default.trials,
        )
        assert settings.repeats == 3
        assert settings.group_by == "case"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_benchmark_answers_help(script, monkeypatch, capsys):
    """Run as a script, but in this process: another one would import the frameworks again."""
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(script), run_name="__main__")
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "--data" in printed
    assert f"python experiments/benchmarks/{script.name} --data" in printed


def test_the_leak_is_measured_at_a_point_of_the_space():
    leakage = load("leakage")
    point = {**leakage.POINT, "backbone": "staintex-l"}
    space = frozen_space(("staintex-l",))
    assert set(point) == {parameter.name for parameter in space}
    assert all(parameter.holds(point[parameter.name]) for parameter in space)


def test_folds_by_image_score_higher_than_folds_by_case(tmp_path, capsys):
    """The phantom's cases can be recognised, so tearing them apart must pay; and only that grouping tears none."""
    leakage = load("leakage")
    options = [
        "--data",
        "phantom:cases=30,images=6",
        "--backbone",
        "staintex-s",
        "--image-size",
        "96",
        "--repeats",
        "2",
    ]
    leakage.main([*options, "--picture", str(tmp_path / "new" / "leak.png")])
    printed = capsys.readouterr().out
    rows = {
        by: cells for by, *cells in (line.strip("| ").split(" | ") for line in printed.splitlines() if "(0." in line)
    }
    assert list(rows) == ["image", "slide", "case"]
    assert float(rows["image"][1]) > 0.03
    assert int(rows["image"][2]) > int(rows["slide"][2]) > 0
    assert rows["case"][-1] == "0"
    assert "synthetic data (phantom)" in printed
    assert np.asarray(Image.open(tmp_path / "new" / "leak.png")).std() > 10


def test_the_leak_of_something_unknown_ends_with_a_sentence(tmp_path, capsys):
    leakage = load("leakage")
    with pytest.raises(SystemExit) as caught:
        leakage.main(["--data", str(tmp_path / "nowhere")])
    assert caught.value.code == 2
    assert "nowhere" in capsys.readouterr().err


def test_speed_is_compared_round_by_round():
    """A ratio of medians would hide that the machine was slower in one of the rounds."""
    speed = load("trial_speed")
    ours = [speed.OurRun(4.0, 5.0, 1.0, 10), speed.OurRun(8.0, 10.0, 2.0, 10)]
    printed = speed.tables([50.0, 200.0], {"96 px": ours})
    assert "| plain Optuna script, 96 px | | 125.0 (50.0 to 200.0) | |" in printed
    assert "| bhsearch, 96 px | 10 | 1.50 (1.00 to 2.00) | 75 (50 to 100) |" in printed
    assert "| 96 px | 6.0 | 7.5 | 1.5 |" in printed


def test_the_time_of_a_study_is_that_of_the_whole_process_with_an_empty_cache(tmp_path):
    speed, tissue = load("trial_speed"), phantom_index(TINY["data"]).root
    options = Namespace(data=tissue, weights_dir=tmp_path, trials=2, folds=2, backbones="staintex-s")
    started = time.monotonic()
    run = speed.run_ours(options, ("--image-size", "48", "--no-tracking"), tmp_path)
    assert run.n_trials == 2
    assert min(run.before, run.trials, run.after) > 0
    assert 2 * run.seconds_a_trial <= time.monotonic() - started + 0.1
    assert (tmp_path / "cache" / "features").is_dir()


def test_a_run_that_fails_ends_the_comparison_with_its_words(tmp_path):
    speed = load("trial_speed")
    options = Namespace(data=tmp_path / "nowhere", weights_dir=tmp_path, trials=1, folds=2, backbones="staintex-s")
    with pytest.raises(SystemExit, match=r"ended with 2:(.|\n)*nowhere"):
        speed.run_ours(options, (), tmp_path)


def test_the_plain_script_keeps_siblings_of_a_case_together(tmp_path):
    """Else it would be compared on an easier task."""
    plain = load("plain_optuna")
    names = [
        "SOB_B_A-14-22549AB-100-001.png",
        "SOB_B_A-14-22549G-40-002.png",
        "SOB_M_DC-14-2523-100-001.png",
        "notes.png",
    ]
    for name in names:
        (tmp_path / name).touch()
    paths, labels, cases = plain.read_tree(tmp_path)
    assert [Path(path).name for path in paths] == names[:3]
    assert labels.tolist() == [0.0, 0.0, 1.0]
    assert cases.tolist() == ["22549", "22549", "2523"]


def test_the_plain_script_holds_out_whole_cases_of_both_classes():
    plain = load("plain_optuna")
    cases = np.repeat([f"{number}" for number in range(20)], 3)
    labels = np.repeat([number < 10 for number in range(20)], 3).astype(np.float32)
    kept = plain.hold_out(labels, cases)
    assert set(cases[kept]).isdisjoint(cases[~kept])
    assert len(set(cases[kept])) == 16
    assert set(labels[~kept]) == {0.0, 1.0}
