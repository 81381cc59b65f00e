"""Names that a setting can take, one function per list; help, completion, validation and the reference read them.

Nothing may be imported here that takes time: `bhsearch run --help` calls every function.
"""

from __future__ import annotations


def layouts() -> tuple[str, ...]:
    """Return the names of the readers of data sets."""
    return ("auto", "breakhis", "idc", "folders", "manifest")


def regimes() -> tuple[str, ...]:
    """Return the training regimes."""
    return ("auto", "frozen", "finetune")


def engines() -> tuple[str, ...]:
    """Return the names of the search engines."""
    return tuple(samplers())


def samplers() -> dict[str, tuple[str, ...]]:
    """Return the names of the samplers of each engine, its default first."""
    return {
        "optuna": ("tpe", "random", "qmc", "cmaes"),
        "keras-tuner": ("bayesian", "random", "hyperband", "grid"),
    }


def sampler_names() -> tuple[str, ...]:
    """Return the names of the samplers of all engines, each once."""
    return tuple(dict.fromkeys(name for names in samplers().values() for name in names))


def pruners() -> tuple[str, ...]:
    """Return the names of the pruners."""
    return ("none", "median", "halving", "wilcoxon")


def launchers() -> tuple[str, ...]:
    """Return the places where worker processes can run."""
    return ("local",)


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
