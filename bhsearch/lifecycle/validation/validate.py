"""Validate a registered model on an external cohort, and log the access before anything is computed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bhsearch.data.dataset import CLASS_NAMES
from bhsearch.errors import StudyError
from bhsearch.evaluation import held_out_test
from bhsearch.evaluation.predictions import six_digits
from bhsearch.lifecycle import predict
from bhsearch.lifecycle.validation import summary
from bhsearch.lifecycle.validation.cohort import Cohort, open_cohort
from bhsearch.lifecycle.validation.overlap import require_external
from bhsearch.lifecycle.validation.request import ValidationRequest, ValidationResult
from bhsearch.lifecycle.validation.training_facts import Batch, compare, outputs, vector_outputs
from bhsearch.lifecycle.vectors.taken import vectors_taken
from bhsearch.models.keras_settings import check_backend
from bhsearch.runtime.cache import explain_write_errors
from bhsearch.study.events import ProgressReporter
from bhsearch.study.startup import open_mlflow, start_framework
from bhsearch.tracking import keys

if TYPE_CHECKING:
    from bhsearch.evaluation.held_out_test import TestResult
    from bhsearch.evaluation.predictions import Predictions
    from bhsearch.tracking.validation_log import LoggedCohortAccess


def validate(request: ValidationRequest, reporter: ProgressReporter) -> ValidationResult:
    """Evaluate a registered model on an external cohort with the statistics of the sealed test.

    Args:
        request: Model, cohort and options.
        reporter: Receives progress events.

    Raises:
        InputError: If the request is wrong, or if the cohort contains images of the model's data set. Nothing is logged
            in this case.
        RunError: If a model cannot be read, or if the store stays unavailable.
    """
    from bhsearch.tracking.connection import require_store

    check_backend()
    require_store()
    start_framework(reporter)
    client = open_mlflow(reporter)
    from bhsearch.tracking import validation_log

    model = predict.load_model(client, request.model, reporter)
    origin = validation_log.origin_of(client, model.uri, model.run_id)
    _require_same_classes(model)
    cohort = open_cohort(request.settings, reporter)
    vectors = vectors_taken(
        f"the model {model.uri}", model.metadata, cohort.index, "Give other data, or another model."
    )
    notes = [*require_external(cohort, origin, str(model.metadata.get("layout", ""))), *_class_notes(cohort)]
    name, root = cohort.index.name, str(cohort.index.root)
    access = validation_log.log_cohort_access(client, origin, cohort.content, request.reason, name, root)
    with _ending(client, access):
        batch = Batch()
        tested = _evaluate(model, cohort, access, batch, reporter, vectors)
        result = ValidationResult(
            model=model.uri,
            threshold=model.threshold,
            origin=origin,
            cohort=cohort,
            accesses=access.accesses,
            tested=tested,
            sites=_by_site(cohort, tested, model.threshold, _metrics_of(model)),
            differences=compare(batch, model.facts),
            notes=[*notes, *filter(None, [access.caveat])],
            use=model.use,
            run_id=access.run_id,
        )
        _publish(client, request, result, reporter)
    return result


def _require_same_classes(model: predict.Model) -> None:
    """Check that the classes of a model are those of the cohorts that can be read.

    Raises:
        StudyError: If the classes differ.
    """
    classes = tuple(model.class_names)
    if classes != CLASS_NAMES:
        raise StudyError(
            f"The model must have the classes of the cohort, {' and '.join(CLASS_NAMES)}, but {model.uri} has "
            f"{' and '.join(classes) or 'none'}."
        )


def _class_notes(cohort: Cohort) -> list[str]:
    present = np.unique(cohort.index.labels)
    if len(present) > 1:
        return []
    only = CLASS_NAMES[int(present[0])]
    return [f"All images of the cohort are {only}: metrics that need both classes cannot be computed and are left out."]


def _metrics_of(model: predict.Model) -> tuple[str, ...]:
    """Return the names of the metrics of other packages that the study of the model used."""
    return tuple(model.metadata.get("metrics", ()))


def _evaluate(
    model: predict.Model,
    cohort: Cohort,
    access: LoggedCohortAccess,
    batch: Batch,
    reporter: ProgressReporter,
    vectors: str | None,
) -> TestResult:
    n_tiles = 1 if model.facts is None else model.facts.n_tiles
    cases = cohort.index.column("case") if cohort.index.has_cases else np.full(len(cohort), "", object)
    magnifications = cohort.index.column("magnification")
    after, before = np.empty(len(cohort), np.float32), np.empty(len(cohort), np.float32)
    with reporter.step("validating") as progress:
        names = lambda at: (str(cases[at]), str(magnifications[at]))  # noqa: E731
        if vectors is None:
            found = outputs(model.network, n_tiles, cohort.images(access), names, batch)
        else:
            found = vector_outputs(model.network, cohort.vectors(access, vectors), names, batch)
        for at, output in enumerate(found):
            after[at], before[at] = output.probability, output.uncalibrated
            progress(at + 1, len(cohort))
    predictions = cohort.predictions(six_digits(after))
    return held_out_test.evaluate_test(predictions, before, model.threshold, cohort.task, extra=_metrics_of(model))


def _by_site(cohort: Cohort, tested: TestResult, threshold: float, metrics: tuple[str, ...]) -> dict[str, TestResult]:
    """Evaluate the images of each site alone; images without a site are left out."""
    sites = cohort.index.column("site")
    names = sorted(set(sites.tolist()) - {""})
    if len(names) < 2:
        return {}
    before = tested.uncalibrated.probability[0]

    def of_site(name: str) -> TestResult:
        rows = sites == name
        chosen: Predictions = cohort.restrict(tested.predictions, rows)
        return held_out_test.evaluate_test(chosen, before[rows], threshold, tested.task, extra=metrics)

    return {name: of_site(name) for name in names}


@contextmanager
def _ending(client: Any, access: LoggedCohortAccess) -> Iterator[None]:
    """Mark the run of an access as finished at the end of the block or, after an error, as failed with the reason."""
    from bhsearch.tracking import access_log

    try:
        yield
    except BaseException as error:  # interrupts included: the access still counts
        with suppress(Exception):  # the store itself may have failed
            access_log.fail_test(client, access.run_id, f"{type(error).__name__}: {error}")
        raise
    access_log.end_test(client, access.run_id)


def _publish(client: Any, request: ValidationRequest, result: ValidationResult, reporter: ProgressReporter) -> None:
    """Log metrics and files to the run of a validation, and write the files that the user asked for."""
    from bhsearch.lifecycle.validation import validation_report
    from bhsearch.tracking import access_log

    with reporter.step("logging the validation"), tempfile.TemporaryDirectory() as draft:
        folder = Path(draft)
        record, page = summary.to_json(result), validation_report.page(result)
        (folder / keys.VALIDATION_RESULT).write_text(record, encoding="utf-8")
        (folder / keys.REPORT).write_text(page, encoding="utf-8")
        result.tested.predictions.to_csv(folder / keys.VALIDATION_PREDICTIONS, result.use)
        access_log.log_test(client, result.run_id, summary.logged_metrics(result), folder)
    for file, content in ((request.output, record), (request.report, page)):
        if file is not None:
            with explain_write_errors(f"the file {file}", ""):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(content, encoding="utf-8")
