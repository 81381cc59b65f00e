"""Restore a study from MLflow: its settings, data, split, backbones and parameters."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import numpy as np
import pandas as pd

from bhsearch.config import Settings, encoder_names
from bhsearch.data.dataset import Dataset
from bhsearch.data.open_data import PHANTOM, open_settings
from bhsearch.data.splits import Split
from bhsearch.errors import DataError, StudyError
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.backbones.registry import find_backbones, name_of
from bhsearch.objectives.space import Parameter, Params
from bhsearch.study.checks.plugins import require_parts
from bhsearch.study.context import FINETUNE, announce_synthetic, images_record
from bhsearch.study.events import ProgressReporter
from bhsearch.text import listed, plural
from bhsearch.tracking import keys

if TYPE_CHECKING:
    from bhsearch.tracking.reader import StoredStudy, StoredTrial

_COLUMNS = ("label", "case", "pixels_digest")
_WORDS = {"label": "another label", "case": "another case", "pixels_digest": "other pixels"}


@dataclass(frozen=True, eq=False)
class RestoredStudy:
    """Data, split and settings of a study, verified to be unchanged.

    Attributes:
        settings: Settings of the study.
        index: The whole data set.
        split: Split of the whole data set, in the row order of `index`.
    """

    settings: Settings
    index: Dataset
    split: Split

    @property
    def development(self) -> Dataset:
        """The part of the data set that the search used."""
        return self.index.select(self.split.development)


def restore_study(study: StoredStudy, reporter: ProgressReporter, data: str | None = None) -> RestoredStudy:
    """Open the data of a study and check that they are unchanged.

    Only files that were modified are decoded.

    Args:
        study: The study as stored in MLflow.
        reporter: Receives progress events.
        data: Current location of the data set, if it was moved.

    Raises:
        DataError: If images, labels or cases differ from those of the study; the message lists the files.
        StudyError: If MLflow lacks a record of the study, or if the stored split is inconsistent.
    """
    from bhsearch.tracking import reader

    require_parts(study.name, study.tags.get(keys.PLUGINS, ""))
    settings = settings_of(study.settings)
    if settings.layout == PHANTOM:  # the images may have been written to a folder since
        settings = replace(settings, layout="auto")
    split = Split.from_dict(reader.read_record(study, keys.SPLIT))
    try:
        announce_synthetic(data or settings.data, reporter)
        with reporter.step("reading images") as progress:
            index = open_settings(settings, data=data, progress=progress)
    except DataError as error:
        raise DataError(
            f"{error}\nThe study {study.name!r} was created from {study.root}. If the data have moved, give their new "
            "path with --data."
        ) from error
    if index.class_names != study.task.class_names:
        raise DataError(
            f"The data of the study {study.name!r} must have the classes {', '.join(study.task.class_names)}, but have "
            f"{', '.join(index.class_names)}. --data names another place."
        )
    _require_same_images(study, reader.read_record(study, keys.IMAGES), images_record(index))
    if study.tags[keys.SPLIT_FINGERPRINT] != split.fingerprint or split.paths.tolist() != index.column("path").tolist():
        raise StudyError(
            f"The split that is stored with the study {study.name!r} was changed: its fingerprint should be "
            f"{study.tags[keys.SPLIT_FINGERPRINT]}, but is {split.fingerprint}. Create a new study with --study."
        )
    _require_same_vectors(study, index)
    return RestoredStudy(settings, index, split)


def _require_same_vectors(study: StoredStudy, index: Dataset) -> None:
    for name, vectors in index.vectors.items():
        made = keys.vectors_of(study.tags, name)
        if made is not None and made["digest"] != vectors.table.digest:
            raise DataError(
                f"The vectors of the study {study.name!r} must not change, but {vectors.table.file} had the digest "
                f"{made['digest']} and now has {vectors.table.digest}. Restore the file, or create a new study."
            )


def _require_same_images(study: StoredStudy, then: dict[str, list[Any]], now: dict[str, list[Any]]) -> None:
    before, after = (pd.DataFrame(table).set_index("path") for table in (then, now))
    problems = [f"{path}: gone" for path in before.index.difference(after.index)]
    problems += [f"{path}: new" for path in after.index.difference(before.index)]
    both = before.index.intersection(after.index)
    for column in _COLUMNS:
        changed = before.loc[both, column].to_numpy() != after.loc[both, column].to_numpy()
        problems += [f"{path}: {_WORDS[column]}" for path in both[changed]]
    if problems:
        raise DataError(
            f"{plural(len(problems), 'image')} of the study {study.name!r} changed since it was "
            f"created:\n{listed(sorted(problems))}\nRestore the files, give the original data with --data, or create a "
            "new study."
        )


def settings_of(text: Mapping[str, str]) -> Settings:
    """Parse settings from the text that MLflow stores.

    Raises:
        StudyError: If the run has no settings, or if a setting cannot be parsed.
    """
    if not text:
        raise StudyError(
            "The study's run in MLflow has no settings (parameters config/...). Run the command that created the "
            "study again with a larger --trials, which adds them."
        )
    hints = get_type_hints(Settings)
    values: dict[str, Any] = {}
    for name in (field.name for field in fields(Settings)):
        if name not in text:
            continue
        kinds = get_args(hints[name]) or (hints[name],)
        try:
            values[name] = _parsed(text[name], kinds)
        except (ValueError, SyntaxError) as error:
            raise StudyError(
                f"Cannot read the setting {name} of the study from MLflow: {text[name]!r} is not a valid value."
            ) from error
    return Settings(**values)


def _parsed(text: str, kinds: tuple[Any, ...]) -> Any:
    if text == "None" and type(None) in kinds:
        return None
    if Ellipsis in kinds:  # tuple[str, ...]
        return tuple(ast.literal_eval(text))
    kind = kinds[0]
    if kind is bool:
        if text not in ("True", "False"):
            raise ValueError(text)
        return text == "True"
    return kind(text)


def space_of(study: StoredStudy) -> tuple[Parameter, ...]:
    """Return the search space of a study.

    Raises:
        MissingError: If MLflow does not have the search space.
    """
    from bhsearch.tracking import reader

    rows = reader.read_record(study, keys.SPACE)
    return tuple(Parameter(**{**row, "choices": tuple(row["choices"])}) for row in rows)


def params_of(trial: StoredTrial, space: Sequence[Parameter]) -> Params:
    """Parse the parameters of a trial from the text that MLflow stores.

    Parameters that a failed trial did not log are omitted.

    Raises:
        StudyError: If a value is not in the search space.
    """
    params: Params = {}
    for row in space:
        text = trial.params.get(row.name)
        if text is None:
            continue
        try:
            if row.choices:
                params[row.name] = {str(choice): choice for choice in row.choices}[text]
            else:
                params[row.name] = int(text) if row.whole else float(text)
        except (KeyError, ValueError) as error:
            raise StudyError(
                f"Cannot read the parameters of trial {trial.number}: {row.name} is {text!r}, which is not in the "
                "search space of the study."
            ) from error
    return params


def complete_params_of(study: StoredStudy, trial: StoredTrial) -> Params:
    """Parse the parameters of a complete trial.

    Raises:
        StudyError: If a parameter is missing, or its value is not in the search space.
    """
    space = space_of(study)
    params = params_of(trial, space)
    for row in space:
        if row.name not in params:
            raise StudyError(f"The parameter {row.name} of trial {trial.number} is missing in MLflow.")
    return params


def backbone_of(study: StoredStudy, settings: Settings, name: str) -> Backbone:
    """Return the backbone of a trial after checking that its weights, or those of all that it joins, are unchanged.

    Raises:
        BackboneError: If the weights are not available.
        StudyError: If the weights have changed.
    """
    from bhsearch.tracking import reader

    members = keys.joined_of(study.tags, name)
    if members:
        return Backbone.join(name, [backbone_of(study, settings, member) for member in members])
    given = next((item for item in encoder_names(settings) if name_of(item) == name), name)
    weights = Path(settings.weights_dir) if settings.weights_dir else None
    (backbone,) = find_backbones((given,), weights, trainable=study.tags.get(keys.REGIME) == FINETUNE).backbones
    digest = reader.read_record(study, keys.BACKBONES)[name]
    if backbone.digest != digest:
        raise StudyError(
            f"The weights of {name!r} have changed since the study: their digest was {digest} and is now "
            f"{backbone.digest}. Restore the weights, or give their folder with --weights-dir."
        )
    return backbone


def sealed_digest(index: Dataset, split: Split) -> str:
    """Return a digest of the held-out test images, computed from their pixels and independent of their order."""
    return digest_of_set(index.column("pixels_digest")[split.test].tolist())


def kept_sealed_digest(study: StoredStudy) -> str:
    """Return the digest of a study's held-out test images from its records in MLflow, without reading an image.

    The digest equals that of `sealed_digest`.

    Raises:
        StudyError: If MLflow lacks a record of the study.
    """
    return digest_of_set(kept_sealed_images(study))


def kept_sealed_images(study: StoredStudy) -> list[str]:
    """Return the digest of the pixels of each held-out test image of a study from its records in MLflow.

    Raises:
        StudyError: If MLflow lacks a record of the study.
    """
    from bhsearch.tracking import reader

    images = reader.read_record(study, keys.IMAGES)
    split = Split.from_dict(reader.read_record(study, keys.SPLIT))
    digests = dict(zip(images["path"], images["pixels_digest"], strict=True))
    return [str(digests[path]) for path in split.paths[split.test].tolist()]


def digest_of_set(pixel_digests: Iterable[str]) -> str:
    """Return the digest of a set of images from the digests of their pixels."""
    import hashlib

    return hashlib.sha256("\n".join(sorted(pixel_digests)).encode()).hexdigest()[:16]


def rows_of(index: Dataset, rows: np.ndarray) -> dict[str, list[str]]:
    """Return case and pixel digest of each given row, in the form that the promotion gate compares."""
    from bhsearch.data.grouping import case_keys

    return {"case": case_keys(index)[rows].tolist(), "pixels_digest": index.column("pixels_digest")[rows].tolist()}
