"""Settings of a study, each declared once and used by the command line, settings files, the Python API and the docs."""

from bhsearch.config.loading import load_settings, portable
from bhsearch.config.option import option_of
from bhsearch.config.settings import (
    ALL,
    AUTO_WORKERS,
    DATA_SETTINGS,
    FEATURES,
    SUMMARY,
    TRIALS,
    VECTORS,
    Settings,
    encoder_names,
    model_limit,
)

__all__ = [
    "ALL",
    "AUTO_WORKERS",
    "DATA_SETTINGS",
    "FEATURES",
    "SUMMARY",
    "TRIALS",
    "VECTORS",
    "Settings",
    "encoder_names",
    "load_settings",
    "model_limit",
    "option_of",
    "portable",
]
