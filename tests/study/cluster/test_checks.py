"""What is refused before a cluster's jobs are written or submitted: a sentence each, with exit code 2."""

from __future__ import annotations

import pytest

import bhsearch.run
from bhsearch.config import Settings
from bhsearch.errors import SettingsError, StudyError
from bhsearch.study.cluster.checks import cluster_launcher, for_cluster
from bhsearch.study.events import ProgressReporter
from bhsearch.study.workers.launchers.kubernetes import LAUNCHER
from tests.studies import command_here

SERVER = "http://mlflow.example.org:5000"
OPTIONS = ("image=bhsearch:1", "cache_claim=cache")
GIVEN = {
    "launcher": "kubernetes",
    "launcher_option": OPTIONS,
    "dry_run": True,
    "study": "mine",
    "storage": "postgresql+psycopg://ann@db.example.org/studies",
}


@pytest.fixture(autouse=True)
def server(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    monkeypatch.delenv("BHSEARCH_STORAGE", raising=False)


class Notes(ProgressReporter):
    def __init__(self):
        self.said = []

    def say(self, sentence):
        self.said.append(sentence)


def test_settings_that_all_machines_can_share_are_taken():
    assert cluster_launcher(Settings(**GIVEN)) is LAUNCHER
    assert cluster_launcher(Settings(**{**GIVEN, "storage": "journal:/cache/studies.log"})) is LAUNCHER
    assert cluster_launcher(Settings()) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"storage": "sqlite:///optuna.db"}, "cannot use the storage sqlite:///optuna.db, because several machines"),
        ({"storage": "sqlite://"}, "cannot use the storage sqlite://, because"),
        ({"workers": 0}, "requires at least one worker, but got --workers 0"),
        ({"engine": "keras-tuner"}, "requires --engine optuna, but got --engine keras-tuner"),
        ({"only": "trials"}, "--only trials cannot be used with --launcher kubernetes"),
        ({"only": "features:staintex-s"}, "--only features:staintex-s cannot be used with"),
        ({"dry_run": False}, "--launcher kubernetes requires --dry-run: it writes files and submits nothing itself"),
        ({"study": None}, "requires --study NAME"),
        ({"launcher_option": ()}, "requires an image"),
        ({"launcher_option": (*OPTIONS, "gpus=0.5")}, "gpus must be a whole number"),
        ({"launcher_option": (*OPTIONS, "nosuch=1")}, "--launcher-option nosuch=1"),
        ({"launcher": "local"}, "--launcher-option requires the launcher of a cluster"),
        ({"launcher": "local", "launcher_option": ()}, "--dry-run requires the launcher of a cluster"),
        ({"launcher": "local", "launcher_option": (), "dry_run": False, "wait": False}, "--no-wait requires the"),
    ],
)
def test_what_cannot_work_is_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        cluster_launcher(Settings(**{**GIVEN, **changes}))


EXTRAS = {"robustness": True, "nested": True, "race_divisions": 3}


@pytest.mark.parametrize(
    ("extras", "words"),
    [
        ({"robustness": True}, "--robustness"),
        ({"nested": True}, "--nested"),
        ({"race_divisions": 3}, "--race-divisions 3"),
        (EXTRAS, "--robustness --nested --race-divisions 3"),
    ],
)
def test_what_no_job_computes_after_the_search_is_refused_with_the_command_that_does(extras, words):
    with pytest.raises(SettingsError, match=f"^{words} cannot be used with --launcher kubernetes") as caught:
        cluster_launcher(Settings(**GIVEN, **extras))
    assert str(caught.value).endswith(f": bhsearch worker --study mine --only summary {words}")


def test_a_launcher_whose_command_ranks_the_trials_computes_all(monkeypatch):
    monkeypatch.setattr(LAUNCHER, "concludes", False)
    assert cluster_launcher(Settings(**GIVEN, **EXTRAS)) is LAUNCHER


