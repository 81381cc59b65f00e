"""Parts of a deployed model: the network before calibration, the encoder, and its features."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.models.graphs.network import GraphNetwork


def is_network(layer: Any) -> bool:
    """Return whether a layer is a network, such as a backbone."""
    import keras

    return isinstance(layer, keras.Model)


class RecordedCalls:
    """Symbolic inputs and outputs of all layers of a network, recorded by calling the network on new inputs.

    Args:
        network: Functional model. Layers are shared with the model, not copied.
    """

    def __init__(self, network: Any) -> None:
        import keras

        self._seen: dict[int, tuple[Any, Any]] = {}
        self.order: list[tuple[Any, Any]] = []

        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            output = layer(*args, **kwargs)
            self._seen[id(layer)] = (args[0] if args else None, output)
            self.order.append((layer, output))
            return output

        again = keras.models.clone_model(network, clone_function=lambda layer: layer, call_function=call)
        self.inputs, self.outputs = again.inputs, again.outputs

    def of(self, layer: Any) -> tuple[Any, Any]:
        """Return the symbolic input and output of a layer."""
        return self._seen[id(layer)]


def uncalibrated_layer(network: Any) -> Any | None:
    """Return the network before calibration, which is a layer of a calibrated model; None for other networks."""
    kind = network.inputs[0].dtype
    inside = (layer for layer in network.layers if is_network(layer) and layer.inputs[0].dtype == kind)
    return next(inside, None)


def takes_vectors(network: Any) -> bool:
    """Return whether a model takes vectors, shape (batch, n_features), instead of images."""
    return not isinstance(network, GraphNetwork) and len(network.input_shape) == 2


def with_features(network: Any) -> Any:
    """Return a model that shares the layers of a registered model, and also returns what is computed on the way.

    Args:
        network: Model from `calibrated.calibrated`, or a registered model that was loaded.

    Returns:
        A model from uint8 RGB, shape (batch, height, width, 3), or vectors, to calibrated P(malignant), shape
        (batch, 1), P(malignant) before calibration, shape (batch, 1), and the output of the encoder, shape
        (n_views * batch * n_tiles, n_features). The encoder of an ensemble of fine-tuned networks is that of the first
        member.

    Raises:
        ValueError: If the network is not a calibrated model with an encoder.
    """
    if isinstance(network, GraphNetwork):
        return network.with_features()
    import keras

    deployed = uncalibrated_layer(network)
    encoders = [] if deployed is None else [layer for layer in deployed.layers if is_network(layer)]
    if not encoders:
        raise ValueError(f"A registered model must contain an encoder, but {network.name!r} does not.")
    inside = RecordedCalls(deployed)
    both = keras.Model(inside.inputs[0], [inside.outputs[0], inside.of(encoders[0])[1]])
    between: list[Any] = []

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if layer is not deployed:
            return layer(*args, **kwargs)
        between.extend(both(args[0]))
        return between[0]

    again = keras.models.clone_model(network, clone_function=lambda layer: layer, call_function=call)
    return keras.Model(again.inputs[0], [again.outputs[0], *between])


def features_per_image(rows: npt.NDArray[Any], n_images: int, n_tiles: int) -> npt.NDArray[np.float32]:
    """Return the features of each image: those of the first view, which is the image itself, averaged over tiles.

    Args:
        rows: Output of the encoder, from `with_features`. Shape (n_views * n_images * n_tiles, n_features).
        n_images: Number of images of the batch.
        n_tiles: Number of tiles per image; see `resize.grid_of`.

    Returns:
        Features. Shape (n_images, n_features).
    """
    by_view = np.asarray(rows, np.float32).reshape(-1, n_images, n_tiles, rows.shape[-1])
    return np.asarray(by_view[0].mean(axis=1))
