"""The Python API: the commands as functions that return values and raise errors.

Importing this module imports no framework.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bhsearch.config import DATA_SETTINGS, Settings, load_settings, option_of

if TYPE_CHECKING:
    import pandas as pd

    from bhsearch.lifecycle.registration import EarlierResult, RegistrationResult
    from bhsearch.lifecycle.validation.request import ValidationResult
    from bhsearch.study.events import ProgressReporter
    from bhsearch.study.outcome.result import StudyResult


def optimize(  # noqa: D417  # `_describe_settings` adds the settings
    *,
    config: str | Path | None = None,
    data: str | Path | None = None,
    layout: str | None = None,
    case_pattern: str | None = None,
    class_map: Mapping[str, Sequence[str]] | str | None = None,
    ignore_columns: Sequence[str] | str | None = None,
    image_root: str | Path | None = None,
    features: Sequence[str] | str | None = None,
    features_key: str | None = None,
    magnification: str | None = None,
    skip_unreadable: bool | None = None,
    study: str | None = None,
    trials: int | None = None,
    finetune_trials: int | None = None,
    timeout: float | None = None,
    budget: float | None = None,
    patience: int | None = None,
    max_failures: int | None = None,
    seed: int | None = None,
    robustness: bool | None = None,
    nested: bool | None = None,
    regime: str | None = None,
    heads: str | None = None,
    engine: str | None = None,
    sampler: str | None = None,
    pruner: str | None = None,
    init_from: str | None = None,
    race_divisions: int | None = None,
    score_weight_shift: float | None = None,
    warm_start_from: Sequence[str] | str | None = None,
    backbones: Sequence[str] | str | None = None,
    combine: int | None = None,
    weights_dir: str | Path | None = None,
    augmentations: Sequence[str] | str | None = None,
    metrics: Sequence[str] | str | None = None,
    image_size: int | None = None,
    image_sizes: Sequence[int] | None = None,
    batch_sizes: Sequence[int] | None = None,
    resize: str | None = None,
    feature_backend: str | None = None,
    feature_precision: str | None = None,
    precision: str | None = None,
    test_fraction: float | None = None,
    ignore_predefined_split: bool | None = None,
    folds: int | None = None,
    repeats: int | None = None,
    group_by: str | None = None,
    workers: int | None = None,
    workers_per_gpu: int | str | None = None,
    launcher: str | None = None,
    launcher_option: Mapping[str, str] | Sequence[str] | str | None = None,
    dry_run: bool | None = None,
    wait: bool | None = None,
    only: str | None = None,
    trial_timeout: float | None = None,
    max_worker_memory: float | None = None,
    storage: str | None = None,
    tracking: bool | None = None,
    keep_models: str | None = None,
    quiet: bool | None = None,
) -> StudyResult:
    """Search backbones, augmentation and training parameters, like `bhsearch run`, and return the result.

    Repeating the same call continues the study. An argument that is None has the value in the settings file, or the
    default of `Settings` if the file does not contain the setting.

    Args:
        config: TOML file of settings.

    Returns:
        The result of the study, which notebooks display as a table. `.proposed` is the trial to use, with parameters,
        score and interval: the cheapest of those as good as the best one. `.best` is the trial with the best score,
        `.trials` is a data frame of all trials, `.corrected` is the score of the proposed trial corrected for the
        search, and `.default` is its difference to the default parameters.

    Raises:
        InputError: If an argument is wrong. Nothing is changed in this case.
        RunError: If `max_failures` consecutive trials failed, or if a trial could not be logged.
    """
    given = {name: str(value) if isinstance(value, Path) else value for name, value in locals().items()}
    file = given.pop("config")
    settings = load_settings(None if file is None else Path(file), given)
    reporter = _reporter(settings.quiet)
    from bhsearch.study.runner import optimize as run_study

    return run_study(settings, reporter)


def load_study(name: str | None = None, *, quiet: bool = False) -> StudyResult:
    """Return the result of a study from the MLflow store, with the same ranking as when the study ended.

    Args:
        name: Name, uid or run of the study; None for the most recently started study.
        quiet: Whether to print no progress.

    Raises:
        StudyError: If the study does not exist.
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

    A trial that was already tested on these cases is not tested again; its earlier result is returned. The function
    opens the test without asking for confirmation. `bhsearch register --dry-run` shows the plan without opening it.

    Args:
        study: Name, uid or run of the study; None for the only study of the store.
        trial: Number of a complete trial; None for the trial that the study proposes.
        name: Name of the registered model; None for the name of the data set.
        alias: Alias that the version receives if it passes the promotion gate.
        force: Whether to promote the model even if the gate rejects it.
        reason: Reason for `force`, which is logged.
        export: `openvino` to export the model to that format as well; None for no export.
        data: Current location of the data set, if it was moved.
        quiet: Whether to print no progress.

    Returns:
        The result of the registration, or the earlier result of a trial that was already tested.

    Raises:
        InputError: If an argument is wrong. The test is not opened in this case.
        RunError: If a model cannot be read, or if the store cannot be reached.
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
    features_key: str | None = None,
    quiet: bool = False,
) -> pd.DataFrame:
    """Predict P(malignant) of images with a registered model.

    Args:
        paths: Images, folders of images, or a file of vectors for a model that takes vectors.
        model: NAME, NAME@ALIAS, NAME/VERSION or a URI; None for the only champion.
        case_pattern: Regular expression whose group matches the case in a path; None for the pattern of the model's
            data set.
        features_key: Column of a file of vectors with the keys; None for one with a known name, such as path.
        quiet: Whether to print no progress.

    Returns:
        Data frame with one row per image and the columns `image`, `case`, `probability`, `label`, `model` and `use`.
        Unreadable images are left out; `.attrs["unreadable"]` lists the reason for each. `.attrs["warnings"]` lists
        what differs from the training images, and `.attrs["cases"]` is a data frame with one row per known case.

    Raises:
        DataError: If a path does not exist, or if no image is found.
        StudyError: If the model does not exist, or was not registered by bhsearch.
    """
    reporter = _reporter(quiet)
    import pandas as pd

    from bhsearch.lifecycle import predict
    from bhsearch.lifecycle.vectors import predict as of_vectors

    given = [str(paths)] if isinstance(paths, (str, Path)) else [str(path) for path in paths]
    table = of_vectors.open_vectors(given) if of_vectors.are_vectors(given) else None
    files = predict.find_files(given) if table is None else predict.Files([], [], [])
    known = files.images if table is None else of_vectors.paths_of(table, features_key)
    predict.check_pattern(case_pattern, given, known)
    opened = predict.open_model(model, reporter)
    case, unreadable = predict.case_of(case_pattern or opened.case_pattern, given), files.bad
    with reporter.step("predicting") as progress:
        if table is not None:
            rows, differences = of_vectors.predict_all(opened, table, features_key, case, progress)
        else:
            of_vectors.require_images(opened)
            rows, differences = predict.predict_all(opened, files.images, case, unreadable, progress)
    frame = pd.DataFrame(map(asdict, rows), columns=[field.name for field in fields(predict.ImageRow)])
    cases = map(asdict, predict.cases(opened, rows))
    frame.attrs["cases"] = pd.DataFrame(cases, columns=[field.name for field in fields(predict.CaseRow)])
    frame.attrs["unreadable"] = [file.reason for file in unreadable]
    frame.attrs["warnings"] = list(differences.warnings)
    return frame


