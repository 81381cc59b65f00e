"""Studies of a published encoder, from its folder to a model that loads without bhsearch, in both regimes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from bhsearch import predict
from bhsearch.lifecycle.registration import RegistrationRequest, RegistrationResult
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.tracking import model_files
from tests.models.backbones.encoders.tiny import REGISTERS, Tiny
from tests.registered import registered
from tests.studies import Store, command_here, optuna_trials, settings, started, tracked_search
from tests.study.test_study_model import answers_here

# Keras writes weights with TensorFlow's arrays, which are a version of NumPy behind.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
STUDY = "encoder"
LOAD = """
import json, sys, warnings
warnings.simplefilter("ignore")
import mlflow, numpy as np
from PIL import Image
uri, *files = sys.argv[1:]
images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
by_keras = mlflow.keras.load_model(uri).predict(images, verbose=0)
loaded = sorted(name for name in sys.modules if name.split(".")[0] == "bhsearch")
print("\\n" + json.dumps([np.ravel(by_keras).tolist(), loaded]))
"""


@pytest.fixture
def encoder(here: Path) -> str:
    """A folder, named by a relative path as a user would."""
    folder = Tiny(scaled=True, registers=REGISTERS).write_transformers(here / "hub" / "tiny", "dinov2_with_registers")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    return "hub/tiny"


def test_the_runs_of_a_frozen_study_say_encoder_and_licence(here: Path, encoder: str):
    names = (encoder, f"{encoder}@cls+mean")
    tracked_search(backbones=names, trials=3, study=STUDY)
    assert {trial.params["backbone"] for trial in optuna_trials(here, STUDY)} == {"tiny", "tiny@cls+mean"}
    store = Store(here)
    assert store.parent().data.params["config/backbones"] == str(list(names))
    assert_runs_say_licence(store)


@pytest.mark.slow
def test_a_frozen_study_becomes_a_registered_model(here: Path, encoder: str):
    names = (encoder, f"{encoder}@cls+mean")
    tracked_search(backbones=names, trials=1, study=STUDY)
    store = Store(here)
    result = registered(RegistrationRequest(trial=0, force=True, reason="a test", export="openvino"))
    version = result.version
    assert_version_says_licence(store, result)
    made = StudyContext.build(settings(backbones=names), ProgressReporter())
    files = [str(path) for path in made.development.paths()[:8]]
    with started(here, "-c", LOAD, version.uri, *files) as process:
        output, _ = process.communicate()
        assert process.returncode == 0, output
    by_keras, loaded = json.loads(output.splitlines()[-1])
    assert loaded == []
    assert np.ptp(by_keras) > 1e-4
    done = command_here(predict, *files, "--model", version.uri)
    assert done.returncode == 0, done.stderr
    by_command = [float(row["probability"]) for row in csv.DictReader(done.stdout.splitlines())]
    assert by_keras == pytest.approx(by_command, abs=1e-5)


LIMIT = "is non-commercial, and so is this model."


def assert_runs_say_licence(store: Store) -> None:
    """The licence is on the run of the study and on those of its trials."""
    licences = json.loads(store.parent().data.tags["bhsearch.licences"])
    assert licences == dict.fromkeys(("tiny", "tiny@cls+mean"), "cc-by-nc-4.0")
    for run in store.children().values():
        assert run.data.tags["bhsearch.licence"] == "cc-by-nc-4.0"
        assert LIMIT in run.data.tags["mlflow.note.content"]


def assert_version_says_licence(store: Store, result: RegistrationResult) -> None:
    """The licence is on the registered version, its card and its model."""
    kept = store.client.get_model_version(result.version.name, result.version.number)
    assert kept.tags["bhsearch.licence"] == "cc-by-nc-4.0"
    assert LIMIT in kept.description
    card = model_files.read_text(store.client.get_run(result.version.run_id).info.artifact_uri, "card.md")
    assert LIMIT in card.partition("What it is not for")[2].partition("##")[0]
    assert "| licence of the backbone | cc-by-nc-4.0 |" in card
    assert model_files.metadata_of(model_files.download(result.version.uri))["licence"] == "cc-by-nc-4.0"


def test_a_fine_tuned_study(here: Path, encoder: str):
    result = tracked_search(backbones=(encoder,), regime="finetune", trials=1, study=STUDY, folds=2, pruner="none")
    assert [trial.state.name for trial in optuna_trials(here, STUDY)] == ["COMPLETE"]
    assert result.best is not None
    store = Store(here)
    (model,) = store.client.search_logged_models([store.parent().info.experiment_id])
    made = StudyContext.build(settings(backbones=(encoder,)), ProgressReporter())
    by_pyfunc, by_keras = answers_here(model.artifact_location, [str(made.development.paths()[0])])
    assert by_pyfunc == pytest.approx(by_keras, abs=1e-6)
