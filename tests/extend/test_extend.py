"""Parts of another distribution, found by entry points only: listed, used, required on resume, held to contracts.

The distribution is built as a wheel and installed into an environment of its own, which sees this environment's
packages and this checkout, so that no network is needed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.studies import Store, cache_of, environment, optuna_trials, wait_for

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTION = Path(__file__).parent / "distribution"
STUDY = "extended"
N_TRIALS = 4
_SECONDS = 240
COMMON = ["--data", "images", "--layout", "toy", "--image-size", "48", "--folds", "3", "--quiet"]
ALONE = ["--workers", "0"]  # a command that is refused need not start a worker before
WORDS = [
    *COMMON, "--study", STUDY, "--sampler", "toy", "--backbones", "toy", "--augmentations", "toy-light",
    "--metrics", "toy_gap", "--launcher", "toy", "--workers", "2",
]  # fmt: skip
# What the study records of them.
PARTS = {
    "bhsearch.samplers:toy",
    "bhsearch.layouts:toy",
    "bhsearch.backbones:toy",
    "bhsearch.augmentations:toy-light",
    "bhsearch.metrics:toy_gap",
}


@dataclass(frozen=True)
class Environment:
    """An environment with the distribution, and a folder to work in.

    Attributes:
        python: Its interpreter.
        folder: Holds the data and what the commands make.
        cache: Of the package.
    """

    python: Path
    folder: Path
    cache: str

    def variables(self, **more: str) -> dict[str, str]:
        return environment(BHSEARCH_CACHE=self.cache, **more)

    def run(self, *words: str, python: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run `python` with some arguments."""
        return subprocess.run(
            [str(python or self.python), *words],
            cwd=self.folder,
            env=self.variables(**variables),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )

    def command(self, name: str, *words: str, **options: str) -> subprocess.CompletedProcess[str]:
        done = self.run("-m", f"bhsearch.{name}", *words, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def refused(self, *words: str, python: Path | None = None, **variables: str) -> str:
        """The message of a command that is refused, on one line."""
        done = self.run("-m", *words, python=python, **variables)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return " ".join((done.stdout + done.stderr).split())


def draw_images(folder: Path) -> None:
    """Two noisy images of each of 24 cases, the malignant ones darker."""
    folder.mkdir()
    source = np.random.default_rng(0)
    for case in range(24):
        letter = "bm"[case % 2]
        for number in range(2):
            pixels = source.normal((170, 150)[case % 2] + 4 * (case % 5), 30, (60, 60, 3)).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"c{case}_{letter}_{number}.png")


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extended")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(DISTRIBUTION)]
    subprocess.run([*pip, *build], check=True, capture_output=True, timeout=_SECONDS)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    (packages,) = (folder / "env").glob("lib/python*/site-packages")
    install = ["install", "--no-deps", "--no-index", "--target", str(packages), str(wheel)]
    subprocess.run([*pip, *install], check=True, capture_output=True, timeout=_SECONDS)
    paths = [path for path in sys.path if Path(path).is_dir() and path.endswith("site-packages")]
    (packages / "here.pth").write_text("\n".join([str(ROOT), *paths]) + "\n")
    draw_images(folder / "images")
    return Environment(folder / "env" / "bin" / "python", folder, cache_of(tmp_path_factory))


@pytest.fixture(scope="module")
def resumed(extended):
    """The study that was killed after its first trial, and resumed."""
    command = [str(extended.python), "-m", "bhsearch.run", *WORDS, "--trials", str(N_TRIALS)]
    with subprocess.Popen(
        command, cwd=extended.folder, env=extended.variables(), start_new_session=True, stdout=subprocess.DEVNULL
    ) as process:
        wait_for(lambda: n_complete(extended.folder) >= 1, process)
        os.killpg(process.pid, signal.SIGKILL)
    time.sleep(0.1)
    extended.command("run", *WORDS, "--trials", str(N_TRIALS))
    return extended


def n_complete(folder: Path) -> int:
    try:
        return sum(trial.state.name == "COMPLETE" for trial in optuna_trials(folder, STUDY))
    except Exception:  # the tables are being made
        return 0


def test_names_are_listed_from_metadata_and_only_the_part_that_is_used_is_imported(extended):
    code = (
        "import sys; from bhsearch.data.layouts.base import LAYOUTS; from bhsearch.engines.registry import ENGINES;"
        "print(*LAYOUTS, *ENGINES, *(m for m in sys.modules if m.startswith('toy_parts')));"
        "LAYOUTS.get('toy'); print(*(m for m in sys.modules if m.startswith('toy_parts')))"
    )
    done = extended.run("-c", code)
    names, imported = (line.split() for line in done.stdout.splitlines())
    assert names == ["breakhis", "idc", "folders", "manifest", "toy", "optuna", "keras-tuner", "toy"]
    assert imported == ["toy_parts", "toy_parts.layout"]


