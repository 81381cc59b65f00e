"""The contract of cluster launchers, over every one that is installed: options, files, and no secret in the open."""

from __future__ import annotations

import re
import stat
from dataclasses import fields
from pathlib import Path

import pytest

from bhsearch.config import Settings, portable
from bhsearch.errors import MissingError, SettingsError
from bhsearch.study.workers.launchers.base import LAUNCHERS
from bhsearch.study.workers.launchers.jobs import ClusterLauncher, StudyJobs

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "experiments" / "cluster"
NAMES = [name for name in LAUNCHERS if isinstance(LAUNCHERS.get(name), ClusterLauncher)]
# Options without which a launcher writes nothing.
REQUIRED = {"kubernetes": {"image": "registry.example.org/bhsearch:1", "cache_claim": "cache"}}
PASSWORD, TOKEN = "s3cret-Passw0rd", "t0ken-of-MLflow"
STORAGE = f"postgresql+psycopg://ann:{PASSWORD}@db.example.org/studies"
VARIABLES = {
    "BHSEARCH_STORAGE": STORAGE,
    "MLFLOW_TRACKING_URI": f"https://ann:{PASSWORD}@mlflow.example.org",
    "MLFLOW_TRACKING_TOKEN": TOKEN,
    "PGPASSWORD": PASSWORD,
    "AWS_SECRET_ACCESS_KEY": TOKEN,
    "KERAS_BACKEND": "tensorflow",
}


@pytest.fixture(params=NAMES)
def launcher(request):
    return LAUNCHERS.get(request.param), REQUIRED.get(request.param, {})


def jobs(folder, options, study="mine"):
    settings = portable(Settings(study=study, data="phantom", regime="frozen"), elsewhere=True)
    return StudyJobs(
        study=study,
        n_workers=3,
        encoders=["staintex-s", "staintex-l"],
        settings=settings,
        worker_options=["--trial-timeout", "600"],
        options=options,
        variables=VARIABLES,
        folder=folder / "jobs" / "mine",
    )


def files_below(folder):
    return {file for file in folder.rglob("*") if not file.is_dir()}


def write(launcher, options, folder, **changes):
    return launcher.write(jobs(folder, options, **changes))


def test_there_is_one():
    """The tests below would pass on an empty list."""
    assert "kubernetes" in NAMES


def test_it_is_of_the_kind_and_says_what_it_does(launcher):
    part, _ = launcher
    assert isinstance(part, ClusterLauncher)
    assert type(part.concludes) is bool
    assert type(part.only_renders) is bool


def test_its_required_options_are_enough_for_a_dry_run(launcher):
    part, options = launcher
    part.check(options, dry_run=True)


@pytest.mark.parametrize("dry_run", [True, False])
def test_an_unknown_option_is_refused_by_name(launcher, dry_run):
    part, options = launcher
    with pytest.raises((SettingsError, MissingError)) as caught:
        part.check({**options, "nosuch": "1"}, dry_run=dry_run)
    if isinstance(caught.value, MissingError):
        pytest.skip(f"not installed here: {caught.value}")
    assert "nosuch" in str(caught.value)


def test_it_writes_below_its_folder_only_and_says_what_to_do(launcher, tmp_path, monkeypatch):
    part, options = launcher
    monkeypatch.chdir(tmp_path)
    lines = write(part, options, tmp_path)
    assert lines
    assert all(line.strip() and "\n" not in line for line in lines)
    written = files_below(tmp_path)
    assert {file for file in written if not file.is_relative_to(tmp_path / "jobs" / "mine")} == set()
    assert {file.name for file in tmp_path.iterdir()} <= {"jobs"}
    assert {file.name for file in (tmp_path / "jobs").glob("*")} <= {"mine"}


def test_it_writes_the_same_again(launcher, tmp_path, monkeypatch):
    part, options = launcher
    monkeypatch.chdir(tmp_path)
    first = list(write(part, options, tmp_path))
    before = {file: file.read_bytes() for file in files_below(tmp_path)}
    assert list(write(part, options, tmp_path)) == first
    assert {file: file.read_bytes() for file in files_below(tmp_path)} == before


def test_no_secret_is_in_what_it_says_or_in_a_file_that_others_can_read(launcher, tmp_path, monkeypatch):
    part, options = launcher
    monkeypatch.chdir(tmp_path)
    lines = write(part, options, tmp_path)
    assert secrets_in("\n".join(lines)) == set()
    readable = [file for file in files_below(tmp_path) if stat.S_IMODE(file.stat().st_mode) & 0o077]
    assert [file for file in readable if secrets_in(file.read_text())] == []


def secrets_in(text):
    return {secret for secret in (PASSWORD, TOKEN, STORAGE) if secret in text}


@pytest.mark.parametrize("study", ["A study_1", "x" * 200, "a/b", "é", "$(touch gone)", "'; touch gone; '"])
def test_any_name_of_a_study_is_taken(launcher, tmp_path, monkeypatch, study):
    part, options = launcher
    monkeypatch.chdir(tmp_path)
    assert write(part, options, tmp_path, study=study)
    assert not (tmp_path / "gone").exists()


# -- recipes -----------------------------------------------------------------------------------------------------------

# A password in a URL; names in capitals are placeholders, and $NAME is a variable.
_IN_URL = re.compile(r"://[^\s/:@]+:(?!PASSWORD@|\$)[^\s/@]+@")
# A value of a secret variable or option that is neither a reference nor a placeholder.
_ASSIGNED = re.compile(
    r"(?i)\b(?:\w*password|\w*passwd|\w*secret_access_key|\w*_token|pgpass)\b\s*[=:]\s*(?!\"?\$|PASSWORD\b|TOKEN\b)[\"']?[\w%+/-]{4,}"
)
# Options that put the storage into the list of processes.
_ON_COMMAND_LINE = re.compile(r"--storage[= ]+['\"]?postgresql\S*:\S*@")


def leaks(text):
    """Return what looks like a password in a text."""
    return [match[0] for pattern in (_IN_URL, _ASSIGNED, _ON_COMMAND_LINE) for match in pattern.finditer(text)]


def test_there_are_recipes():
    assert {"README.md", "kubernetes.md"} <= {file.name for file in RECIPES.iterdir()}


@pytest.mark.parametrize("file", sorted(files_below(RECIPES)), ids=lambda file: file.name)
def test_no_recipe_has_a_password(file):
    assert leaks(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        f"BHSEARCH_STORAGE={STORAGE}",
        "--storage postgresql+psycopg://ann:$PASSWORD@db/x",
        "PGPASSWORD=hunter22 psql",
        "MLFLOW_TRACKING_PASSWORD: hunter22",
        "export MLFLOW_TRACKING_TOKEN='abcd1234'",
    ],
)
def test_a_password_in_a_recipe_would_be_found(text):
    assert leaks(text)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql+psycopg://USER:PASSWORD@HOST/NAME",
        'PGPASSWORD="$(cat file)" psql',
        "password_file = x",
        "postgresql+psycopg://ann@db.example.org/studies",
        "--storage journal:/shared/studies.log",
    ],
)
def test_what_is_no_password_is_not_taken_for_one(text):
    assert leaks(text) == []


def test_the_storage_is_not_among_the_settings_that_jobs_read_from_a_file():
    """Nor is any setting whose environment variable keeps it out of files."""
    from bhsearch.config.option import option_of

    hidden = {field.name for field in fields(Settings) if option_of(field).variable}
    assert hidden == {"storage"}
    assert hidden & portable(Settings()).keys() == set()
