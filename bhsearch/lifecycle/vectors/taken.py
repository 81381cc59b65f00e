"""Which vectors of a data set a registered model takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bhsearch.data.dataset import Dataset
from bhsearch.data.embeddings.table import VectorTable
from bhsearch.errors import SettingsError, StudyError

METADATA = "vectors"  # key of the metadata of the MLflow model


def vectors_taken(model: str, metadata: Mapping[str, Any], index: Dataset, advice: str) -> str | None:
    """Return the name of the vectors of a data set that a model takes; None if both are of images.

    Args:
        model: Description of the model, for messages.
        metadata: Metadata of the model.
        index: The data set.
        advice: Sentence that says what to do if the model cannot take what the data set has.

    Raises:
        StudyError: If the model takes images and the data set has vectors, or vice versa, or if no vectors of the data
            set are of the model's encoder.
    """
    made = metadata.get(METADATA)
    if made is None:
        if not index.vectors:
            return None
        raise StudyError(f"The data have vectors ({', '.join(index.vectors)}), but {model} takes images. {advice}")
    if not index.vectors:
        raise StudyError(
            f"The data have images and no vectors, but {model} takes vectors of {described(made)}. {advice}"
        )
    found = [name for name, vectors in index.vectors.items() if not mismatch(made, vectors.table)]
    if not found:
        why = "; ".join(mismatch(made, vectors.table) for vectors in index.vectors.values())
        raise StudyError(f"No vectors of the data are those that {model} takes: {why}. {advice}")
    # Of several files of one encoder, that with the same content or the same name.
    rank = lambda name: (index.vectors[name].table.digest != made["digest"], name != made["name"])  # noqa: E731
    return min(found, key=rank)


def require_exportable(export: str | None, vectors: Mapping[str, Any] | None) -> None:
    """Check that a model can be exported, which takes images.

    Args:
        export: Format of the export; None for no export.
        vectors: Which file the vectors are from that the model takes; None if it takes images.

    Raises:
        SettingsError: If it cannot.
    """
    if export is not None and vectors is not None:
        raise SettingsError(
            f"--export {export} requires a model that takes images, but this one takes vectors. Remove the option."
        )


def described(made: Mapping[str, Any]) -> str:
    """Return the vectors that a model takes as text, such as `uni_v1 (1,024 features)`."""
    return f"{made['encoder'] or made['name']} ({made['n_features']:,} features)"


def mismatch(made: Mapping[str, Any], table: VectorTable) -> str:
    """Return why the vectors of a table are not those of a model's encoder; empty if they may be.

    Encoders are compared by the names in the metadata of the files; files without such a name, by their own names.

    Args:
        made: Vectors that the model takes; see `ImageVectors.facts`.
        table: Table of vectors.
    """
    if table.digest == made["digest"]:
        return ""
    if table.n_features != made["n_features"]:
        return f"{table.file} has {table.n_features:,} features, and the model takes {made['n_features']:,}"
    if table.encoder and made["encoder"] and table.encoder != made["encoder"]:
        return f"{table.file} was made by the encoder {table.encoder}, and the model takes vectors of {made['encoder']}"
    if not (table.encoder and made["encoder"]) and table.name != made["name"]:
        return (
            f"{table.file} names no encoder and is not called {made['name']}, as the file of the model was, so that "
            "its vectors may be of another encoder"
        )
    return ""
