"""Leak-proof, fast, experiment-tracked hyperparameter search for breast histopathology.

Importing this package imports no framework; `optimize` does when it is called.
"""

from bhsearch.runtime import shadowing

shadowing.check()  # before any import that a file in the working directory could answer

import importlib  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

from bhsearch.runtime import environment  # noqa: E402

if TYPE_CHECKING:
    from bhsearch.study.result import StudyResult

__version__ = "0.1.0"
__all__ = ["optimize"]

environment.prepare_environment()


def optimize(*, config: str | Path | None = None, **options: Any) -> "StudyResult":
    """Search, as `python -m bhsearch.run` does.

    Args:
        config: TOML file of settings.
        **options: Settings as in `bhsearch.config.Settings`: `data`, `trials`, ...; they win over the file.

    Returns:
        The study's result; `.trials` is a data frame, `.best` the best trial with its interval.

    Raises:
        InputError: If anything given is wrong; nothing was changed then.
        RunError: If too many trials failed in a row, or not everything could be logged.
    """
    with warnings.catch_warnings():
        # Its first import in a notebook without widgets warns about progress bars that are not used here.
        warnings.simplefilter("ignore")
        importlib.import_module("tqdm.auto")  # Optuna brings it

    from bhsearch.cli.progress import TerminalReporter
    from bhsearch.config import load_settings
    from bhsearch.study.events import ProgressReporter
    from bhsearch.study.runner import optimize as run_study

    settings = load_settings(Path(config) if config else None, options)
    return run_study(settings, ProgressReporter() if settings.quiet else TerminalReporter())
