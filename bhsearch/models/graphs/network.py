"""Deployed models that are ONNX graphs or OpenVINO models, run on a CPU with OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.arrays import Pixels
from bhsearch.errors import RunError
from bhsearch.models.graphs.deployed import FEATURES, PROBABILITY, UNCALIBRATED, AnyGraph, calibrate
from bhsearch.models.graphs.onnx_graph import OnnxGraph
from bhsearch.models.graphs.openvino_graph import OpenvinoGraph

SUFFIXES = (OnnxGraph.suffix, OpenvinoGraph.suffix)
# By default, OpenVINO uses bfloat16 on processors that support it, which changes predictions by about 0.01.
_PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}


class GraphNetwork:
    """A deployed model as a graph, which predicts like a Keras network.

    Args:
        graph: Graph from uint8 RGB, shape (batch, height, width, 3), to `probability`, shape (batch, 1).
        outputs: Names of the tensors that `predict_on_batch` returns.
    """

    def __init__(self, graph: AnyGraph, outputs: tuple[str, ...] = (PROBABILITY,)) -> None:
        self.graph, self._outputs = graph, outputs
        self._program: Any = None

    @classmethod
    def load(cls, file: Path) -> GraphNetwork:
        """Read a deployed model from an `.onnx` or `.xml` file.

        Raises:
            RunError: If the file cannot be read.
        """
        try:
            kind = OnnxGraph if file.suffix == OnnxGraph.suffix else OpenvinoGraph
            return cls(kind.read(file))
        except ImportError as error:
            raise RunError(
                f"Cannot load the model {file}: {error}. Install the extra: pip install 'bhsearch[onnx]'."
            ) from error
        except Exception as error:  # damaged files raise many types
            reason = (str(error) or repr(error)).strip().split("\n", 1)[0]
            raise RunError(f"Cannot load the model {file}: {reason}") from error

    @property
    def is_onnx(self) -> bool:
        """Whether the model is an ONNX graph, or else an OpenVINO model."""
        return isinstance(self.graph, OnnxGraph)

    def calibrated(self, slope: float, offset: float) -> GraphNetwork:
        """Return the model with a linear calibration of the logit; see `deployed.calibrate`."""
        graph = self.graph.copy()
        calibrate(graph, slope, offset)
        return GraphNetwork(graph)

    def with_features(self) -> GraphNetwork:
        """Return the calibrated model with the outputs of `deployed_parts.with_features`."""
        return GraphNetwork(self.graph, (PROBABILITY, UNCALIBRATED, FEATURES))

    def write(self, file: Path) -> None:
        """Write the model to a file with the suffix of its format; weights may be in a file beside it."""
        self.graph.write(file)

    def write_openvino(self, file: Path) -> None:
        """Write the model as an OpenVINO model, whichever format it has."""
        OpenvinoGraph(self.graph.openvino()).write(file)

    def predict_on_batch(self, images: Pixels) -> Any:
        """Return the outputs for a batch: an array, or a list of arrays if the model has several outputs.

        Args:
            images: uint8 RGB. Shape (batch, height, width, 3).
        """
        if self._program is None:
            self._program = _compiled(self.graph, self._outputs)
        request = self._program.create_infer_request()  # one for each call, so that threads can share the model
        request.infer({0: np.ascontiguousarray(images)})
        found: list[npt.NDArray[np.float32]] = [np.array(request.get_tensor(name).data) for name in self._outputs]
        return found if len(found) > 1 else found[0]


def _compiled(graph: AnyGraph, outputs: tuple[str, ...]) -> Any:
    import openvino

    model = graph.openvino()
    if len(outputs) > 1:
        model = model.clone()
        model.add_outputs([name for name in outputs if name != PROBABILITY])
    return openvino.Core().compile_model(model, "CPU", _PRECISION)
