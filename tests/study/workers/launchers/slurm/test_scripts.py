"""Scripts of the launcher `slurm`, as a real bash reads them, and where passwords are."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhsearch.config import Settings, portable
from bhsearch.errors import SettingsError
from bhsearch.study.workers.launchers.jobs import StudyJobs
from bhsearch.study.workers.launchers.slurm.scripts import JobFiles

PASSWORD = "p@ss:w/rd%&' \"$HOME`"
ODD = 'it\'s "a" $HOME `id` #1 %j ü'
# Stands where sbatch is: prints an id, and appends what it was given and which variables it sees to a file.
SBATCH = """#!{python}
import json, os, sys
with open(os.environ["RECORD"], "a+") as file:
    file.seek(0)
    job = 10 + len(file.readlines())
    json.dump([sys.argv[1:], sorted(set(os.environ) & {{"BHSEARCH_STORAGE", "PGPASSWORD", "KERAS_BACKEND"}})], file)
    file.write("\\n")
print(f"{{job}};cluster")
"""


def files(folder, study="mine", encoders=("staintex-s", "cnn"), **changes):
    variables = {"BHSEARCH_STORAGE": f"postgresql://ann:{PASSWORD}@host/db", "PGPASSWORD": PASSWORD}
    values = {
        "study": study,
        "n_workers": 3,
        "encoders": encoders,
        "settings": portable(Settings(study=study, data="phantom", regime="frozen")),
        "worker_options": ["--trial-timeout", "600"],
        "options": {},
        "variables": {**variables, "KERAS_BACKEND": "jax"},
        "folder": folder / "jobs" / "mine",
    }
    return JobFiles(StudyJobs(**{**values, **changes}), folder)


def lines_of(made, part):
    return made.script(part).read_text().splitlines()


def run_script(made, part, **variables):
    """Run a script with a Python that prints its arguments and what it finds in its environment."""
    text = made.script(part).read_text()
    python = made.directory / "python"
    python.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "print(json.dumps([sys.argv[1:], os.environ.get('BHSEARCH_STORAGE'), os.environ.get('FOUND')]))\n"
    )
    python.chmod(0o755)
    changed = made.directory / "changed.sh"
    changed.write_text(text.replace(f"exec {shlex.quote(sys.executable)} ", f"exec {shlex.quote(str(python))} "))
    done = subprocess.run(["bash", changed], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", **variables})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_jobs_do_the_parts_of_the_study(tmp_path):
    made = files(tmp_path)
    made.write()
    settings = str(made.jobs.folder / "settings.toml")
    for index, encoder in enumerate(("staintex-s", "cnn")):
        words, storage, _ = run_script(made, "features", SLURM_ARRAY_TASK_ID=str(index))
        assert words == ["-P", "-m", "bhsearch", *made.jobs.features(settings, encoder)]
        assert storage == made.jobs.variables["BHSEARCH_STORAGE"]
    assert run_script(made, "workers")[0] == ["-P", "-m", "bhsearch", *made.jobs.worker()]
    assert run_script(made, "summary")[0] == ["-P", "-m", "bhsearch", *made.jobs.summary()]
    assert tomllib.loads(Path(settings).read_text())["study"] == "mine"


def test_arrays_have_a_task_for_each_encoder_and_worker(tmp_path):
    made = files(tmp_path, options={"max_running": "2"})
    made.write()
    assert "#SBATCH --array=0-1" in lines_of(made, "features")
    assert "#SBATCH --array=0-2%2" in lines_of(made, "workers")
    assert not [line for line in lines_of(made, "summary") if "--array" in line]


def test_a_study_without_encoders_has_one_features_task(tmp_path):
    made = files(tmp_path, encoders=())
    made.write()
    assert "#SBATCH --array=0-0" in lines_of(made, "features")
    words, _, _ = run_script(made, "features", SLURM_ARRAY_TASK_ID="0")
    assert words == ["-P", "-m", "bhsearch", *made.jobs.features(str(made.jobs.folder / "settings.toml"))]


def test_the_setup_runs_after_the_environment_and_before_the_command(tmp_path):
    made = files(tmp_path, options={"setup": 'export FOUND="${PGPASSWORD:+password}"'})
    made.write()
    assert run_script(made, "workers")[2] == "password"


text = st.text(st.characters(blacklist_categories=("C", "Zl", "Zp"), blacklist_characters="\\/"), min_size=1).filter(
    str.strip
)


@settings(deadline=None, max_examples=40)  # each starts two shells
@given(
    study=text,
    encoders=st.lists(text, min_size=1, max_size=3),
    value=st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",))),
)
def test_any_name_and_any_value_reach_the_command_as_they_are(tmp_path_factory, study, encoders, value):
    folder = tmp_path_factory.mktemp("odd", numbered=True) / ODD
    folder.mkdir()
    made = files(folder, study, encoders, variables={"BHSEARCH_STORAGE": value})
    made.write()
    words, storage, _ = run_script(made, "features", SLURM_ARRAY_TASK_ID=str(len(encoders) - 1))
    assert words[-3:] == [f"features:{encoders[-1]}", "--workers", "0"]
    assert Path(words[words.index("--config") + 1]).samefile(made.jobs.folder / "settings.toml")
    assert storage == value
    assert run_script(made, "workers")[0] == ["-P", "-m", "bhsearch", *made.jobs.worker()]


def test_the_printed_lines_submit_the_jobs_and_hide_passwords_from_slurm(tmp_path):
    folder, programs = tmp_path / ODD, tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    (programs / "sbatch").write_text(SBATCH.format(python=sys.executable))
    (programs / "sbatch").chmod(0o755)
    made = files(folder)
    record = tmp_path / "record"
    variables = {**made.jobs.variables, "PATH": f"{programs}:/usr/bin:/bin", "RECORD": str(record)}
    done = subprocess.run(["bash", "-c", "\n".join(made.lines())], capture_output=True, text=True, env=variables)
    assert (done.returncode, done.stderr) == (0, "")
    scripts = [str(made.script(part)) for part in ("features", "workers", "summary")]
    assert [json.loads(line) for line in record.read_text().splitlines()] == [
        [["--parsable", scripts[0]], ["KERAS_BACKEND"]],
        [["--parsable", "--dependency=afterok:10", scripts[1]], ["KERAS_BACKEND"]],
        [["--parsable", "--dependency=afterok:10,afterany:11", scripts[2]], ["KERAS_BACKEND"]],
    ]
    assert made.command("summary", {"features": 10, "workers": 11}) == [
        "sbatch", "--parsable", "--dependency=afterok:10,afterany:11", scripts[2],
    ]  # fmt: skip


def test_passwords_are_in_one_file_that_only_its_owner_reads(tmp_path):
    made = files(tmp_path)
    old = os.umask(0)
    try:
        made.write()
    finally:
        os.umask(old)
    folder = made.jobs.folder
    holding = [file.name for file in folder.rglob("*") if file.is_file() and "w/rd%&" in file.read_text()]
    assert holding == ["environment.sh"]
    assert stat.S_IMODE((folder / "environment.sh").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "w/rd%&" not in "\n".join(made.lines())


def test_a_file_that_others_could_read_is_replaced_not_written(tmp_path):
    """Who has opened the old file reads no password from it."""
    made = files(tmp_path)
    made.jobs.folder.mkdir(parents=True)
    old = made.jobs.folder / "environment.sh"
    old.write_text("")
    old.chmod(0o644)
    with old.open() as opened:
        made.write()
        assert opened.read() == ""
    assert stat.S_IMODE(old.stat().st_mode) == 0o600


def test_files_of_jobs_that_were_not_submitted_are_removed_and_others_kept(tmp_path):
    made = files(tmp_path)
    made.write()
    made.remove()
    assert list(tmp_path.iterdir()) == []
    made.write()
    (made.jobs.folder / "notes.txt").write_text("mine")
    made.remove()
    assert [file.name for file in made.jobs.folder.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(("study", "folder"), [("a\n#SBATCH --uid=0", "work"), ("mine", "a\\b"), ("mine", "a\nb")])
def test_names_that_a_script_cannot_contain_are_refused(tmp_path, study, folder):
    (tmp_path / folder).mkdir()
    with pytest.raises(SettingsError, match="--launcher slurm requires a"):
        files(tmp_path / folder, study).write()
    assert list((tmp_path / folder).iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "jobs").write_text("a file")
    with pytest.raises(SettingsError, match=r"Cannot write the job scripts to .*jobs/mine"):
        files(tmp_path).write()