def test_a_server_that_is_down_is_found_before_anything_is_submitted(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    given = {"launcher": "ray", "launcher_option": ("address=local",), "dry_run": False}
    with pytest.raises(StudyError, match=r"MLflow server http://127\.0\.0\.1:9 cannot be reached"):
        cluster_launcher(Settings(**{**GIVEN, **given}))


def test_a_gpu_is_not_shared_by_the_workers_of_a_job():
    with pytest.raises(SettingsError, match=r"--workers-per-gpu 2 cannot be used with.*num_gpus=0\.5"):
        cluster_launcher(Settings(**GIVEN, workers_per_gpu="2"))


@pytest.mark.parametrize("uri", ["", "sqlite:////tmp/store/mlflow.db"])
def test_a_store_in_a_file_is_refused_unless_nothing_is_tracked(monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(
        SettingsError, match=r"needs an MLflow server that all machines reach, but the store is the file"
    ):
        cluster_launcher(Settings(**GIVEN))
    assert cluster_launcher(Settings(**GIVEN, tracking=False)) is LAUNCHER


def test_an_automatic_regime_is_frozen_and_said():
    notes = Notes()
    assert for_cluster(Settings(regime="auto"), notes).regime == "frozen"
    assert for_cluster(Settings(regime="finetune"), notes).regime == "finetune"
    assert len(notes.said) == 1
    assert "--regime auto is frozen on a cluster" in notes.said[0]


def test_a_server_on_the_loopback_address_is_pointed_out(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    notes = Notes()
    for_cluster(Settings(regime="frozen"), notes)
    assert notes.said == ["MLFLOW_TRACKING_URI names localhost, which on another machine is that machine itself."]
    notes = Notes()
    for_cluster(Settings(regime="frozen", tracking=False), notes)
    assert notes.said == []


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ("postgresql+psycopg://ann:s3cret@127.0.0.1:5433/studies", "--storage names 127.0.0.1, which on another"),
        ("postgresql+psycopg://ann@/studies", "--storage names no host, so that each machine would look for"),
    ],
)
def test_a_database_on_the_loopback_address_is_pointed_out(monkeypatch, storage, said):
    for name in ("PGHOST", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    notes = Notes()
    for_cluster(Settings(regime="frozen", storage=storage), notes)
    assert len(notes.said) == 1
    assert notes.said[0].startswith(said)
    assert "s3cret" not in notes.said[0]
    with pytest.raises(SettingsError, match=f"{said}.*Give the address by which the jobs of --launcher kubernetes"):
        cluster_launcher(Settings(**{**GIVEN, "storage": storage}))


def test_pods_are_not_sent_to_their_own_loopback_address(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    with pytest.raises(SettingsError, match=r"MLFLOW_TRACKING_URI names localhost.*Give the address by which"):
        cluster_launcher(Settings(**GIVEN))
    assert cluster_launcher(Settings(**GIVEN, tracking=False)) is LAUNCHER


COMMAND = ["--launcher", "kubernetes", "--dry-run", "--study", "mine", "--data", "/nowhere/images"]
WITH_OPTIONS = [*COMMAND, *(word for option in OPTIONS for word in ("--launcher-option", option))]


def test_data_of_the_cluster_need_not_be_here(tmp_path, monkeypatch):
    """And their paths stay as they are; a link here would be resolved otherwise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BHSEARCH_STORAGE", "postgresql+psycopg://ann:s3cret@db.example.org/studies")
    (tmp_path / "link").symlink_to("/usr")
    linked = ["--weights-dir", f"{tmp_path}/link"]
    done = command_here(bhsearch.run, *WITH_OPTIONS, *linked, "--quiet")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "jobs" / "mine" / "job.yaml").read_text()
    assert 'data = "/nowhere/images"' in text
    assert f'weights_dir = "{tmp_path}/link"' in text
    assert {file.name for file in tmp_path.iterdir()} == {"jobs", "link"}


def test_long_commands_are_printed_on_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BHSEARCH_STORAGE", "postgresql+psycopg://ann:s3cret@db.example.org/studies")
    words = [*WITH_OPTIONS, "--launcher-option", f"secret={'s' * 200}"]
    done = command_here(bhsearch.run, *words)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("kubectl create secret")]
    assert "--from-env-file=jobs/mine/secret.env" in line
    assert "s3cret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (WITH_OPTIONS, "cannot use the storage sqlite:///optuna.db"),
        ([*WITH_OPTIONS, "--storage", "journal:/c/s.log", "--sampler", "qmd"], "qmd"),
        ([*WITH_OPTIONS, "--storage", "journal:/c/s.log", "--resize", "tiles", "--regime", "finetune"], "tiles"),
        ([*WITH_OPTIONS, "--storage", "journal:/c/s.log", "--layout", "breakhs"], "breakhs"),
        ([*WITH_OPTIONS, "--storage", "journal:s.log"], "the journal of --storage must be below /cache"),
        ([*WITH_OPTIONS, "--launcher-option", "gpus"], "--launcher-option must be KEY=VALUE, such as partition=gpu"),
        (COMMAND[2:], "--dry-run requires the launcher of a cluster"),
        (["--only", "nothing"], "--only must be all, features, features:BACKBONE, trials or summary"),
        (["--only", "features:"], "but got 'features:'"),
        (["--launcher", "nosuch"], "nosuch"),
    ],
)
def test_a_refusal_is_a_sentence_with_exit_code_2_and_leaves_nothing(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    done = command_here(bhsearch.run, *words)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
