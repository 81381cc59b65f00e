"""Options of the launcher `slurm`: what is refused, and what scripts contain."""

from __future__ import annotations

import pytest

from bhsearch.config.parsing import parse_pairs
from bhsearch.errors import SettingsError
from bhsearch.study.workers.launchers.jobs import options_of
from bhsearch.study.workers.launchers.slurm.options import check_options, directives, max_running, setup


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"nosuch": "1"}, "nosuch=1.*long name of an option of sbatch"),
        ({"partitoin": "gpu"}, "Did you mean.*partition"),
        ({"p": "gpu"}, "long name"),
        ({"cpus_per_task": "2"}, "Did you mean.*cpus-per-task"),
        ({"trials.time": "1"}, "'trials' in '--launcher-option trials.time=1' is no job of a study. The jobs are"),
        ({"worker.gres": "gpu:1"}, r"'worker' in .* Did you mean 'workers'\? The jobs are features, workers, summary;"),
        ({"workers.nosuch": "1"}, "workers.nosuch=1"),
        ({"array": "0-3"}, "sets or excludes the option --array"),
        ({"workers.dependency": "afterok:1"}, "sets or excludes the option --dependency"),
        ({"output": "x"}, "sets or excludes the option --output"),
        ({"clusters": "north"}, "sets or excludes the option --clusters"),  # squeue would not list the jobs
        ({"workers.uid": "0"}, "sets or excludes the option --uid"),
        ({"gid": "0"}, "sets or excludes the option --gid"),
        ({"wrap": "x"}, "sets or excludes the option --wrap"),
        ({"max_running": "0"}, "max_running must be a number of workers of at least 1"),
        ({"max_running": "many"}, "max_running must be a number"),
        ({"summary.max_running": "2"}, "max_running must be a number"),
        ({"comment": "a\n#SBATCH --uid=0"}, "must not contain line breaks"),
        ({"setup": "module load cuda\nexit"}, "must not contain line breaks"),
        ({"comment": "a\x00b"}, "control characters"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_by_name(options, sentence):
    with pytest.raises(SettingsError, match=sentence):
        check_options(options)


def test_options_of_sbatch_and_of_the_launcher_are_taken():
    check_options(
        {
            "partition": "gpu",
            "workers.gres": "gpu:1",
            "cpus-per-task": "4",
            "max_running": "8",
            "setup": "module load x",
        }
    )


def test_the_options_of_one_job_replace_those_of_all():
    options = {"time": "60", "workers.time": "600", "summary.mem": "2G", "max_running": "2", "setup": "true"}
    assert "#SBATCH --time=600" in directives("workers", options, {})
    assert "#SBATCH --time=60" in directives("features", options, {})
    assert not [
        line for line in directives("workers", options, {}) if "mem" in line or "max" in line or "setup" in line
    ]
    assert "#SBATCH --mem=2G" in directives("summary", options, {})


def test_the_defaults_requeue_a_job_and_signal_it_before_its_end():
    lines = directives("workers", {}, {})
    assert lines == ["#SBATCH --requeue", "#SBATCH --open-mode=append", "#SBATCH --signal=B:TERM@60"]
    others = directives("workers", {"no-requeue": "true", "signal": "B:TERM@300", "open-mode": "truncate"}, {})
    assert sorted(others) == [
        "#SBATCH --no-requeue",
        "#SBATCH --open-mode=truncate",
        "#SBATCH --signal=B:TERM@300",
    ]


def test_a_table_of_a_settings_file_means_the_same_as_the_options():
    table = {"partition": "gpu", "exclusive": True, "workers": {"gres": "gpu:1", "time": 60}}
    options = options_of(parse_pairs(table))
    assert options == {"partition": "gpu", "exclusive": "true", "workers.gres": "gpu:1", "workers.time": "60"}
    assert "#SBATCH --exclusive" in directives("workers", options, {})
    assert not [line for line in directives("features", {"exclusive": "false"}, {}) if "exclusive" in line]


def test_the_setup_and_the_limit_of_running_workers():
    options = {"setup": "module load cuda", "summary.setup": "module load base", "max_running": "4"}
    assert setup("workers", options) == ["module load cuda"]
    assert setup("summary", options) == ["module load base"]
    assert setup("workers", {}) == []
    assert max_running(options) == "4"
    assert max_running({}) == ""