def validate_model(
    model: str | None = None,
    *,
    data: str | Path,
    layout: str | None = None,
    case_pattern: str | None = None,
    class_map: Mapping[str, Sequence[str]] | str | None = None,
    ignore_columns: Sequence[str] | str | None = None,
    image_root: str | Path | None = None,
    features: Sequence[str] | str | None = None,
    features_key: str | None = None,
    magnification: str | None = None,
    skip_unreadable: bool | None = None,
    reason: str = "external validation",
    output: str | Path | None = None,
    report: str | Path | None = None,
    quiet: bool = False,
) -> ValidationResult:
    """Evaluate a registered model on an external cohort, with the statistics of the sealed test.

    The access to the cohort is logged before anything is computed, and every validation on the same cohort is counted.

    Args:
        model: NAME, NAME@ALIAS, NAME/VERSION, a URI or a folder; None for the only champion.
        data: Image folder or manifest of the cohort.
        layout: See `optimize`.
        case_pattern: See `optimize`.
        class_map: See `optimize`.
        ignore_columns: See `optimize`.
        image_root: See `optimize`.
        features: See `optimize`.
        features_key: See `optimize`.
        magnification: See `optimize`.
        skip_unreadable: See `optimize`.
        reason: Reason of the validation, which is logged.
        output: JSON file to write the result to; None to write no file.
        report: HTML file to write the result to; None to write no file.
        quiet: Whether to print no progress.

    Returns:
        The result: `.tested.values` are the metrics, `.tested.intervals` their 95 % intervals over cases, `.sites` the
        results by site, `.accesses` all accesses to images or cases of this cohort so far, and `.differences.warnings`
        what differs from the training images.

    Raises:
        InputError: If an argument is wrong, or if the cohort contains images of the model's data set. Nothing is logged
            in this case.
        RunError: If a model cannot be read, or if the store cannot be reached.
    """
    given = {name: str(value) if isinstance(value, Path) else value for name, value in locals().items()}
    settings = load_settings(None, {name: value for name, value in given.items() if name in DATA_SETTINGS})
    reporter = _reporter(quiet)
    from bhsearch.lifecycle.validation import validate
    from bhsearch.lifecycle.validation.request import ValidationRequest

    files = [None if file is None else Path(file) for file in (output, report)]
    return validate.validate(ValidationRequest(model, settings, reason, *files), reporter)


