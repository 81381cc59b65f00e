"""Describe a validation as rows for the terminal and as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from bhsearch.evaluation.held_out_test import metric_title
from bhsearch.evaluation.metrics import metric_names
from bhsearch.evaluation.subgroups import COLUMNS, UNNAMED, subgroup_results
from bhsearch.reporting.report_numbers import text_with_ends
from bhsearch.text import plural
from bhsearch.tracking import keys

if TYPE_CHECKING:
    from bhsearch.evaluation.held_out_test import TestResult
    from bhsearch.lifecycle.validation.request import ValidationResult


def rows(result: ValidationResult) -> list[tuple[str, str]]:
    """Return a validation as pairs of heading and text, in reading order."""
    cohort, origin = result.cohort, result.origin
    found = [
        ("model", f"{result.model}, trial {origin.trial} of {origin.study}"),
        ("cohort", f"{cohort.index.name}: {size(result.tested)}"),
        ("access", _access(result)),
    ]
    for name, text in metric_rows(result.tested):
        found.append(("external" if len(found) == 3 else "", f"{name} {text}"))
    found += [(f"site {name}", text) for name, text in site_rows(result)]
    return found


def metric_rows(tested: TestResult) -> list[tuple[str, str]]:
    """Return title and value of each metric that could be computed, with the 95 % interval where there is one."""
    found = []
    for name, value in tested.values.items():
        ends = tested.intervals.get(name)
        if ends is not None and math.isfinite(value):
            found.append((metric_title(name), text_with_ends(value, ends, name, tested.predictions)))
    return found


def site_rows(result: ValidationResult) -> list[tuple[str, str]]:
    """Return name and result of each site."""
    found = []
    for name, tested in result.sites.items():
        shown = [f"{title} {text}" for title, text in metric_rows(tested)]
        found.append((name, f"{size(tested)}; {'; '.join(shown[:2])}"))
    return found


def logged_metrics(result: ValidationResult) -> dict[str, float]:
    """Return the metrics of a validation and of its sites, with ends of intervals, by their names in MLflow."""
    values = result.tested.flat(keys.EXTERNAL)
    for site, name in metric_names(result.sites).items():
        values |= result.sites[site].flat(f"{keys.EXTERNAL_SITE}{name}/")
    return values


def size(tested: TestResult) -> str:
    """Return the numbers of cases and images of a result, as text."""
    predictions = tested.predictions
    n_malignant = int((predictions.label == 1).sum())
    return (
        f"{plural(len(np.unique(predictions.group)), 'case')}, {plural(len(predictions), 'image')} "
        f"({len(predictions) - n_malignant:,} benign, {n_malignant:,} malignant)"
    )


def _access(result: ValidationResult) -> str:
    access = result.accesses[-1]
    said = f"{access.when}: {access.reason}"
    before = list(result.accesses[:-1])
    if not before:
        return f"the first to images or cases of this cohort, {said}"
    own = sum(earlier.uid == access.uid for earlier in before)
    return (
        f"number {len(result.accesses)} to images or cases of this cohort, {said}. Earlier accesses, {own} of "
        f"{len(before)} by the same study: {'; '.join(map(str, before))}"
    )


def subgroups(result: ValidationResult) -> dict[str, list[dict[str, Any]]]:
    """Return the results by subtype, magnification and case; columns that the cohort does not name are left out."""
    found = {}
    for column in COLUMNS:
        named = subgroup_results(result.tested.predictions, result.tested.decisions, column, result.tested.task)
        if any(group.name != UNNAMED for group in named):
            found[column] = [{k: v for k, v in asdict(group).items() if k != "by_case"} for group in named]
    return found


def to_json(result: ValidationResult) -> str:
    """Return a validation as JSON; values that are not defined are null."""
    index = result.cohort.index
    content = {
        "model": result.model,
        "study": result.origin.study,
        "trial": result.origin.trial,
        "version": result.origin.model,
        "run": result.run_id,
        "cohort": {
            "name": index.name,
            "layout": index.layout,
            "fingerprint": index.fingerprint,
            "digest": result.cohort.digest,
            "n_images": len(index),
            "n_cases": result.cohort.n_groups,
            "n_malignant_images": int((index.labels == 1).sum()),
        },
        "accesses": [asdict(access) for access in result.accesses],
        "threshold": result.threshold,
        "metrics": _metrics(result.tested),
        "sites": {name: _metrics(tested) for name, tested in result.sites.items()},
        "subgroups": subgroups(result),
        "warnings": list(result.differences.warnings),
        "drift": dict(result.differences.drift),
        "unchecked": result.differences.unchecked,
        "notes": list(result.notes),
        "use": result.use,
    }
    return json.dumps(_defined(content), indent=2) + "\n"


def _metrics(tested: TestResult) -> dict[str, dict[str, float]]:
    found = {}
    for name, value in tested.values.items():
        ends = tested.intervals.get(name)
        found[name] = {"value": value, **({} if ends is None else {"low": ends.low, "high": ends.high})}
    return found


def _defined(content: Any) -> Any:
    """Replace numbers that are not finite by None, because JSON has none."""
    if isinstance(content, dict):
        return {key: _defined(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_defined(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
