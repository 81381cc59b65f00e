"""Log the models of trials to MLflow, with what is equal for all models of a study prepared once.

For each model, `mlflow.keras.log_model` imports Keras, checks the installed requirements, and queries the run. This
module writes the same files and records without these steps.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mlflow.entities import LoggedModelOutput
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking.context.registry import resolve_tags
from mlflow.types import Schema, TensorSpec

from bhsearch.models.archive import ModelArchive
from bhsearch.models.graphs.network import GraphNetwork
from bhsearch.tracking.flavours import graphs

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME = "model"
VECTORS = "vectors"  # key of the metadata: which file the vectors are from that the model takes
_IMAGES = TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))
_PROBABILITY = TensorSpec(np.dtype(np.float32), (-1, 1))
_LOADER = "mlflow.keras"
_ENVIRONMENT = {"conda_env": "conda.yaml", "python_env": "python_env.yaml"}
_DATA, _FILE, _MODULE = "data", "model.keras", "keras_module.txt"  # as `mlflow.keras` reads them


class ModelLog:
    """The models of one study in MLflow.

    Args:
        client: Client of the MLflow store.
        experiment_id: Experiment of the study.
        requirements: Requirements of the models, for pip.
        metadata: Metadata of the models.
    """

    def __init__(
        self, client: MlflowClient, experiment_id: str, requirements: Sequence[str], metadata: Mapping[str, Any]
    ) -> None:
        self._client, self._experiment_id = client, experiment_id
        self._requirements, self._metadata = list(requirements), dict(metadata)
        self._environments: dict[tuple[str, ...], dict[str, bytes]] = {}  # files by name, by requirements
        self._tags: dict[str, str] = {}

    def log(
        self,
        run_id: str,
        params: Mapping[str, Any],
        archive: ModelArchive | GraphNetwork,
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """Log the model of a run, and return the model's id.

        Args:
            run_id: Run of the trial.
            params: Parameters of the trial.
            archive: The model as a `.keras` file or as a graph.
            metadata: Further metadata of this model; `VECTORS` tells which file the vectors are from that it takes.
        """
        if not self._tags:
            self._tags = resolve_tags()
        model = self._client.create_logged_model(
            self._experiment_id, NAME, run_id, self._tags, {name: str(value) for name, value in params.items()}
        )
        self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        with tempfile.TemporaryDirectory() as place:
            merged = {**self._metadata, **(metadata or {})}
            if isinstance(archive, ModelArchive):
                self._write(Path(place), model, archive, merged)
            else:
                self._write_graph(Path(place), model, archive, merged)
            log_folder(model.artifact_location, Path(place), self._client)
        self._client.finalize_logged_model(model.model_id, "READY")
        return str(model.model_id)

    def _write(self, folder: Path, model: Any, archive: ModelArchive, metadata: dict[str, Any]) -> None:
        data = folder / _DATA
        data.mkdir()
        (data / _MODULE).write_text("keras", encoding="utf-8")
        archive.save(data / _FILE)
        description = self._description(model, metadata)
        description.model_size_bytes = sum(file.stat().st_size for file in data.iterdir())
        description.add_flavor(
            "keras",
            data=_DATA,
            keras_version=archive.keras_version,
            keras_backend="openvino",  # of the process that can build the structure; the model runs on any backend
            save_exported_model=False,
        )
        graphs.pyfunc().add_to_model(description, loader_module=_LOADER, **_ENVIRONMENT)
        self._write_description(folder, description, self._requirements)

    def _write_graph(self, folder: Path, model: Any, network: GraphNetwork, metadata: dict[str, Any]) -> None:
        description = self._description(model, metadata)
        graphs.write_graph(folder, description, network, graphs.loader_of(network))
        self._write_description(folder, description, graphs.requirements_of(network, registered=False))

    def _description(self, model: Any, metadata: dict[str, Any]) -> Model:
        vectors = metadata.get(VECTORS)
        entry = _IMAGES if vectors is None else TensorSpec(np.dtype(np.float32), (-1, vectors["n_features"]))
        return Model(
            artifact_path=model.artifact_location,
            run_id=model.source_run_id,
            signature=ModelSignature(inputs=Schema([entry]), outputs=Schema([_PROBABILITY])),
            model_uuid=model.model_id,
            model_id=model.model_id,
            metadata=metadata,
        )

    def _write_description(self, folder: Path, description: Model, requirements: Sequence[str]) -> None:
        description.save(folder / MLMODEL_FILE_NAME)
        key = tuple(requirements)
        if key not in self._environments:
            self._environments[key] = graphs.environment_files(requirements)
        for name, content in self._environments[key].items():
            (folder / name).write_bytes(content)


def log_folder(uri: str, folder: Path, client: MlflowClient) -> None:
    """Upload the files of a folder to an artifact folder.

    The methods of the client would read the run or the model back to learn its artifact folder.

    Args:
        uri: Artifact folder of a run or of a model.
        folder: Local folder.
        client: Client of the MLflow store.
    """
    files = get_artifact_repository(uri, client.tracking_uri)
    files.log_artifacts(str(folder))  # type: ignore[no-untyped-call]
