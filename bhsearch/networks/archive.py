"""A `.keras` archive whose heads are exchanged in place: the trials of a shape differ in nothing else.

Keras saves a network by walking all its layers and writing its whole configuration, a tenth of a second a trial for
what is the same each time. So it is asked once a shape, with heads that can be recognised; afterwards only the numbers
of the heads are written over.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
_WEIGHTS = "model.weights.h5"


class Archive:
    """The archive of one network, ready to get the weights of some of its layers.

    Args:
        network: A built Keras network.
        layers: Names of the layers whose weights will be given.

    Raises:
        ValueError: If the archive does not hold each of their weights exactly once.
    """

    def __init__(self, network: Any, layers: Sequence[str]) -> None:
        random = np.random.default_rng(0)
        marks = []
        for name in layers:
            layer = network.get_layer(name)
            layer.set_weights([random.normal(size=weight.shape).astype(np.float32) for weight in layer.weights])
            marks += layer.get_weights()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "network.keras"
            network.save(file)
            with zipfile.ZipFile(file) as archive:
                self._members = {info.filename: archive.read(info) for info in archive.infolist()}
        self._places = _find(self._members[_WEIGHTS], marks)

    def filled(self, weights: Sequence[Array]) -> Filled:
        """The archive with these weights, in the order of the layers and of the weights in each."""
        kept = io.BytesIO(self._members[_WEIGHTS])
        with h5py.File(kept, "r+") as file:
            for place, values in zip(self._places, weights, strict=True):
                file[place][...] = values
        return Filled(self._members | {_WEIGHTS: kept.getvalue()})


class Filled:
    """Stands for a network where one only wants to save it.

    Args:
        members: Content per member of the archive.
    """

    def __init__(self, members: dict[str, bytes]) -> None:
        self._members = members

    def save(self, file: str | Path) -> None:
        """Write the archive, as the network's own `save` would."""
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in self._members.items():
                archive.writestr(zipfile.ZipInfo(name), content)


def _find(content: bytes, marks: Sequence[Array]) -> list[str]:
    """Where arrays lie in a file of weights; by their numbers, as Keras is free to name them as it likes."""
    found: list[list[str]] = [[] for _ in marks]

    def compare(name: str, item: Any) -> None:
        for places, mark in zip(found, marks, strict=True):
            if isinstance(item, h5py.Dataset) and item.shape == mark.shape and np.array_equal(item[()], mark):
                places.append(name)

    with h5py.File(io.BytesIO(content), "r") as file:
        file.visititems(compare)
    if any(len(places) != 1 for places in found):
        raise ValueError(f"Each weight of a head must lie once in the archive, but they lie at {found}.")
    return [places[0] for places in found]