def write_report(
    study: str | None = None,
    *,
    output: str | Path = "report.html",
    figures: str | Path | None = None,
    learning_curve: bool = False,
    data: str | Path | None = None,
    quiet: bool = False,
) -> Path:
    """Write a study as one HTML page with its reporting checklists beside it, log both in MLflow, and return the path.

    Args:
        study: Name, uid or run of the study; None for the most recently started study.
        output: HTML file to write. The checklists of TRIPOD+AI and CLAIM are written beside it, for `report.html` as
            `report_checklist.md`.
        figures: Folder to write every figure into as SVG and PDF; None to write no figure.
        learning_curve: Whether to compute the learning curve over cases of the proposed trial first. It takes seconds
            if the features are cached, and later reports show it, too.
        data: Current location of the data for the learning curve, if they were moved.
        quiet: Whether to print no progress.

    Raises:
        InputError: If a file cannot be written, if the study does not exist, or if the data of the learning curve have
            changed since the study.
        RunError: If the store cannot be reached.
    """
    reporter = _reporter(quiet)
    from bhsearch.lifecycle import write_report as files

    folder = None if figures is None else Path(figures)
    location = None if data is None else str(data)
    return files.write_report(study, Path(output), folder, reporter, learning_curve, location).file


def _reporter(quiet: bool) -> ProgressReporter:
    """Return the progress reporter of an API function.

    Every API function must call this function before it imports a framework.

    Args:
        quiet: Whether to show no progress.
    """
    with warnings.catch_warnings():
        # In a notebook without widgets, importing tqdm.auto warns about progress bars that bhsearch does not use.
        warnings.simplefilter("ignore")
        importlib.import_module("tqdm.auto")  # a dependency of Optuna

    from bhsearch.cli.progress import TerminalReporter
    from bhsearch.study.events import ProgressReporter

    return ProgressReporter() if quiet else TerminalReporter()


def _describe_settings() -> None:
    """Add the help texts of all settings to the docstring of `optimize`."""
    doc = inspect.cleandoc(optimize.__doc__ or "")
    lines: list[Any] = [f"    {field.name}: {option_of(field).help}" for field in fields(Settings)]
    config = "    config: TOML file of settings."
    optimize.__doc__ = doc.replace(config, "\n".join([config, *lines]))


_describe_settings()
