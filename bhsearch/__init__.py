"""Leak-proof, fast, experiment-tracked hyperparameter search for breast histopathology.

Importing this package imports no framework; frameworks are imported when a function is called.
"""

from bhsearch.runtime import shadowing

shadowing.check()  # before any import that a file in the working directory could shadow

from bhsearch.runtime import environment  # noqa: E402

environment.prepare_environment()

from bhsearch.api import load_study, optimize, predict_images, register_model, validate_model, write_report  # noqa: E402
from bhsearch.config import Settings  # noqa: E402

__version__ = "0.2.0"
__all__ = ["Settings", "load_study", "optimize", "predict_images", "register_model", "validate_model", "write_report"]
