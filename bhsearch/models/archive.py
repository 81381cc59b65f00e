"""Archives of deployed models: `.keras` files that are filled with the weights of a trial, without Keras.

A `.keras` file is a zip archive of the configuration, metadata and an HDF5 file of the weights. All models of one
architecture differ only in some of the weights, so a stored structure and the weights of a trial make the file.
"""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_WEIGHTS, _METADATA = "model.weights.h5", "metadata.json"
_PLACES = "places.json"
_Key = tuple[tuple[int, ...], str, bytes]


@dataclass(frozen=True)
class Place:
    """The place of one array in the weights file.

    Attributes:
        path: Path of the data set in the HDF5 file.
        array: Index of the array.
        shape: Shape of the array.
        dtype: Type of the array, as `numpy.dtype.str`.
    """

    path: str
    array: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class ArchiveStructure:
    """Content of a `.keras` file, without the arrays that are filled in.

    Attributes:
        members: Content of the members of the zip archive by name. The weights file lacks the arrays in `places`.
        places: Places of the arrays.
    """

    members: dict[str, bytes]
    places: Sequence[Place]

    @classmethod
    def of_file(cls, file: Path, markers: Sequence[Array], constants: Sequence[Array] = ()) -> ArchiveStructure:
        """Return the structure of a `.keras` file.

        Arrays are found by their values, since Keras does not specify their names in the file.

        Args:
            file: The `.keras` file.
            markers: Arrays in the file that differ between models, each with values that no other array has.
            constants: Further arrays that are left out of the structure where they are in the file, because many
                structures share them. Their indices in `places` follow those of the markers.

        Raises:
            ValueError: If a marker is not in the file exactly once.
        """
        with zipfile.ZipFile(file) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
        skeleton, places = _without(members[_WEIGHTS], [*markers, *constants])
        counts = np.bincount([place.array for place in places], minlength=len(markers))[: len(markers)]
        if (counts != 1).any():
            wrong = np.flatnonzero(counts != 1).tolist()
            raise ValueError(f"Each weight must be in {file.name} exactly once, but these are not: {wrong}.")
        return cls(members | {_WEIGHTS: skeleton}, places)

    def write(self, folder: Path) -> None:
        """Write the structure into an empty folder."""
        for name, content in self.members.items():
            (folder / name).write_bytes(content)
        rows = [[place.path, place.array, place.shape, place.dtype] for place in self.places]
        order = list(self.members)  # of the members in the archive
        (folder / _PLACES).write_text(json.dumps({"members": order, "places": rows}), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> ArchiveStructure:
        """Return the structure that `write` has written into a folder."""
        content = json.loads((folder / _PLACES).read_text(encoding="utf-8"))
        places = [Place(path, array, tuple(shape), dtype) for path, array, shape, dtype in content["places"]]
        return cls({name: (folder / name).read_bytes() for name in content["members"]}, places)

    def filled(self, arrays: Sequence[Array]) -> ModelArchive:
        """Return the archive with all arrays filled in.

        Args:
            arrays: The arrays in the order of `of_file`: those of the markers, then the constants.

        Raises:
            ValueError: If an array is missing or has another shape.
        """
        content = io.BytesIO(self.members[_WEIGHTS])
        with h5py.File(content, "r+") as file:
            for place in self.places:
                file.create_dataset(place.path, data=_fitting(place, arrays))
            file.flush()
            offsets = {place.array: file[place.path].id.get_offset() for place in self.places}
        return ModelArchive(self.members, content.getvalue(), self.places, offsets)


@dataclass(frozen=True, eq=False)
class ModelArchive:
    """A complete `.keras` file in memory.

    Attributes:
        members: Content of the members of the zip archive by name, except for the weights.
        weights: Content of the weights file.
        places: Places of the arrays that were filled in.
        offsets: Position of each array in the weights file, in bytes; None for an array that HDF5 does not store in
            one piece.
    """

    members: dict[str, bytes]
    weights: bytes
    places: Sequence[Place]
    offsets: Mapping[int, int | None]

    @property
    def keras_version(self) -> str:
        """Version of Keras that wrote the configuration."""
        return str(json.loads(self.members[_METADATA])["keras_version"])

    def refilled(self, arrays: Sequence[Array]) -> ModelArchive:
        """Return the archive with the first arrays replaced, which takes a fraction of the time of a new one.

        Args:
            arrays: New values of the first arrays.

        Raises:
            ValueError: If an array has another shape.
        """
        content = bytearray(self.weights)
        for place in self.places:
            if place.array < len(arrays):
                data, start = _fitting(place, arrays).tobytes(), self.offsets[place.array]
                if start is None:
                    raise ValueError(f"The array {place.path} must be stored in one piece.")
                content[start : start + len(data)] = data
        return ModelArchive(self.members, bytes(content), self.places, self.offsets)

    def save(self, file: str | Path) -> None:
        """Write the `.keras` file."""
        metadata = json.loads(self.members[_METADATA]) | {"date_saved": time.strftime("%Y-%m-%d@%H:%M:%S")}
        own = {_METADATA: json.dumps(metadata).encode(), _WEIGHTS: self.weights}
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in (self.members | own).items():
                archive.writestr(zipfile.ZipInfo(name), content)


def _fitting(place: Place, arrays: Sequence[Array]) -> Array:
    """Return the array of a place in the type of the file.

    Raises:
        ValueError: If the array is missing or has another shape.
    """
    if place.array >= len(arrays):
        raise ValueError(f"The array {place.path} has the index {place.array}, but only {len(arrays)} were given.")
    array = np.asarray(arrays[place.array])
    if array.shape != place.shape:
        raise ValueError(f"The array {place.path} must have the shape {place.shape}, but got {array.shape}.")
    return array.astype(place.dtype, copy=False)


def _without(content: bytes, arrays: Sequence[Array]) -> tuple[bytes, list[Place]]:
    """Return a weights file without some arrays, and the places of these arrays."""
    wanted: dict[_Key, int] = {}
    for index, array in enumerate(arrays):
        wanted.setdefault(_key(array), index)  # of equal constants, one stands for all
    places: list[Place] = []
    skeleton = io.BytesIO()
    with h5py.File(io.BytesIO(content), "r") as source, h5py.File(skeleton, "w") as target:
        _copy_attributes(source, target)

        def copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Group):
                _copy_attributes(item, target.create_group(name))
                return
            value = item[()]
            index = wanted.get(_key(value)) if isinstance(value, (np.ndarray, np.generic)) else None
            if index is None or len(item.attrs):
                source.copy(item, target, name)
            else:
                places.append(Place(name, index, tuple(item.shape), item.dtype.str))

        source.visititems(copy)
    return skeleton.getvalue(), places


def _copy_attributes(source: Any, target: Any) -> None:
    for name, value in source.attrs.items():
        target.attrs[name] = value


def _key(array: Any) -> _Key:
    value = np.asarray(array)
    return value.shape, value.dtype.str, value.tobytes()


def marker_arrays(like: Iterable[tuple[tuple[int, ...], npt.DTypeLike]]) -> list[Array]:
    """Return arrays of given shapes and types for `ArchiveStructure.of_file`, with values that occur nowhere else."""
    random = np.random.default_rng(0)
    found: list[Array] = []
    for shape, dtype in like:
        is_float = np.issubdtype(np.dtype(dtype), np.floating)
        values = random.normal(size=shape) if is_float else random.integers(1, 1 << 15, shape)
        found.append(np.asarray(values).astype(dtype))
    return found
