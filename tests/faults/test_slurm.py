"""Studies on a real SLURM of one node: jobs are killed, cancelled and requeued, and nothing is lost."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from urllib.parse import quote

import optuna
import psutil
import pytest
from optuna.storages.journal import JournalFileBackend

from bhsearch.study.resume.recovery import DIED
from tests.faults.mlflow_server import mlflow_server
from tests.faults.slurm import NoSlurmError, slurm
from tests.faults.whole import assert_whole, trials_in
from tests.studies import STUDY, Store, arguments, wait_for

N_TRIALS = 24
COMMAND = ("-m", "bhsearch.run", "--launcher", "slurm")


@pytest.fixture(scope="module")
def cluster():
    try:
        with slurm() as running:
            yield running
    except NoSlurmError as error:
        pytest.skip(str(error))


@pytest.fixture
def journal(cluster, tmp_path):
    """Variables of a study without tracking in its own journal."""
    storage = f"journal:{cluster.work}/{tmp_path.name}.log"
    return {"BHSEARCH_STORAGE": storage, "BHSEARCH_CACHE": f"{cluster.work}/cache"}


def begin(cluster, *words, **variables):
    return cluster.popen(cluster.python, *COMMAND, *words, **variables)


def run(cluster, *words, **variables):
    return cluster.run(cluster.python, *COMMAND, *words, **variables)


def trial_of_worker(storage, index):
    """The trial that a worker of the job array runs, and its process; None if it runs none."""
    for trial in trials_in(storage):
        owner = trial.system_attrs.get("bhsearch:owner", {})
        if trial.state.name == "RUNNING" and owner:
            try:
                process = psutil.Process(owner["pid"])
                if process.environ().get("SLURM_ARRAY_TASK_ID") == str(index):
                    return trial.number, process
            except psutil.Error:
                continue
    return None


def stopped_trial(storage, index):
    """The same, in a process that is stopped, so that the trial cannot end."""
    found = trial_of_worker(storage, index)
    if found is None:
        return None
    number, process = found
    process.suspend()
    if trials_in(storage)[number].state.name == "RUNNING":
        return found
    process.resume()
    return None


def wait_for_result(what, command):
    """Wait until `what()` returns something, and return it."""
    found = []
    wait_for(lambda: found.append(what()) or found[-1], command)
    return found[-1]


def kill_at_once(cluster, task, process):
    """Kill a worker, its process for trials and its uploader, so that none of them can say so.

    SLURM sends the signal to the first of them only.
    """
    command = process.parent()
    command.suspend()
    for child in command.children(recursive=True):
        child.kill()
    assert cluster.run("scancel", "--signal=KILL", "--batch", task).returncode == 0


def studies_in(storage):
    file = Path(storage.removeprefix("journal:"))
    if not file.exists():
        return []
    return optuna.get_all_study_names(optuna.storages.JournalStorage(JournalFileBackend(str(file))))


def secrets_of(server):
    return [server.password, quote(server.password, safe=""), server.password[-16:]]


def assert_no_command_line_says(secrets):
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or [])
        assert not [secret for secret in secrets if secret in words]


def files_that_say(secrets, folder):
    found = set()
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            content = file.read_bytes()
            if any(secret.encode() in content for secret in secrets):
                found.add(file.name)
    return found


@pytest.mark.faults
def test_a_study_outlasts_workers_that_are_killed_cancelled_and_requeued(cluster, database_server):
    """Three workers, two at a time; the password of the database is in one file of mode 0600 only."""
    storage, secrets = database_server.new_database(), secrets_of(database_server)
    with mlflow_server(cluster.folder / "server") as server:
        variables = {"BHSEARCH_STORAGE": storage, "MLFLOW_TRACKING_URI": server.uri}
        variables["BHSEARCH_CACHE"] = f"{cluster.work}/cache"
        options = ["--launcher-option", "max_running=2", "--launcher-option", "time=10"]
        command = begin(cluster, *arguments(trials=N_TRIALS, workers=3), *options, **variables)

        def wait_for_trial(index):
            wait_for(lambda: trial_of_worker(storage, index), command)

        number, process = wait_for_result(lambda: stopped_trial(storage, 0), command)
        (job,) = {name.partition("_")[0] for name in cluster.states() if name.endswith("_2")}
        assert_no_command_line_says(secrets)
        kill_at_once(cluster, f"{job}_0", process)
        wait_for_trial(1)
        assert cluster.run("scontrol", "requeue", f"{job}_1").returncode == 0
        wait_for(lambda: cluster.states()[f"{job}_1"] == "PENDING", command)
        cluster.start_now(f"{job}_1")
        wait_for_trial(2)
        assert cluster.run("scancel", f"{job}_2").returncode == 0
        output = command.communicate(timeout=300)[0]
        assert command.returncode == 0, output
        assert_whole(cluster.work, N_TRIALS, storage, Store(cluster.folder / "server", server.uri))
    killed = trials_in(storage)[number]
    assert (killed.state.name, killed.user_attrs["reason"]) == ("FAIL", DIED)
    states = cluster.states()
    assert [states[f"{job}_{index}"] for index in range(3)] == ["FAILED", "COMPLETED", "CANCELLED"]
    assert {states["1_0"], states[str(int(job) + 1)]} == {"COMPLETED"}
    assert f"The worker {job}_0 failed (signal SIGKILL)." in output
    assert f"The worker {job}_2 was cancelled." in output
    assert not [secret for secret in secrets if secret in output]
    assert files_that_say(secrets, cluster.folder) == {"environment.sh"}
    folder = cluster.work / "jobs" / STUDY
    assert (folder.stat().st_mode & 0o777, (folder / "environment.sh").stat().st_mode & 0o777) == (0o700, 0o600)


@pytest.mark.faults
@pytest.mark.parametrize("option", ["partition=nosuch", "workers.partition=nosuch"])
def test_a_refused_job_leaves_nothing_behind(cluster, journal, option):
    before = set(cluster.states())
    study = f"refused-{option.partition('.')[0]}"
    words = [*arguments(trials=2, workers=1, tracking=False, study=study), "--launcher-option", option]
    done = run(cluster, *words, **journal)
    assert done.returncode == 1
    assert "invalid partition specified: nosuch; Batch job submission failed" in done.stdout
    new = {name: state for name, state in cluster.states().items() if name not in before}
    assert set(new.values()) <= {"CANCELLED"}
    assert not (cluster.work / "jobs" / study).exists()
    assert study not in studies_in(journal["BHSEARCH_STORAGE"])


@pytest.mark.faults
def test_the_lines_of_a_dry_run_submit_jobs_that_the_command_follows(cluster, journal):
    """The folder has a name that a shell would change, were it not quoted."""
    study = 'it\'s a $HOME "study" #1'
    options = ["--launcher-option", "hold=true", "--launcher-option", 'comment=it\'s "$5" \\ 100%']
    words = [*arguments(trials=2, workers=2, tracking=False, study=study), *options]
    before = set(cluster.states())
    done = run(cluster, *words, "--dry-run", **journal)
    assert done.returncode == 0, done.stdout
    assert set(cluster.states()) == before
    lines = [line for line in done.stdout.splitlines() if "sbatch" in line]
    pasted = cluster.run("bash", "-c", "\n".join(lines), **journal)
    assert re.fullmatch(r"\d+\n", pasted.stdout), pasted.stdout
    try:
        summary = int(pasted.stdout)
        submitted = set(cluster.states()) - before
        assert len(submitted) == 4  # one encoder, two workers, the summary
        shown = cluster.run("scontrol", "show", "job", str(summary)).stdout
        assert f"JobName={study}-summary" in shown
        assert 'Comment=it\'s "$5" \\ 100%' in shown
        again = run(cluster, *words, "--no-wait", **journal)
        assert again.returncode == 0, again.stdout
        text = " ".join(again.stdout.split())
        assert (
            f"{summary - 2} (features), {summary - 1} (workers), {summary} (summary) of this study are in the" in text
        )
        following = begin(cluster, *words, **journal)
        lines = iter(following.stdout.readline, "")
        assert any("2 waiting" in line for line in lines)
        os.killpg(following.pid, signal.SIGINT)
        output = " ".join(following.communicate(timeout=60)[0].split())
        assert following.returncode == 130, output
        assert f"cancel them: scancel {summary - 2} {summary - 1} {summary}" in output
        assert set(cluster.states()) - before == submitted
        assert {state for name, state in cluster.states().items() if name in submitted} == {"PENDING"}
    finally:
        cluster.run("scancel", "--user=nobody")


@pytest.mark.faults
def test_what_a_node_refuses_ends_the_command_with_its_sentence(cluster, journal):
    options = ["--launcher-option", "features.setup=export BHSEARCH_CACHE=/proc/nosuch"]
    study = "unwritable"
    done = run(cluster, *arguments(trials=2, workers=1, tracking=False, study=study), *options, **journal)
    assert done.returncode == 2, done.stdout
    assert "/proc/nosuch" in done.stdout
    assert "The jobs of this study were cancelled." in done.stdout
    wait_for(lambda: not {"PENDING", "RUNNING", "COMPLETING"} & set(cluster.states().values()))
    assert study not in studies_in(journal["BHSEARCH_STORAGE"])
