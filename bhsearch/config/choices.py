"""Allowed values of settings, one function per list, for help, completion, validation and the reference.

This module must not import slow packages, since `bhsearch run --help` calls every function.
"""

from __future__ import annotations

from bhsearch.errors import SettingsError
from bhsearch.plugins import BUILT_IN, Registry


def layouts() -> tuple[str, ...]:
    """Return the names of the data set layouts, `auto` first."""
    return ("auto", *_names("bhsearch.layouts"))


def regimes() -> tuple[str, ...]:
    """Return the names of the training regimes, `auto` first."""
    return ("auto", "frozen", "finetune")


def heads() -> tuple[str, ...]:
    """Return the values of `--heads`."""
    return ("all", "linear")


def engines() -> tuple[str, ...]:
    """Return the names of the search engines."""
    return _names("bhsearch.engines")


def samplers() -> dict[str, tuple[str, ...]]:
    """Return the sampler names by built-in engine; the first sampler of each engine is its default."""
    return {
        "optuna": _names("bhsearch.samplers"),
        "keras-tuner": ("bayesian", "random", "hyperband", "grid"),
    }


def pruners() -> tuple[str, ...]:
    """Return the names of the pruners."""
    return ("none", "median", "halving", "wilcoxon")


def launchers() -> tuple[str, ...]:
    """Return the names of the launchers, which start worker processes."""
    return _names("bhsearch.launchers")


def augmentations() -> tuple[str, ...]:
    """Return the names of the augmentation policies that other packages provide."""
    return _names("bhsearch.augmentations")


def metrics() -> tuple[str, ...]:
    """Return the names of the metrics that other packages provide."""
    return _names("bhsearch.metrics")


def groupings() -> tuple[str, ...]:
    """Return the values of `--group-by`: what a fold never divides (cases, slides or images)."""
    return ("case", "site", "slide", "image")


def resize_modes() -> tuple[str, ...]:
    """Return the modes of resizing an image to the input size of a backbone."""
    return ("crop", "squash", "tiles")


def feature_backends() -> tuple[str, ...]:
    """Return the libraries that can compute the features of a backbone."""
    return ("auto", "openvino", "keras")


def feature_precisions() -> tuple[str, ...]:
    """Return the floating-point precisions of features, `auto` first."""
    return ("auto", "f32", "bf16")


def precisions() -> tuple[str, ...]:
    """Return Keras's names of the floating-point policies for fine-tuning, `auto` first."""
    return ("auto", "float32", "mixed_bfloat16", "mixed_float16")


def exports() -> tuple[str, ...]:
    """Return the formats to which a registered model can be exported, in addition to Keras's own format."""
    return ("openvino",)


def prediction_formats() -> tuple[str, ...]:
    """Return the formats of prediction files."""
    return ("csv", "jsonl")


def _names(group: str) -> tuple[str, ...]:
    """Return the names in a group of entry points, built-in names first, without importing the entry points.

    If two packages use the same name, only the built-in names are returned: help is built whenever a command is
    imported, so the conflict is reported only when the name is used.
    """
    try:
        return Registry[object](group, "").names()
    except SettingsError:
        return tuple(BUILT_IN[group])
