"""Models of encoders in files: searched, registered, loaded without bhsearch, served as a pyfunc and predicted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bhsearch.data.open_data import open_data
from bhsearch.errors import StudyError
from bhsearch.lifecycle.predict import case_of, open_model, predict_all
from bhsearch.lifecycle.registration import RegistrationRequest, RegistrationResult
from bhsearch.lifecycle.reproduce import reproduce
from bhsearch.study.events import ProgressReporter
from bhsearch.tracking import keys
from tests.models.backbones.files.small import SIZE, state, write_onnx, write_openvino
from tests.registered import registered
from tests.shared import made_once
from tests.studies import cache_of, import_mlflow, search, tracked_search, working_in

DATA = "phantom:cases=60,images=1,difficulty=0.2"
STUDY = "files"
LOADERS = {"onnx": "bhsearch.tracking.serving", "openvino": "openvino_image_model"}
# Loads models in a process that cannot import bhsearch or a framework of networks, and predicts pixels.
_ALONE = """
import sys, warnings
from importlib.abc import MetaPathFinder
class Blocked(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {"bhsearch", "keras", "tensorflow", "jax", *sys.argv[4:]}:
            raise ImportError(f"blocked: {name}")
sys.meta_path.insert(0, Blocked())
warnings.simplefilter("ignore")
import numpy as np, mlflow
uris, kind, images = sys.argv[1].split(), sys.argv[2], np.load(sys.argv[3])
for uri in uris:
    if kind == "onnx":
        import mlflow.onnx, onnxruntime
        session = onnxruntime.InferenceSession(mlflow.onnx.load_model(uri).SerializeToString())
        found = session.run(None, {"image": images})[0]
    else:
        found = mlflow.pyfunc.load_model(uri).get_raw_model().predict(images)
    print(found[:, 0].tolist())
"""


@dataclass(frozen=True)
class Made:
    folder: Path
    results: dict[str, RegistrationResult]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    place = cache_of(tmp_path_factory)

    def make(folder: Path) -> Made:
        files = {"onnx": write_onnx(folder / "a", name="a"), "openvino": write_openvino(folder / "b", name="b")}
        state(files["openvino"], license="cc-by-nc-4.0")
        with working_in(folder, place):
            backbones = tuple(map(str, files.values()))
            tracked_search(data=DATA, backbones=backbones, image_size=SIZE, trials=2, study=STUDY)
            found = {kind: registered(RegistrationRequest(STUDY, number)) for number, kind in enumerate(files)}
        return Made(folder, found)

    return made_once(tmp_path_factory, "files", make)


@pytest.fixture(autouse=True)
def _inside(made, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("BHSEARCH_CACHE", cache_of(tmp_path_factory))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{made.folder}/mlflow.db")
    monkeypatch.chdir(made.folder)


@pytest.fixture
def paths() -> list[Path]:
    return open_data(DATA).paths()[:3]


def pixels(paths):
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])


def uri_of(made: Made, kind: str) -> str:
    version = made.results[kind].version
    return f"models:/{version.name}/{version.number}"


@pytest.fixture(scope="module")
def alone(made, tmp_path_factory) -> Callable[[str], list[list[float]]]:
    """What the version and the model of its trial predict without bhsearch, by the format."""
    folder = tmp_path_factory.mktemp("alone")

    @cache
    def predicted(kind: str) -> list[list[float]]:
        np.save(folder / "images.npy", pixels(open_data(DATA).paths()[:3]))
        # An OpenVINO model needs OpenVINO and NumPy alone, an ONNX model ONNX Runtime.
        blocked = ("onnx", "onnxruntime") if kind == "openvino" else ("openvino",)
        uris = f"{uri_of(made, kind)} {made.results[kind].trial.model_uri}"
        words = [sys.executable, "-c", _ALONE, uris, kind, str(folder / "images.npy"), *blocked]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()[-2:]]

    return predicted


@pytest.mark.parametrize("kind", LOADERS)
def test_one_model_predicts_the_same_in_every_way(kind, made, paths, alone):
    mlflow = import_mlflow()
    uri = uri_of(made, kind)
    model = open_model(uri, ProgressReporter())
    bad: list[Any] = []
    rows, _ = predict_all(model, paths, case_of(None), bad, lambda *_: None)
    assert bad == []
    expected = [row.probability for row in rows]
    assert len(set(expected)) == len(expected)
    assert alone(kind)[0] == pytest.approx(expected, abs=1e-4)
    served = mlflow.pyfunc.load_model(uri)
    frame = served.predict(pd.DataFrame({"image": [path.read_bytes() for path in paths]}))
    assert frame["probability"].tolist() == pytest.approx(expected, abs=1e-5)
    assert frame["label"].tolist() == [row.label for row in rows]
    with pytest.raises(Exception, match="Row 0 of the column image is not an image"):
        served.predict(pd.DataFrame({"image": [b"no image"]}))


@pytest.mark.parametrize("kind", LOADERS)
def test_flavours_and_requirements_are_those_of_the_format(kind, made):
    mlflow = import_mlflow()
    folder = Path(mlflow.artifacts.download_artifacts(uri_of(made, kind)))
    description = mlflow.models.Model.load(str(folder))
    assert set(description.flavors) == ({"onnx", "python_function"} if kind == "onnx" else {"python_function"})
    assert description.flavors["python_function"]["loader_module"] == LOADERS[kind]
    needed = {line.partition("==")[0] for line in (folder / "requirements.txt").read_text().split()}
    decoders = {"pillow", "tifffile", "imagecodecs"}
    expected = {"onnx", "onnxruntime", "openvino", *decoders} if kind == "onnx" else {"openvino"}
    assert needed == expected | {"mlflow", "numpy"}
    assert not list(folder.rglob("*.pkl"))


@pytest.mark.parametrize("kind", LOADERS)
def test_the_model_of_a_trial_is_loaded_without_bhsearch(kind, made, paths, alone):
    mlflow = import_mlflow()
    trial = made.results[kind].trial
    found = alone(kind)[1]
    whole = mlflow.pyfunc.load_model(trial.model_uri).predict(pixels(paths))
    values = whole["probability"] if isinstance(whole, dict) else whole
    assert values[:, 0].tolist() == pytest.approx(found, abs=1e-5)


def test_the_licence_is_on_run_version_and_card(made):
    mlflow = import_mlflow()
    client = mlflow.MlflowClient()
    result = made.results["openvino"]
    version = client.get_model_version(result.version.name, result.version.number)
    run = client.get_run(result.trial.run_id)
    assert run.data.tags[keys.LICENCE] == "cc-by-nc-4.0"
    assert "non-commercial" in version.description
    assert "non-commercial" in mlflow.artifacts.load_text(f"runs:/{version.run_id}/card.md")


def test_a_trial_is_trained_again_to_the_same_predictions(made):
    again = reproduce(None, ProgressReporter(), study=STUDY, trial=0)
    assert again.largest < 1e-5


def test_a_changed_file_is_refused_on_resume(made):
    files = (made.folder / "a" / "a.onnx", made.folder / "b" / "b.xml")
    state(files[0], mean=0.45)
    try:
        with pytest.raises(StudyError, match="weights of a: the digest was"):
            search(data=DATA, backbones=tuple(map(str, files)), image_size=SIZE, trials=3, study=STUDY, tracking=True)
    finally:
        state(files[0])
