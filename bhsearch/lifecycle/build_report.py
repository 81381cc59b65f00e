"""Gather the data of a report from the records of a study in MLflow."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bhsearch.data.audit import Audit
from bhsearch.data.dataset import BadFile
from bhsearch.data.images.decode import decode
from bhsearch.data.layouts import breakhis
from bhsearch.data.open_data import open_settings
from bhsearch.errors import BhsearchError, MissingError
from bhsearch.evaluation.predictions import Predictions
from bhsearch.evaluation.thresholds import cross_fitted_labels
from bhsearch.lifecycle.learning_curve.stored import stored_curve
from bhsearch.lifecycle.ranking import rank_stored
from bhsearch.lifecycle.restore import digest_of_set, settings_of, space_of
from bhsearch.reporting.figures.image_grid import pick_examples
from bhsearch.reporting.figures.thumbnails import encode_image
from bhsearch.reporting.report_data import (
    ExampleImage,
    Measured,
    SealedCases,
    StudyReport,
    TestAccess,
    TestSummary,
    TrialRow,
    size_of_part,
    time_in_trials,
)
from bhsearch.study.events import ProgressReporter
from bhsearch.tracking import keys

if TYPE_CHECKING:
    from bhsearch.data.dataset import Dataset
    from bhsearch.objectives.space import Params
    from bhsearch.tracking.reader import StoredStudy, StoredTest, StoredTrial

_SIDE = 288  # pixels of an image on the page
_SEALED_BY = {"fraction": "a stratified share of the cases", "part": "the predefined test part"}
_FACTS = {
    "regime": "regime",
    "group_by": "folds keep together",
    "image_size": "image size",
    "resize": "resize",
    "engine": "engine",
    "sampler": "sampler",
    "seed": "seed",
}
_OF_IMAGES = ("image_size", "resize")  # facts that a study of vectors does not have


def gather(client: Any, study: StoredStudy, reporter: ProgressReporter) -> StudyReport:
    """Collect the data of a study report.

    Args:
        client: Client of the MLflow store.
        study: The study as stored in MLflow.
        reporter: Receives progress events.
    """
    from bhsearch.tracking import reader

    split, audit = reader.read_record(study, keys.SPLIT), reader.read_record(study, keys.AUDIT)
    space = space_of(study)
    found = rank_stored(client, study, reporter)
    predictions, ranked = found.predictions, {row.trial.number: row for row in found.ranking}
    chosen = next((trial for trial in study.trials if ranked[trial.number].proposed), None)
    shown: list[ExampleImage] = []
    if chosen is not None:
        with reporter.step("reading images"):
            shown = _images(study, predictions[chosen.number])
    ended: dict[str, Any] = {}
    with suppress(MissingError):  # the record is written when a session of the search ends
        ended = reader.read_record(study, keys.TRIALS)
    made = reader.read_record(study, keys.MADE)
    kept_images = reader.read_record(study, keys.IMAGES)
    tests = _tests(client, study, split, kept_images)
    why_not_promotable = split["why_not_promotable"]
    curve, no_curve = stored_curve(study, chosen)
    any_predictions = next(iter(predictions.values()), None)
    return StudyReport(
        study=study.name,
        data=study.data,
        task=study.task,
        synthetic=study.synthetic,
        has_cases=audit["has_cases"],
        invalid=[*split["leaks"], *([why_not_promotable] if why_not_promotable else [])],
        warnings=[sentence for sentence in split["warnings"] if sentence not in why_not_promotable],
        n_cases=any_predictions.count_groups() if any_predictions is not None else (0, 0, 0),
        sealed=_sealed(split, kept_images),
        rows=[
            _row(trial, _named(study, record.params), ranked.get(trial.number))
            for trial, record in zip(study.records, found.records, strict=True)
        ],
        proposed_predictions=predictions[chosen.number].unchanged if chosen is not None else None,
        corrected=found.corrected,
        uncorrected=found.uncorrected,
        openings=[_opening(test) for test in tests],
        test=_test(client, study),
        images=shown,
        kept_images=reader.picture(chosen, "right_and_wrong") if chosen is not None and not shown else b"",
        importances=ended.get("importances", {}),
        spread=ended.get("importance_spread", {}),
        log=[parameter.name for parameter in space if parameter.log],
        space=[(parameter.name, str(parameter), parameter.meaning) for parameter in space],
        facts=_facts(study, split),
        audit=_audit_lines(audit),
        made=_made(study, made),
        versions=reader.read_record(study, keys.VERSIONS),
        learning_curve=curve,
        no_learning_curve=no_curve,
        selection=found.explanation,
        robustness=reader.robustness_of(study),
        nested=reader.nested_of(study),
        shift_weight=study.shift_weight,
        has_images=keys.VECTORS not in study.tags,
    )


def _named(study: StoredStudy, params: Params) -> Params:
    """Return parameters with the names of the backbones that a joint backbone joins."""
    if "backbone" not in params:
        return params
    return {**params, "backbone": keys.backbone_title(study.tags, params["backbone"])}


def _row(trial: StoredTrial, params: Params, ranked: Any) -> TrialRow:
    return TrialRow(
        number=trial.number,
        state=trial.state,
        score=trial.score,
        low=ranked.low if ranked else math.nan,
        high=ranked.high if ranked else math.nan,
        tied=bool(ranked and ranked.tied),
        proposed=bool(ranked and ranked.proposed),
        params=params,
        milliseconds=trial.cost[0],
        megabytes=trial.cost[1],
        reason=trial.reason,
        auc=ranked.auc if ranked else math.nan,
    )


def _sealed(split: dict[str, Any], images: dict[str, list[Any]]) -> SealedCases:
    """Count the held-out test set by class, from the stored split and image records of a study."""
    label = dict(zip(images["path"], images["label"], strict=True))
    kept = split["images"]
    rows = [
        (group, int(label[path]))
        for path, group, part in zip(kept["path"], kept["group"], kept["part"], strict=True)
        if part == "test"
    ]
    benign, malignant = ({group for group, value in rows if value == wanted} for wanted in (0, 1))
    return SealedCases(len(benign | malignant), len(benign), len(malignant), len(rows))


def _tests(client: Any, study: StoredStudy, split: dict[str, Any], images: dict[str, list[Any]]) -> list[StoredTest]:
    """Return every access in this store to the images of the held-out test set of a study, oldest first."""
    from bhsearch.tracking import reader

    pixels = dict(zip(images["path"], images["pixels_digest"], strict=True))
    kept = split["images"]
    sealed = [pixels[path] for path, part in zip(kept["path"], kept["part"], strict=True) if part == "test"]
    found = {test.run_id: test for test in reader.tests_on(client, digest_of_set(sealed))}
    found |= {test.run_id: test for test in reader.tests_of_study(client, study)}
    return sorted(found.values(), key=lambda test: (test.when, test.run_id))


def _opening(test: StoredTest) -> TestAccess:
    values, tags = test.values, test.tags
    return TestAccess(
        when=test.when,
        study=test.study,
        trial=f"trial {test.trial}",
        auc=_measured(values, "auc") if "auc" in values else None,
        verdict=tags.get(keys.GATE, ""),
        reason=tags.get(keys.GATE_REASON, "") or tags.get(keys.REASON, ""),
        forced=tags.get(keys.FORCED, ""),
        alias=tags.get(keys.ALIAS, ""),
    )


def _test(client: Any, study: StoredStudy) -> TestSummary | None:
    """Return the test of a study that the report shows; None if no test has a result.

    It is the test of the version promoted last, or the first test if no version was promoted: only the first is
    unbiased.
    """
    from bhsearch.tracking import reader

    tests = [test for test in reader.tests_of_study(client, study) if "auc" in test.values]
    if not tests:
        return None
    promoted = [test for test in tests if keys.ALIAS in test.tags]
    shown = promoted[-1] if promoted else tests[0]
    values = shown.values
    auc = _measured(values, "auc")
    gate: dict[str, float] = json.loads(shown.tags.get(keys.GATE_NUMBERS, "{}"))
    decided = Measured(*(gate.get(f"challenger_{end}", math.nan) for end in ("auc", "low", "high"))) if gate else auc
    compared = (int(gate["n_benign_groups"]), int(gate["n_malignant_groups"])) if gate else None
    # Every resample contains the only group of a class, which gives no interval.
    predictions = reader.tested_predictions(shown)
    if predictions is not None and min(len(set(predictions.group[predictions.label == of])) for of in (0, 1)) < 2:
        auc = Measured(auc.value)
    if compared is not None and min(compared) < 2:
        decided = Measured(decided.value)
    return TestSummary(
        opening=_opening(shown),
        auc=auc,
        decided=decided,
        others={
            name: _measured(values, name) for name in values if name != "auc" and not name.endswith(("_low", "_high"))
        },
        compared=compared,
        threshold=float(shown.params.get("threshold", "nan")),
        predictions=predictions,
    )


def _measured(values: Mapping[str, float], name: str) -> Measured:
    return Measured(values[name], *(values.get(f"{name}_{end}", math.nan) for end in ("low", "high")))


def _made(study: StoredStudy, kept: Mapping[str, str]) -> dict[str, str]:
    """Return when, with which command and on which machine a study was run, as texts by heading."""
    spans = [(t.started_ms, t.ended_ms) for t in study.records if t.ended_ms is not None]
    last = max((end for _, end in spans), default=None)
    found = {
        "begun": _moment(study.started_ms),
        "last trial ended": _moment(last) if last is not None else "",
        "time in trials": time_in_trials(_duration(_covered(spans)), len(spans)) if spans else "",
        "command": kept.get("command", ""),
        "machine": kept.get("machine", ""),
        "report made": _moment(int(datetime.now(UTC).timestamp() * 1000)),
    }
    return {name: value for name, value in found.items() if value}


def _covered(spans: Sequence[tuple[int, int]]) -> float:
    """Return the seconds covered by at least one time span, so that pauses between sessions do not count.

    Args:
        spans: Start and end of each trial, in milliseconds since 1970.
    """
    total, reached = 0, 0
    for start, end in sorted(spans):
        total += max(end - max(start, reached), 0)
        reached = max(reached, end)
    return total / 1000


def _duration(seconds: float) -> str:
    """Format a duration, such as `42 s`, `3 min 20 s` or `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _moment(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def _images(study: StoredStudy, predictions: Predictions) -> list[ExampleImage]:
    """Read the images of the most confidently correct and the most confidently wrong predictions of a trial.

    Returns:
        The images; empty if the data cannot be read or have changed.
    """
    index = _same_data(study)
    if index is None or index.vectors:
        return []
    files = dict(zip(index.column("path").tolist(), index.paths(), strict=True))
    shown = []
    for example in pick_examples(predictions, cross_fitted_labels(predictions, study.task), study.task):
        pixels = decode(files[str(predictions.path[example.row])])
        shown.append(
            ExampleImage(
                encode_image(pixels, _SIDE, lossless=False),
                _caption(predictions, example.row, study.task.class_names),
                example.correct,
            )
        )
    return shown


def _caption(predictions: Predictions, row: int, class_names: Sequence[str]) -> str:
    subtype, magnification = predictions.subtype[row], predictions.magnification[row]
    kind = class_names[int(predictions.label[row])] + (f", {breakhis.spelt_out(str(subtype))}" if subtype else "")
    case = f"case {predictions.case[row]}" if predictions.case[row] else ""
    probability = f"P {predictions.probability[0, row]:.2f}"
    return "\n".join([kind, ", ".join(part for part in (probability, magnification, case) if part)])


def _same_data(study: StoredStudy) -> Dataset | None:
    try:
        index = open_settings(settings_of(study.settings))
    except BhsearchError:
        return None
    return index if index.fingerprint == study.tags.get(keys.DATA_FINGERPRINT) else None


def _facts(study: StoredStudy, split: dict[str, Any]) -> dict[str, str]:
    parts = split["images"]["part"]
    groups = split["images"]["group"]
    sealed, searched = (
        (parts.count(part), len({group for group, where in zip(groups, parts, strict=True) if where == part}))
        for part in ("test", "development")
    )
    repeats = f" x {split['n_repeats']} repeats" if split["n_repeats"] > 1 else ""
    vectors = keys.described_vectors(study.tags)
    shown = {key: words for key, words in _FACTS.items() if not (vectors and key in _OF_IMAGES)}
    return {
        "data": study.data,
        "folder": study.root,
        "searched on": size_of_part(searched[1], searched[0]),
        "sealed": size_of_part(sealed[1], sealed[0]),
        "sealed by": _SEALED_BY[split["sealed_by"]],
        "folds": f"{split['n_folds']}{repeats}",
        **({"vectors": vectors} if vectors else {}),
        **{words: study.tags.get(f"{keys.PREFIX}{key}", study.settings.get(key, "")) for key, words in shown.items()},
        "magnification": split["magnification"],
        "data fingerprint": study.tags.get(keys.DATA_FINGERPRINT, ""),
        "split fingerprint": split["fingerprint"],
    }


def _audit_lines(kept: dict[str, Any]) -> list[str]:
    audit = Audit(**{**kept, "bad": tuple(BadFile(**file) for file in kept["bad"])})
    found = [finding.title for finding in audit.findings()]
    return [*audit.head(), *(found or ["Nothing odd was found."])]
