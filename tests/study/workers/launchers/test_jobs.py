"""What all cluster launchers share: the variables of jobs, and their folder."""

from __future__ import annotations

import os
import stat

import pytest

from bhsearch.study.workers.launchers.jobs import (
    STORAGE_VARIABLE,
    StudyJobs,
    job_variables,
    make_private_folder,
    may_be_secret,
)

USED = {
    "BHSEARCH_CACHE": "/shared/cache",
    "MLFLOW_TRACKING_TOKEN": "t0ken",
    "PGPASSWORD": "s3cret",
    "AWS_SECRET_ACCESS_KEY": "s3cret",
    "KERAS_BACKEND": "jax",
    "OMP_NUM_THREADS": "4",
    "HF_TOKEN": "t0ken",
    "HF_HOME": "/shared/hub",
    "HUGGING_FACE_HUB_TOKEN": "t0ken",
    "https_proxy": "http://ann:s3cret@proxy:3128",
    "HTTP_PROXY": "http://proxy:3128",
    "all_proxy": "socks5://proxy",
    "NO_PROXY": "mlflow",
    "SSL_CERT_FILE": "/etc/ssl/ours.pem",
    "SSL_CERT_DIR": "/etc/ssl/ours",
    "REQUESTS_CA_BUNDLE": "/etc/ssl/ours.pem",
    "CURL_CA_BUNDLE": "/etc/ssl/ours.pem",
}


def test_jobs_have_the_variables_that_a_worker_uses_and_no_others(monkeypatch):
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in {
        **USED,
        "HOME": "/home/ann",
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "3",
        "MY_PROXY": "x",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BHSEARCH_STORAGE", "other")
    assert job_variables("journal:/s.log") == {**USED, "BHSEARCH_STORAGE": "journal:/s.log"}


@pytest.mark.parametrize("name", ["BHSEARCH_STORAGE", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "https_proxy"])
def test_secrets_are_known_by_their_names(name):
    assert may_be_secret(name)


@pytest.mark.parametrize("name", ["KERAS_BACKEND", "PGUSER", "HF_HOME", "OMP_NUM_THREADS", "BHSEARCH_CACHE"])
def test_what_is_no_secret_is_none(name):
    assert not may_be_secret(name)


def test_a_folder_that_others_could_read_is_made_private(tmp_path):
    folder = tmp_path / "jobs" / "mine"
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    for _ in range(2):
        make_private_folder(folder, ["secret.env", "logs/"])
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert (folder / ".gitignore").read_text() == "secret.env\nlogs/\n"


def test_a_storage_has_one_name_wherever_a_command_starts(tmp_path, monkeypatch):
    def name(storage):
        return StudyJobs("a", 1, [], {}, [], {}, {STORAGE_VARIABLE: storage}, tmp_path).storage_name()

    names = []
    for folder in (tmp_path / "ann", tmp_path / "bob"):
        folder.mkdir()
        monkeypatch.chdir(folder)
        names += [name("journal:studies.log"), name(f"journal:{folder}/studies.log")]
    assert names[0] == names[1] != names[2] == names[3]
    url = "postgresql+psycopg://ann:s3cr3t@db.example.org/studies"
    assert name(url) == name(url.replace("s3cr3t", "other"))
    assert "s3cr3t" not in name(url)
