"""The models in MLflow are those that `mlflow.keras` itself would log."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
import yaml

from bhsearch.models import backend
from bhsearch.models.archive import ArchiveStructure, marker_arrays
from tests.studies import import_mlflow

mlflow = import_mlflow()
from mlflow.models import Model, ModelSignature  # noqa: E402
from mlflow.types import Schema, TensorSpec  # noqa: E402

from bhsearch.tracking.upload.model_log import ModelLog  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
PARAMS = {"backbone": "toy", "hidden_units": 16, "tta": False}
METADATA = {"task": {"name": "binary"}, "use": "Research only."}
SIGNATURE = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
    outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 1))]),
)
# Facts of one model.
OWN = ("artifact_path", "model_id", "model_uuid", "run_id", "utc_time_created")


@pytest.fixture
def archive(tmp_path):
    backend.import_backend()
    import keras

    images = keras.Input((None, None, 3), dtype="uint8")
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(images))
    network = keras.Model(images, keras.layers.Dense(1, activation="sigmoid", name="head")(features))
    markers = marker_arrays([((3, 1), np.float32), ((1,), np.float32)])
    network.get_layer("head").set_weights(markers)
    network.save(tmp_path / "m.keras")
    structure = ArchiveStructure.of_file(tmp_path / "m.keras", markers)
    return structure.filled([np.ones((3, 1), np.float32), np.zeros(1, np.float32)])


@pytest.fixture
def experiment(client, tmp_path):
    return client.create_experiment("e", (tmp_path / "mlruns" / "e").as_uri())


def requirements() -> list[str]:
    return [f"{name}=={importlib.metadata.version(name)}" for name in ("keras", "numpy")]


def run_of(client, experiment):
    run_id = client.create_run(experiment).info.run_id
    for name, value in PARAMS.items():
        client.log_param(run_id, name, value)
    return run_id


def files_of(model) -> dict[str, bytes]:
    folder = Path(model.artifact_location.removeprefix("file://"))
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_model_is_what_mlflow_itself_would_log(client, experiment, archive):
    mlflow.set_experiment(experiment_id=experiment)
    run_id, other_run_id = run_of(client, experiment), run_of(client, experiment)
    model_id = ModelLog(client, experiment, requirements(), METADATA).log(run_id, PARAMS, archive)
    reference = Model.log(
        artifact_path=None,
        flavor=mlflow.keras,
        model=archive,
        name="model",
        run_id=other_run_id,
        signature=SIGNATURE,
        pip_requirements=requirements(),
        metadata=METADATA,
    )
    found, expected = client.get_logged_model(model_id), client.get_logged_model(reference.model_id)
    for name in ("name", "status", "params", "tags", "model_type", "experiment_id"):
        assert getattr(found, name) == getattr(expected, name)
    assert (found.source_run_id, expected.source_run_id) == (run_id, other_run_id)
    outputs = [client.get_run(each).outputs.model_outputs for each in (run_id, other_run_id)]
    assert [[(one.model_id, one.step) for one in each] for each in outputs] == [
        [(model_id, 0)],
        [(expected.model_id, 0)],
    ]

    files, others = files_of(found), files_of(expected)
    assert set(files) == set(others) >= {"MLmodel", "data/model.keras", "requirements.txt"}
    for name in set(files) - {"MLmodel", "data/model.keras"}:
        assert files[name] == others[name]
    described, reference_description = (yaml.safe_load(each["MLmodel"]) for each in (files, others))
    assert described["flavors"]["keras"].pop("keras_backend") == "openvino"
    assert reference_description["flavors"]["keras"].pop("keras_backend") == backend.name()
    assert list(described) == list(reference_description)
    same = {name: value for name, value in described.items() if name not in OWN}
    assert same == {name: value for name, value in reference_description.items() if name not in OWN}
    assert described["artifact_path"] == found.artifact_location
    assert {described["model_id"], described["model_uuid"]} == {model_id}


def test_a_logged_model_loads_and_predicts(client, experiment, archive):
    models = ModelLog(client, experiment, requirements(), METADATA)
    images = np.full((2, 4, 5, 3), 51, np.uint8)
    for _ in range(2):  # the second reuses what was prepared for the first
        model_id = models.log(run_of(client, experiment), PARAMS, archive)
        network = mlflow.keras.load_model(f"models:/{model_id}")
        assert network.predict_on_batch(images) == pytest.approx(1 / (1 + np.exp(-3 * 0.2)), abs=1e-6)
        served = mlflow.pyfunc.load_model(f"models:/{model_id}")
        assert served.predict(images) == pytest.approx(1 / (1 + np.exp(-3 * 0.2)), abs=1e-6)
        assert served.metadata.metadata == METADATA
