"""The Python API: the commands as functions that return values and raise errors. Importing it loads no framework."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bhsearch.config import Settings, load_settings
from bhsearch.config.option import option_of

if TYPE_CHECKING:
    import pandas as pd

    from bhsearch.lifecycle.registration import EarlierResult, RegistrationResult
    from bhsearch.study.events import ProgressReporter
    from bhsearch.study.result import StudyResult


def optimize(  # noqa: D417  # `_describe_settings` adds the settings
    *,
    config: str | Path | None = None,
    data: str | Path | None = None,
    layout: str | None = None,
    case_pattern: str | None = None,
    class_map: Mapping[str, Sequence[str]] | str | None = None,
    ignore_columns: Sequence[str] | str | None = None,
    image_root: str | Path | None = None,
    magnification: str | None = None,
    skip_unreadable: bool | None = None,
    study: str | None = None,
    trials: int | None = None,
    finetune_trials: int | None = None,
    timeout: float | None = None,
    patience: int | None = None,
    max_failures: int | None = None,
    seed: int | None = None,
    regime: str | None = None,
    engine: str | None = None,
    sampler: str | None = None,
    pruner: str | None = None,
    init_from: str | None = None,
    warm_start_from: Sequence[str] | str | None = None,
    backbones: Sequence[str] | str | None = None,
    weights_dir: str | Path | None = None,
    augmentations: Sequence[str] | str | None = None,
    metrics: Sequence[str] | str | None = None,
    image_size: int | None = None,
    image_sizes: Sequence[int] | None = None,
    resize: str | None = None,
    feature_backend: str | None = None,
    precision: str | None = None,
    test_fraction: float | None = None,
    ignore_predefined_split: bool | None = None,
    folds: int | None = None,
    repeats: int | None = None,
    group_by: str | None = None,
    workers: int | None = None,
    launcher: str | None = None,
    trial_timeout: float | None = None,
    max_worker_memory: float | None = None,
    storage: str | None = None,
    tracking: bool | None = None,
    keep_models: str | None = None,
    quiet: bool | None = None,
) -> StudyResult:
    """Search backbones, augmentation and training parameters, as `bhsearch run` does.

    The same call again continues the study. An argument that is not given, or is None, has the value of the settings
    file, and otherwise the default of `Settings`.

    Args:
        config: TOML file of settings.

    Returns:
        The result of the study, which a notebook shows as a table. `.best` is the best trial with its parameters,
        score and interval, `.trials` a data frame of all trials, `.corrected` the best score corrected for the search.

    Raises:
        InputError: If an argument is wrong; nothing was changed then.
        RunError: If too many trials failed in a row, or not everything could be logged.
    """
    given = {name: str(value) if isinstance(value, Path) else value for name, value in locals().items()}
    file = given.pop("config")
    settings = load_settings(None if file is None else Path(file), given)
    reporter = _reporter(settings.quiet)
    from bhsearch.study.runner import optimize as run_study

    return run_study(settings, reporter)


def load_study(name: str | None = None, *, quiet: bool = False) -> StudyResult:
    """Return a study of the MLflow store, ranked as when it ended.

    Args:
        name: Name, uid or run of the study; None for the study that was started last.
        quiet: Whether to print no progress.

    Raises:
        StudyError: If there is no such study.
        RunError: If the store cannot be reached.
    """
    reporter = _reporter(quiet)
    from bhsearch.lifecycle import stored_studies

    return stored_studies.load_study(name, reporter)


def register_model(
    study: str | None = None,
    *,
    trial: int | None = None,
    name: str | None = None,
    alias: str = "champion",
    force: bool = False,
    reason: str | None = None,
    export: str | None = None,
    data: str | None = None,
    quiet: bool = False,
) -> RegistrationResult | EarlierResult:
    """Open the sealed test for one trial, register its model, and promote it if it beats the champion.

    A trial that was tested on these cases before is not tested again; its earlier result is returned. The test is
    opened without a question: `bhsearch register --dry-run` shows what would happen.

    Args:
        study: Name, uid or run of the study; None for the only study of the store.
        trial: Number of a complete trial; None for the best.
        name: Name of the registered model; None for the name of the data set.
        alias: Alias that a version receives when it passes the promotion gate.
        force: Whether to promote the model even if the gate rejects it.
        reason: Reason for `force`, which is logged.
        export: `openvino` to write the model in that format, too.
        data: Location of the data set, if it was moved since the study was made.
        quiet: Whether to print no progress.

    Raises:
        InputError: If an argument is wrong; the test was not opened then.
        RunError: If a model cannot be read, or the store cannot be reached.
    """
    reporter = _reporter(quiet)
    from bhsearch.lifecycle import register
    from bhsearch.lifecycle.registration import RegistrationRequest

    request = RegistrationRequest(study, trial, name, alias, force, reason, data, export)
    result = register.register(request, reporter)
    assert result is not None  # nobody was asked
    return result


def predict_images(
    paths: Sequence[str | Path] | str | Path,
    *,
    model: str | None = None,
    case_pattern: str | None = None,
    quiet: bool = False,
) -> pd.DataFrame:
    """Predict P(malignant) of images with a registered model.

    Args:
        paths: Images, or folders of images.
        model: NAME, NAME@ALIAS, NAME/VERSION or a URI; None for the only champion.
        case_pattern: Regular expression whose group finds the case in a path; None for that of the model's data set.
        quiet: Whether to print no progress.

    Returns:
        One row per image: `image`, `case`, `probability`, `label`, `model`, `use`. Images that cannot be read are left
        out; `.attrs["unreadable"]` lists each with the reason.

    Raises:
        DataError: If a path does not exist, or there is no image.
        StudyError: If there is no such model, or bhsearch did not register it.
    """
    reporter = _reporter(quiet)
    import pandas as pd

    from bhsearch.lifecycle import predict

    given = [str(paths)] if isinstance(paths, (str, Path)) else [str(path) for path in paths]
    files = predict.find_files(given)
    predict.case_of(case_pattern)
    opened = predict.open_model(model, reporter)
    case, unreadable = predict.case_of(case_pattern or opened.case_pattern, given), files.bad
    with reporter.step("predicting") as progress:
        rows = [asdict(row) for row in predict.predict(opened, files.images, case, unreadable, progress)]
    frame = pd.DataFrame(rows, columns=[field.name for field in fields(predict.ImageRow)])
    frame.attrs["unreadable"] = [file.reason for file in unreadable]
    return frame


def write_report(
    study: str | None = None,
    *,
    output: str | Path = "report.html",
    figures: str | Path | None = None,
    quiet: bool = False,
) -> Path:
    """Write a study as one HTML page, log the page to the study's run in MLflow, and return its path.

    Args:
        study: Name, uid or run of the study; None for the study that was started last.
        output: HTML file to write.
        figures: Folder to write every figure into as SVG and PDF; None to write no figure.
        quiet: Whether to print no progress.

    Raises:
        InputError: If a file cannot be written, or there is no such study.
        RunError: If the store cannot be reached.
    """
    reporter = _reporter(quiet)
    from bhsearch.lifecycle import write_report as files

    folder = None if figures is None else Path(figures)
    return files.write_report(study, Path(output), folder, reporter).file


def _reporter(quiet: bool) -> ProgressReporter:
    """Return what shows progress; every function passes here before it imports a framework."""
    with warnings.catch_warnings():
        # In a notebook without widgets, its first import warns about progress bars that are not used here.
        warnings.simplefilter("ignore")
        importlib.import_module("tqdm.auto")  # a dependency of Optuna

    from bhsearch.cli.progress import TerminalReporter
    from bhsearch.study.events import ProgressReporter

    return ProgressReporter() if quiet else TerminalReporter()


def _describe_settings() -> None:
    """Add the settings to the docstring of `optimize`, from their only description."""
    doc = inspect.cleandoc(optimize.__doc__ or "")
    lines: list[Any] = [f"    {field.name}: {option_of(field).help}" for field in fields(Settings)]
    config = "    config: TOML file of settings."
    optimize.__doc__ = doc.replace(config, "\n".join([config, *lines]))


_describe_settings()
