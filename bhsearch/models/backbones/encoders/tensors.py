"""Tensors in the `.safetensors` files of a folder, read one at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  # registers bfloat16 with NumPy, for safetensors
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from bhsearch.errors import BackboneError

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_FLOATS = ("F64", "F32", "F16", "BF16")
_POINTER = b"version https://git-lfs"  # first bytes of the file that Git stores in place of a large file


@dataclass(frozen=True)
class TensorFiles:
    """Names and shapes of the tensors in the `.safetensors` files of a folder.

    Attributes:
        files: The files in the order of their names.
        places: File of each tensor, by the tensor's name.
        shapes: Shape of each tensor, by the tensor's name.
    """

    files: tuple[Path, ...]
    places: Mapping[str, Path]
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, folder: Path) -> TensorFiles:
        """Read the names and shapes of all tensors of a folder: those of `FILE`, or of the files that `INDEX` lists.

        Raises:
            BackboneError: If a file is missing or cannot be read, or a tensor is missing or does not contain
                floating-point numbers.
        """
        listed = None if (folder / FILE).is_file() else _weight_map(folder)
        files = tuple(sorted({folder / FILE} if listed is None else {folder / name for name in listed.values()}))
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise BackboneError(
                f"{INDEX} in {folder} lists {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
                "there. Download all files of the encoder."
            )
        places: dict[str, Path] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for file in files:
            with _opened(file) as content:
                for name in content.keys():  # noqa: SIM118  # not a mapping
                    part = content.get_slice(name)
                    if part.get_dtype() not in _FLOATS:
                        raise BackboneError(
                            f"The tensor {name} in {file} has the type {part.get_dtype()}, but must contain "
                            f"floating-point numbers ({', '.join(_FLOATS)}). Use the original weights, not quantized "
                            "ones."
                        )
                    places[name], shapes[name] = file, tuple(part.get_shape())
        absent = sorted(set(listed or ()) - set(places))
        if absent:
            raise BackboneError(f"{INDEX} in {folder} lists the tensor {absent[0]}, which is in no file.")
        return cls(files, places, shapes)

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """Return a tensor as float32."""
        with _opened(self.places[name]) as content:
            return np.asarray(content.get_tensor(name)).astype(np.float32)

    def digest(self) -> str:
        """Return a digest of the content of all files. 64 hex digits."""
        digest = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()


def require_safe(folder: Path) -> None:
    """Check that a folder has weights in `.safetensors` files.

    Raises:
        BackboneError: If it has only pickles, or no weights at all.
    """
    if (folder / FILE).is_file() or (folder / INDEX).is_file():
        return
    pickles = sorted(file for file in folder.iterdir() if file.suffix in PICKLES)
    if not pickles:
        raise BackboneError(f"The folder {folder} contains neither {FILE} nor {INDEX}. Download the encoder's weights.")
    parts = ", ".join(repr(str(file)) for file in pickles)
    raise BackboneError(
        f"The weights in {folder} are a pickle ({', '.join(file.name for file in pickles)}), which can run any code "
        'when it is loaded. If you trust its source, convert it where PyTorch is installed: python -c "import torch; '
        "from safetensors.torch import save_file; save_file({k: v.clone() for f in "
        f"[{parts}] for k, v in torch.load(f, map_location='cpu', weights_only=True).items()}}, "
        f"'{folder / FILE}')\""
    )


def _weight_map(folder: Path) -> dict[str, str]:
    """Return the file name of each tensor from the index."""
    try:
        listed = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        if not listed or any(Path(name).name != name for name in listed.values()):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackboneError(
            f"{folder / INDEX} must contain the file name of each tensor under weight_map, but it does not. Download "
            "it again."
        ) from error
    return dict(listed)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="numpy") as content:
            yield content
    except (SafetensorError, OSError) as error:
        with file.open("rb") as stream:
            is_pointer = stream.read(len(_POINTER)) == _POINTER
        remedy = "It is a pointer of Git LFS: run `git lfs pull`." if is_pointer else "Download it again."
        raise BackboneError(f"Cannot read {file}: {str(error).rstrip('.')}. {remedy}") from error
