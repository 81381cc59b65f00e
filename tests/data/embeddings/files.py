"""Files of vectors, written with pandas, NumPy and h5py as users and TRIDENT write them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd


def some_vectors(n_rows: int = 6, n_features: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_rows, n_features)).astype(np.float32)


def write_lists(file: Path, keys: list[str], vectors: np.ndarray, name: str = "path", encoder: str = "") -> Path:
    """One column of lists."""
    frame = pd.DataFrame({name: keys, "vector": list(vectors)})
    frame.attrs = {"encoder": encoder} if encoder else {}
    frame.to_parquet(file, index=False)
    return file


def write_columns(file: Path, keys: list[str], vectors: np.ndarray, **more: list[object]) -> Path:
    """One column per feature."""
    columns = {f"f{number}": vectors[:, number] for number in range(vectors.shape[1])}
    pd.DataFrame({"path": keys, **more, **columns}).to_parquet(file, index=False)
    return file


def write_slide(
    file: Path, vectors: np.ndarray, coords: np.ndarray | None, name: str = "", encoder: str = "uni_v1"
) -> Path:
    """One slide as TRIDENT writes it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as content:
        features = content.create_dataset("features", data=vectors)
        features.attrs["name"] = name or file.stem
        features.attrs["savetodir"] = "features"
        if encoder:
            features.attrs["encoder"] = encoder
        if coords is not None:
            content.create_dataset("coords", data=coords).attrs["patch_size"] = 256
    return file
