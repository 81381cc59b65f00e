"""Download MLflow models and artifacts."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.models.model import MLMODEL_FILE_NAME

from bhsearch.errors import MissingError, RunError
from bhsearch.tasks import restore_task
from bhsearch.tracking.flavours import graphs
from bhsearch.tracking.requests import call_with_retry


def download(uri: str) -> Path:
    """Return the local folder of an MLflow model, which is a temporary copy if the store is remote.

    Raises:
        MissingError: If the model does not exist.
        StudyError: If the store refuses the request.
        RunError: If the store stays unavailable.
    """
    try:
        return Path(call_with_retry(mlflow.artifacts.download_artifacts, uri))
    except MissingError as error:
        raise MissingError(f"The MLflow store has no model {uri!r}: {error}") from error


def class_names_of(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes from the metadata of a registered model."""
    return restore_task(metadata.get("task")).class_names


def read_bytes(root: str, path: str) -> bytes:
    """Return the content of an artifact.

    Args:
        root: URI of the artifact folder of a run.
        path: Path of the artifact, relative to `root`.

    Raises:
        MissingError: If the artifact is not listed in its folder.
        StudyError: If the store refuses the request.
        RunError: If the store stays unavailable.
    """

    def read() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            try:
                return Path(mlflow.artifacts.download_artifacts(f"{root}/{path}", dst_path=folder)).read_bytes()
            except (MlflowException, OSError) as error:
                failure = error
        # MLflow reports many causes of a failed download with one message, so the listing decides whether it exists.
        if not _is_listed(root, path):
            raise MissingError(f"The run has no artifact {path}")
        raise failure

    return call_with_retry(read)


def _is_listed(root: str, path: str) -> bool:
    parent, _, name = path.rpartition("/")
    files = mlflow.artifacts.list_artifacts(f"{root}/{parent}" if parent else root)
    return name in {item.path.rpartition("/")[2] for item in files}


def network_file(folder: Path) -> Path:
    """Return the path of the `.keras`, `.onnx` or `.xml` file in an MLflow model folder.

    Raises:
        RunError: If the folder contains none.
    """
    flavors = _description(folder).flavors
    graph = graphs.file_in(folder, flavors)
    if graph is not None:
        return graph
    conf = flavors.get("keras")
    file = folder / str((conf or {}).get("data", "data")) / "model.keras"
    if conf is None or not file.is_file():
        raise RunError(f"The MLflow model in {folder} contains no Keras, ONNX or OpenVINO model file.")
    return file


def metadata_of(folder: Path) -> dict[str, Any]:
    """Return the metadata that was logged with an MLflow model."""
    return dict(_description(folder).metadata or {})


def run_of(folder: Path) -> str:
    """Return the id of the run from which an MLflow model was logged; empty if it is unknown."""
    return str(_description(folder).run_id or "")


def _description(folder: Path) -> Model:
    if not (folder / MLMODEL_FILE_NAME).is_file():
        raise RunError(f"The folder {folder} is not an MLflow model: it contains no file {MLMODEL_FILE_NAME}.")
    return Model.load(str(folder))


def read_text(root: str, path: str) -> str:
    """Return the content of a UTF-8 artifact as text; see `read_bytes` for arguments and errors."""
    return read_bytes(root, path).decode("utf-8")
