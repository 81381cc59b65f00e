"""Register a trial: restore it, fix its operating point, evaluate it once on the test set, and publish its model."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from bhsearch.lifecycle import candidate as candidates
from bhsearch.lifecycle.evaluate_test import decide_promotion, evaluate
from bhsearch.lifecycle.fitted_model import FittedModel, fix_operating_point
from bhsearch.lifecycle.publish import publish
from bhsearch.lifecycle.registration import EarlierResult, RegistrationPlan, RegistrationRequest, RegistrationResult
from bhsearch.lifecycle.restore import sealed_digest
from bhsearch.lifecycle.sealed_test import SealedTest
from bhsearch.models.keras_settings import check_backend
from bhsearch.study.events import ProgressReporter
from bhsearch.study.startup import open_mlflow, start_framework
from bhsearch.tracking import keys


def register(
    request: RegistrationRequest, reporter: ProgressReporter, agree: Callable[[RegistrationPlan], bool] = lambda _: True
) -> RegistrationResult | EarlierResult | None:
    """Test a trial on the held-out test set, register its model, and promote it if the gate passes it.

    A trial that was already tested on these cases is not tested again; its earlier result is returned.

    Args:
        request: Trial to register, with name, alias and options.
        reporter: Receives progress events.
        agree: Called with the plan before the sealed test is opened; returns whether to open the test.

    Returns:
        The new or the earlier result; None if `agree` returned False.

    Raises:
        InputError: If the request is wrong. The test is not opened in this case.
        RunError: If a model cannot be read, or the store stays unavailable.
    """
    client = _open_store(reporter)
    selection = candidates.select(client, request)
    if selection.earlier is not None:
        return _repeat(client, request, selection.earlier)
    candidate = candidates.restore(client, request, selection, reporter)
    if not agree(candidate.plan):
        return None
    with tempfile.TemporaryDirectory() as folder:
        fitted = fix_operating_point(client, candidate, request.export, Path(folder), reporter)
        with _open_test(client, fitted) as test:
            evaluation = evaluate(fitted, test, reporter)
            decision = decide_promotion(evaluation)
            return publish(client, request, fitted, test, evaluation, decision, reporter)


def preview(request: RegistrationRequest, reporter: ProgressReporter) -> RegistrationPlan:
    """Return the plan of a registration without opening the sealed test or writing anything.

    Raises:
        InputError: If the request is wrong.
        RunError: If the store stays unavailable.
    """
    client = _open_store(reporter)
    return candidates.restore(client, request, candidates.select(client, request), reporter).plan


def _open_store(reporter: ProgressReporter) -> Any:
    from bhsearch.tracking.connection import require_store

    check_backend()
    require_store()
    start_framework(reporter)
    return open_mlflow(reporter)


@contextmanager
def _open_test(client: Any, fitted: FittedModel) -> Iterator[SealedTest]:
    """Log the access to the sealed test, then yield the test.

    When the block ends, the MLflow run of the access is marked finished or, after an error, failed with the reason.
    """
    from bhsearch.tracking import access_log

    study, restored = fitted.candidate.study, fitted.candidate.restored
    digest = sealed_digest(restored.index, restored.split)
    access = access_log.log_access(
        client, study, fitted.candidate.trial, digest, fitted.fixed(), fitted.candidate.plan.name
    )
    try:
        yield SealedTest(restored.index, restored.split, access)
    except BaseException as error:  # interrupts included: the access still counts
        with suppress(Exception):  # the store itself may have failed
            access_log.fail_test(client, access.run_id, f"{type(error).__name__}: {error}")
        raise
    access_log.end_test(client, access.run_id)


def _repeat(client: Any, request: RegistrationRequest, earlier: EarlierResult) -> EarlierResult:
    """Return an earlier result after completing or forcing the promotion of its version.

    The version is promoted if the user forces the promotion, or if the first registration decided to promote it but an
    outage prevented the promotion.
    """
    from bhsearch.tracking import registry

    version = earlier.version
    promoted = {entry["version"] for entry in registry.promotions(client, version.name)}
    numbers = json.loads(version.tags.get(keys.GATE_NUMBERS, "{}"))
    forced = request.force and request.alias not in version.aliases
    how = version.tags.get(keys.PROMOTED, "")
    if forced:
        before = registry.version_with_alias(client, version.name, request.alias)
        registry.promote(client, version, request.alias, "force", str(request.reason), numbers, before)
        registry.tag(client, version, keys.FORCED, str(request.reason))
    elif how and version.number not in promoted:
        reason = version.tags[keys.FORCED if how == "force" else keys.GATE_REASON]
        replaced = version.tags[keys.INSTEAD_OF]
        before = registry.version_of(client, version.name, replaced) if replaced else None
        registry.promote(client, version, version.tags[keys.ALIAS], how, reason, numbers, before)
    notes = list(earlier.notes)
    if request.name not in (None, version.name):
        notes.append(f"--name {request.name} did nothing: this trial is registered as {version.name}.")
    if request.export is not None:
        notes.append("--export did nothing: it writes beside a model when that is registered.")
    now = registry.version_of(client, version.name, version.number)
    return replace(earlier, version=now, notes=notes, forced=forced)
