"""Files and flavours of deployed ONNX graphs and OpenVINO models in MLflow."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from mlflow.models import Model
from mlflow.models.model import MLMODEL_FILE_NAME

from bhsearch.models.graphs import standalone_file
from bhsearch.models.graphs.network import GraphNetwork

ONNX = "onnx"
_ONNX_FILE = "model.onnx"  # in the folder of the model, where `mlflow.onnx` expects it
_DATA, _CODE = "data", "code"
_IR_FILE, _LABELS = "model.xml", "labels.json"  # as in `models.graphs.standalone`
_LOADER = "openvino_image_model"  # name of the loader's module in the folder of the model
_PROVIDERS = ["CUDAExecutionProvider", "CPUExecutionProvider"]  # as `mlflow.onnx.save_model` writes
_ENVIRONMENT = {"conda_env": "conda.yaml", "python_env": "python_env.yaml"}
_DECODERS = ("pillow", "tifffile", "imagecodecs")


def requirements_of(network: GraphNetwork, registered: bool) -> list[str]:
    """Return the pip requirements that load a model, and for a registered ONNX model those that serve it."""
    names = ["onnx", "onnxruntime", "numpy"] if network.is_onnx else ["openvino", "numpy"]
    if registered and network.is_onnx:
        names += ["openvino", *_DECODERS]
    return [f"{name}=={metadata.version(name)}" for name in names]


def loader_of(network: GraphNetwork) -> str:
    """Return the module that loads a trial's model as a pyfunc, without bhsearch."""
    return "mlflow.onnx" if network.is_onnx else _LOADER


def write_graph(
    folder: Path, description: Model, network: GraphNetwork, loader: str, labels: Mapping[str, Any] | None = None
) -> None:
    """Write the files of a model, and add its flavours to the description.

    Args:
        folder: Folder of the model.
        description: Description of the model, which is not saved here.
        network: The model.
        loader: Module that loads an ONNX model as a pyfunc. An OpenVINO model contains its own loader.
        labels: `threshold` and `class_names` of a registered model.
    """
    if network.is_onnx:
        network.write(folder / _ONNX_FILE)
        description.add_flavor(
            ONNX,
            onnx_version=metadata.version("onnx"),
            data=_ONNX_FILE,
            providers=_PROVIDERS,
            onnx_session_options=None,
            code=None,
        )
        data = {"data": _ONNX_FILE} if loader == loader_of(network) else {}
        pyfunc().add_to_model(description, loader_module=loader, **data, **_ENVIRONMENT)
    else:
        for name in (_DATA, _CODE):
            (folder / name).mkdir()
        network.write(folder / _DATA / _IR_FILE)
        if labels is not None:
            (folder / _DATA / _LABELS).write_text(json.dumps(dict(labels)), encoding="utf-8")
        shutil.copyfile(standalone_file(), folder / _CODE / f"{_LOADER}.py")
        pyfunc().add_to_model(description, loader_module=_LOADER, data=_DATA, code=_CODE, **_ENVIRONMENT)
    description.model_size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def file_in(folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
    """Return the file of a graph in the folder of an MLflow model; None if it contains no graph."""
    places: Sequence[Path] = []
    if ONNX in flavors:
        places = [folder / str(flavors[ONNX]["data"])]
    elif flavors.get("python_function", {}).get("loader_module") == _LOADER:
        places = [folder / _DATA / _IR_FILE]
    return next((file for file in places if file.is_file()), None)


def pyfunc() -> Any:
    """Import and return `mlflow.pyfunc`, which takes a second and warns of its own type hints."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        import mlflow.pyfunc
    return mlflow.pyfunc


def environment_files(requirements: Sequence[str]) -> dict[str, bytes]:
    """Return the files of a model that describe its Python environment, by name, as MLflow writes them."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        pyfunc().save_model(folder, loader_module="mlflow.keras", pip_requirements=list(requirements))
        return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != MLMODEL_FILE_NAME}
