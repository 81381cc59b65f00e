"""Save and serve a registered model, which predicts from the bytes of image files.

The model folder contains a Keras file, but neither code nor pickles. The pyfunc flavour names this module as the
loader, so bhsearch must be installed wherever the model is served. The Keras flavour loads the same file without
bhsearch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow.keras
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.types import ColSpec, Schema, TensorSpec

from bhsearch.data.arrays import Pixels
from bhsearch.data.images.decode import decode_bytes
from bhsearch.errors import DataError
from bhsearch.models import backend
from bhsearch.models.calibrated import load_network, predict_images, predict_vectors
from bhsearch.models.deployed_parts import takes_vectors
from bhsearch.models.graphs.network import GraphNetwork
from bhsearch.tasks import restore_task
from bhsearch.tracking.flavours import graphs
from bhsearch.tracking.model_files import metadata_of, network_file

IMAGE = "image"
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("binary", IMAGE)]),
    outputs=Schema([ColSpec("double", "probability"), ColSpec("string", "label")]),
)
# Commands shown in the documentation; a test runs them.
SERVE = "mlflow models serve -m models:/{name}@{alias} --env-manager local --port 5001"
CURL = (
    """printf '{"dataframe_records": [{"image": "%s"}]}' "$(base64 < IMAGE.png | tr -d '\\n')" |"""
    " curl -s -H 'Content-Type: application/json' --data @- http://127.0.0.1:5001/invocations"
)
_ARRAYS = ModelSignature(inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]))


def save_model(
    path: str, mlflow_model: Model, network: Any, requirements: list[str], files: Mapping[str, bytes] | None = None
) -> None:
    """Write the folder of an MLflow model. Called by `mlflow.models.Model.log`.

    Args:
        path: Folder to write.
        mlflow_model: MLflow model, to which flavours and signature are added.
        network: Model from uint8 RGB, or from vectors, to calibrated P(malignant).
        requirements: pip requirements. bhsearch must not be among them: it is on no package index, so anyone who
            claimed the name there could run code wherever these requirements are installed.
        files: Content of further files, by name.
    """
    if isinstance(network, GraphNetwork):
        _save_graph(path, mlflow_model, network, files or {})
        return
    arrays, served = _ARRAYS, SIGNATURE
    if takes_vectors(network):
        vectors = Schema([TensorSpec(np.dtype(np.float32), (-1, network.input_shape[1]))])
        arrays, served = ModelSignature(inputs=vectors), ModelSignature(inputs=vectors, outputs=SIGNATURE.outputs)
    mlflow.keras.save_model(network, path, mlflow_model=mlflow_model, signature=arrays, pip_requirements=requirements)
    for name, content in (files or {}).items():
        (Path(path) / name).write_bytes(content)
    mlflow_model.signature = served
    mlflow_model.flavors["python_function"]["loader_module"] = __name__
    mlflow_model.save(str(Path(path) / MLMODEL_FILE_NAME))


def _save_graph(path: str, mlflow_model: Model, network: GraphNetwork, files: Mapping[str, bytes]) -> None:
    """Write the folder of a registered model that is a graph."""
    folder, metadata = Path(path), mlflow_model.metadata or {}
    class_names = restore_task(metadata.get("task")).class_names
    labels = {"threshold": float(metadata["threshold"]), "class_names": list(class_names)}
    environment = graphs.environment_files(graphs.requirements_of(network, registered=True))
    for name, content in {**environment, **files}.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    graphs.write_graph(folder, mlflow_model, network, __name__, labels)
    mlflow_model.signature = SIGNATURE
    mlflow_model.save(str(folder / MLMODEL_FILE_NAME))


class ServedModel:
    """A registered model with MLflow's pyfunc interface.

    Args:
        network: Model from uint8 RGB, or from vectors, to P(malignant).
        threshold: Smallest probability that is labelled malignant.
        class_names: Names of the classes.
    """

    def __init__(self, network: Any, threshold: float, class_names: tuple[str, ...]) -> None:
        self._network, self._threshold, self._class_names = network, threshold, class_names

    def predict(self, frame: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:  # noqa: ARG002
        """Return probability and label of each image.

        Args:
            frame: Data frame with the column `image`, the bytes of image files of any supported format and any size;
                for a model that takes vectors, a float32 array of shape (n_images, n_features).
            params: Ignored; required by MLflow.

        Returns:
            Columns `probability` and `label`, with the index of `frame`.

        Raises:
            MlflowException: If a row is not an image, or a vector is not finite; a server then answers with status 400.
        """
        if takes_vectors(self._network):
            vectors = np.asarray(frame, np.float32)
            if not np.isfinite(vectors).all():
                raise MlflowException("The vectors must be finite numbers.", INVALID_PARAMETER_VALUE)
            return self._table(list(predict_vectors(self._network, vectors)), None)
        return self._table(list(predict_images(self._network, _decoded(frame[IMAGE]))), frame.index)

    def _table(self, probability: list[float], index: Any) -> pd.DataFrame:
        labels = [self._class_names[p >= self._threshold] for p in probability]
        return pd.DataFrame({"probability": probability, "label": labels}, index=index)


def _decoded(column: Any) -> Iterator[Pixels]:
    for row, data in enumerate(column):
        try:
            yield decode_bytes(bytes(data))
        except (DataError, TypeError, ValueError) as error:
            raise MlflowException(
                f"Row {row} of the column {IMAGE} is not an image: {error}. Give the bytes of an image file (base64 in "
                "JSON).",
                INVALID_PARAMETER_VALUE,
            ) from error


def _load_pyfunc(path: str) -> ServedModel:
    """Load a model from its folder. Called by `mlflow.pyfunc.load_model`."""
    folder = Path(path)
    file = network_file(folder)
    if file.suffix == ".keras":
        backend.import_backend()
    metadata = metadata_of(folder)
    class_names = restore_task(metadata.get("task")).class_names
    return ServedModel(load_network(file), float(metadata["threshold"]), class_names)
