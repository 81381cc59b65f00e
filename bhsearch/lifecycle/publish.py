"""Publish a tested model: log files and metrics of the test, register a version, and promote the version."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from bhsearch.evaluation.predictions import DISCLAIMER
from bhsearch.evaluation.promotion import Decision
from bhsearch.lifecycle.build_model_card import build_model_card
from bhsearch.lifecycle.evaluate_test import TestEvaluation
from bhsearch.lifecycle.fitted_model import FittedModel
from bhsearch.lifecycle.registration import RegistrationRequest, RegistrationResult
from bhsearch.lifecycle.registration_summary import describe, overlap_lines, standing, tags_of
from bhsearch.lifecycle.sealed_test import SealedTest
from bhsearch.lifecycle.validation.training_facts import FILE
from bhsearch.study.context import versions
from bhsearch.study.events import ProgressReporter
from bhsearch.tracking import keys

_REQUIRED = ("keras", "tensorflow", "numpy", "pillow", "tifffile", "imagecodecs")


def publish(
    client: Any,
    request: RegistrationRequest,
    fitted: FittedModel,
    test: SealedTest,
    evaluation: TestEvaluation,
    decision: Decision,
    reporter: ProgressReporter,
) -> RegistrationResult:
    """Log the test, register the model, and promote the version if the gate passes it or the user forces it.

    Args:
        client: Client of the MLflow store.
        request: Request of the user.
        fitted: The fitted model.
        test: The sealed test.
        evaluation: Result of the test.
        decision: Decision of the gate.
        reporter: Receives progress events.

    Raises:
        StudyError: If another version received the alias in the meantime. The new version is then registered, but not
            promoted.
        RunError: If the store stays unavailable.
    """
    from bhsearch.tracking import registry

    run_id = test.access.run_id
    result = _result(client, request, fitted, test, evaluation, decision)
    before = fitted.champion.version if fitted.champion is not None else None
    # The tags are created with the version, so that no version exists without its result.
    tags = tags_of(result, test.access.sealed, request.reason, before.number if before is not None else "")
    with reporter.step("registering the model"):
        _log_files(client, fitted, test, evaluation, result)
        version = registry.create_version(
            client,
            run_id,
            result.version.name,
            fitted.network,
            _requirements(),
            fitted.metadata(),
            {FILE: fitted.facts.file()},
            registry.cut(tags),
        )
    result = replace(result, version=version)
    registry.describe(client, version, run_id, describe(result), tags)
    if result.promoted:
        reason = decision.reason if result.promoted == "gate" else str(request.reason)
        registry.promote(client, version, request.alias, result.promoted, reason, decision.numbers, before)
    return result


def _result(
    client: Any,
    request: RegistrationRequest,
    fitted: FittedModel,
    test: SealedTest,
    evaluation: TestEvaluation,
    decision: Decision,
) -> RegistrationResult:
    """Return the result of a registration, with a placeholder for the version that is not created yet."""
    from bhsearch.tracking import access_log, registry

    candidate = fitted.candidate
    return RegistrationResult(
        study=candidate.study,
        trial=candidate.trial,
        proposed=candidate.plan.proposed,
        corrected=fitted.corrected,
        point=fitted.point,
        openings=access_log.accesses(client, test.access.sealed),
        overlapping=candidate.plan.overlapping,
        tested=evaluation.tested,
        verdict=decision,
        promoted="gate" if decision.promote else ("force" if request.force else ""),
        alias=request.alias,
        version=registry.Version(candidate.plan.name, "", test.access.run_id),
        note=fitted.note,
    )


def _requirements() -> list[str]:
    installed = versions()
    return [f"{name}=={installed[name]}" for name in _REQUIRED if name in installed]


def _log_files(
    client: Any, fitted: FittedModel, test: SealedTest, evaluation: TestEvaluation, result: RegistrationResult
) -> None:
    from bhsearch.models.resize import make_resize
    from bhsearch.reporting.figures import held_out_test as figures
    from bhsearch.tracking import access_log

    tested, settings = evaluation.tested, fitted.candidate.restored.settings
    drawn = figures.pictures(tested, fitted.note)
    if fitted.vectors is None:
        resize = make_resize(settings.resize, settings.image_size)
        drawn["right_and_wrong"] = figures.worst_and_best(
            tested, lambda row: resize.apply(test.image(row))[0], fitted.note
        )
    gate = [result.verdict.reason, f"This version is registered as {standing(result)}."]
    card = build_model_card(
        fitted, test, tested, gate, [*map(str, result.openings), *overlap_lines(result.overlapping)], drawn
    )
    values = tested.flat()
    with tempfile.TemporaryDirectory() as draft:
        folder = Path(draft)
        (folder / keys.PICTURES).mkdir()
        for name, content in drawn.items():
            (folder / keys.PICTURES / f"{name}{keys.PICTURE_SUFFIX}").write_bytes(content)
        card.write(folder)
        use = f"{fitted.note}. {DISCLAIMER}" if fitted.note else DISCLAIMER
        tested.predictions.to_csv(folder / keys.TEST_PREDICTIONS, use)
        (folder / keys.LINEAGE).write_text(json.dumps(evaluation.lineage), encoding="utf-8")
        if fitted.export is not None:
            shutil.copytree(fitted.export.folder, folder / keys.OPENVINO)
            values[keys.EXPORT_DIFFERENCE] = fitted.export.difference
        access_log.log_test(client, test.access.run_id, values, folder)
