"""Names that a setting can take, one function per list; help, completion, validation and the reference read them.

Nothing may be imported here that takes time: `bhsearch run --help` calls every function.
"""

from __future__ import annotations

from bhsearch.plugins import Registry


def layouts() -> tuple[str, ...]:
    """Return the names of the readers of data sets."""
    return ("auto", *_names("bhsearch.layouts"))


def regimes() -> tuple[str, ...]:
    """Return the training regimes."""
    return ("auto", "frozen", "finetune")


def engines() -> tuple[str, ...]:
    """Return the names of the search engines."""
    return _names("bhsearch.engines")


def samplers() -> dict[str, tuple[str, ...]]:
    """Return the names of the samplers of each built-in engine, its default first."""
    return {
        "optuna": _names("bhsearch.samplers"),
        "keras-tuner": ("bayesian", "random", "hyperband", "grid"),
    }


def pruners() -> tuple[str, ...]:
    """Return the names of the pruners."""
    return ("none", "median", "halving", "wilcoxon")


def launchers() -> tuple[str, ...]:
    """Return the places where worker processes can run."""
    return _names("bhsearch.launchers")


def augmentations() -> tuple[str, ...]:
    """Return the augmentation policies of other packages."""
    return _names("bhsearch.augmentations")


def metrics() -> tuple[str, ...]:
    """Return the metrics of other packages."""
    return _names("bhsearch.metrics")


def groupings() -> tuple[str, ...]:
    """Return the units that the folds of the development set can keep together."""
    return ("case", "slide", "image")


def resize_modes() -> tuple[str, ...]:
    """Return the ways to bring an image to the input size of a backbone."""
    return ("crop", "squash", "tiles")


def feature_backends() -> tuple[str, ...]:
    """Return the libraries that can compute the features of a backbone."""
    return ("auto", "openvino", "keras")


def precisions() -> tuple[str, ...]:
    """Return the floating-point policies of fine-tuning, by the names that Keras gives them."""
    return ("auto", "float32", "mixed_bfloat16", "mixed_float16")


def exports() -> tuple[str, ...]:
    """Return the formats that a registered model can be written in beside Keras's."""
    return ("openvino",)


def prediction_formats() -> tuple[str, ...]:
    """Return the formats of prediction files."""
    return ("csv", "jsonl")


def _names(group: str) -> tuple[str, ...]:
    """Return the parts of a group of entry points, those of other packages last. Imports none of them."""
    return Registry[object](group, "").names()