def test_a_study_of_such_parts_is_killed_and_resumed_and_loses_nothing(resumed):
    trials = optuna_trials(resumed.folder, STUDY)
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    assert len(complete) == N_TRIALS
    assert {trial.params["backbone"] for trial in complete} == {"toy"}
    # With the seed of the command. The first trial may have been the one that the kill interrupted.
    assert (trials[0].params["policy"], trials[0].params["tta"]) == ("toy-light", True)
    store = Store(resumed.folder)
    for run in store.children().values():
        if run.info.status == "FINISHED":
            assert -1 <= run.data.metrics["toy_gap"] <= 1
    recorded = dict(row.split(" = ") for row in store.parent().data.tags["bhsearch.plugins"].split("; "))
    assert recorded == dict.fromkeys({*PARTS, "bhsearch.launchers:toy"}, "toy-parts 1.0")


def test_a_trial_is_registered_and_reproduced_and_keras_alone_loads_its_model(resumed):
    store = Store(resumed.folder)
    number, run = next((n, run) for n, run in store.children().items() if run.info.status == "FINISHED")
    resumed.command("register", "--study", STUDY, "--trial", str(number), "--yes")
    assert any("test/toy_gap_low" in run.data.metrics for run in store.runs())
    words = resumed.command("reproduce", run.info.run_id).stdout
    then, now = (words.split("AUC ")[1].split()[k] for k in (0, 2))
    assert then.rstrip(",") == now
    code = (
        "import glob, os, keras, numpy;"
        "file = max(glob.glob('mlruns/**/*.keras', recursive=True), key=os.path.getmtime);"
        "model = keras.saving.load_model(file);"
        "print(float(model.predict(numpy.zeros((1, 60, 60, 3), numpy.uint8), verbose=0)[0, 0]))"
    )
    done = resumed.run("-c", code, python=Path(sys.executable))
    assert 0 <= float(done.stdout.split()[-1]) <= 1, done.stderr


def test_without_the_package_the_study_is_refused_and_the_package_is_named(resumed):
    install = "install toy-parts==1.0"
    words = ["bhsearch.run", *COMMON, "--study", STUDY, "--trials", "9"]
    assert install in resumed.refused(*words, *ALONE, "--sampler", "toy", python=Path(sys.executable))
    register = ["bhsearch.register", "--study", STUDY, "--dry-run"]
    assert install in resumed.refused(*register, python=Path(sys.executable))
    assert "unset BHSEARCH_PLUGINS" in resumed.refused(*register, BHSEARCH_PLUGINS="none")
    engine = [*words, "--launcher", "toy"]  # which no storage of a built-in engine names, but the run does
    assert install in resumed.refused(*engine, python=Path(sys.executable))
    refused = resumed.refused(*words, *ALONE, "--backbones", "toy", "--augmentations", "toy-light")
    assert "bhsearch.samplers:toy from toy-parts 1.0 is not used now; give the option that selects it again" in refused


@pytest.fixture
def beside(extended, tmp_path):
    """A function that puts a part of another distribution on the path, and returns the variables for that."""

    def write(group: str, name: str, code: str) -> dict[str, str]:
        info = tmp_path / "other_parts-2.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-parts\nVersion: 2.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = other_parts:PART\n")
        (tmp_path / "other_parts.py").write_text(code)
        return {"PYTHONPATH": str(tmp_path)}

    return write


@pytest.mark.parametrize(("name", "first"), [("toy", "toy-parts 1.0"), ("idc", "bhsearch (built in)")])
def test_two_parts_of_one_name_are_refused_with_both_distributions(extended, beside, name, first):
    variables = beside("bhsearch.layouts", name, "PART = 1")
    refused = extended.refused("bhsearch.run", *COMMON, *ALONE, **variables)
    assert f"have the name {name!r}" in refused
    assert first in refused
    assert "other-parts 2.0" in refused
    assert extended.run("-m", "bhsearch.run", "--help", **variables).returncode == 0


def test_a_part_that_fails_to_import_is_one_sentence(extended, beside):
    variables = beside("bhsearch.launchers", "broken", "raise RuntimeError('no cluster here')")
    refused = extended.refused("bhsearch.run", *COMMON, "--launcher", "broken", **variables)
    assert "from other-parts 2.0: RuntimeError: no cluster here." in refused


def test_a_study_in_an_engine_of_another_package_runs_and_is_refused_without_it(extended):
    words = [*COMMON, "--study", "other", "--engine", "toy", "--backbones", "staintex-s", "--no-tracking"]
    extended.command("run", *words, "--workers", "1", "--trials", "2")
    code = (
        "from bhsearch.engines.registry import ENGINES; study = ENGINES.get('toy').find('', 'other');"
        "print(len(study.completed_trials()), study.metadata()['plugins'])"
    )
    assert extended.run("-c", code).stdout.split(maxsplit=1) == [
        "2",
        "{'bhsearch.engines:toy': 'toy-parts 1.0', 'bhsearch.layouts:toy': 'toy-parts 1.0'}\n",
    ]
    assert "--engine must be one of optuna, keras-tuner, but got 'toy'" in extended.refused(
        "bhsearch.run", *words, *ALONE, python=Path(sys.executable)
    )


def test_every_part_passes_the_contract_of_its_kind(extended):
    words = ["-m", "pytest", "-n0", "-q", "-p", "no:cacheprovider", "-k", "toy", str(ROOT / "tests" / "contracts")]
    done = extended.run(*words, "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert int(done.stdout.split(" passed")[0].split()[-1]) > 45
