"""Loader of a deployed OpenVINO model, which is copied into the folder of the model in MLflow.

It needs only OpenVINO and NumPy for arrays of pixels. Files of images are decoded by bhsearch, if that is installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino

MODEL, LABELS = "model.xml", "labels.json"


class OpenvinoModel:
    """A deployed model with MLflow's pyfunc interface.

    Args:
        folder: Folder with the OpenVINO model, and with its threshold and class names if it is a registered model.
    """

    def __init__(self, folder: Path) -> None:
        # By default, OpenVINO uses bfloat16 on processors that support it, which changes predictions by about 0.01.
        self._program = openvino.Core().compile_model(folder / MODEL, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        labels = folder / LABELS
        self._labels = json.loads(labels.read_text(encoding="utf-8")) if labels.is_file() else None

    def predict_on_batch(self, images: Any) -> Any:
        """Return P(malignant) of a batch. Shape (batch, 1).

        Args:
            images: uint8 RGB. Shape (batch, height, width, 3).
        """
        request = self._program.create_infer_request()  # one for each call, so that threads can share the model
        request.infer({0: np.ascontiguousarray(images, np.uint8)})
        return np.array(request.get_output_tensor(0).data)

    def predict(self, given: Any, params: dict[str, Any] | None = None) -> Any:  # noqa: ARG002  # of MLflow
        """Return P(malignant), shape (batch, 1), for pixels; probability and label for files of images.

        Args:
            given: uint8 RGB, shape (batch, height, width, 3), or a data frame with the bytes of files, column `image`.
            params: Ignored; required by MLflow.

        Raises:
            RuntimeError: If files of images are given and bhsearch is not installed.
            ValueError: If a row is not an image; a server then answers with status 400.
        """
        if self._labels is None or isinstance(given, np.ndarray):
            return self.predict_on_batch(given)
        try:
            from bhsearch.data.images.decode import decode_bytes
            from bhsearch.models.calibrated import predict_images
        except ImportError as error:
            raise RuntimeError(
                "Files of images are decoded by bhsearch, which is not installed. Install it, or predict pixels: "
                "`model.get_raw_model().predict(images)` takes uint8 RGB of shape (batch, height, width, 3)."
            ) from error

        def decoded() -> Iterator[Any]:
            for row, data in enumerate(given["image"]):
                try:
                    yield decode_bytes(bytes(data))
                except Exception as error:  # an error of bhsearch, or a value of another type
                    raise ValueError(
                        f"Row {row} of the column image is not an image: {error}. Give the bytes of an image file "
                        "(base64 in JSON)."
                    ) from error

        probability = list(predict_images(self, decoded()))
        names = [self._labels["class_names"][p >= self._labels["threshold"]] for p in probability]
        return type(given)({"probability": probability, "label": names}, index=given.index)

    def get_raw_model(self) -> OpenvinoModel:
        """Return the model without MLflow's checks of the input. Called by `PyFuncModel.get_raw_model`."""
        return self


def _load_pyfunc(path: str) -> OpenvinoModel:
    """Load a model from its folder. Called by `mlflow.pyfunc.load_model`."""
    return OpenvinoModel(Path(path))
