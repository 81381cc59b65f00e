"""From a study to a registered version: everything fixed first, the sealed test opened once, and the gate.

Only this module reads test rows, and only after the opening is written down.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.dataset import CLASS_NAMES
from bhsearch.data.images.decode import decode
from bhsearch.errors import StudyError
from bhsearch.evaluation import test_set
from bhsearch.evaluation.bbc_cv import CorrectedScore, corrected_score
from bhsearch.evaluation.calibration import OperatingPoint, operating_point
from bhsearch.evaluation.predictions import DISCLAIMER, Predictions, six_digits
from bhsearch.evaluation.promotion import TestScores, decide
from bhsearch.lifecycle.build_model_card import build_model_card
from bhsearch.lifecycle.registration import EarlierResult, RegistrationPlan, RegistrationRequest, RegistrationResult
from bhsearch.lifecycle.registration_summary import describe, earlier_of, standing, tags_of
from bhsearch.lifecycle.reproduce import deployed_network
from bhsearch.lifecycle.restore import RestoredStudy, kept_sealed_digest, restore_study, rows_of, sealed_digest
from bhsearch.models.keras_settings import check_backend
from bhsearch.study import context
from bhsearch.study.events import ProgressReporter
from bhsearch.study.startup import open_mlflow, start_framework
from bhsearch.tracking.keys import STARTED_FROM

if TYPE_CHECKING:
    from bhsearch.evaluation.test_set import TestResult
    from bhsearch.tracking.reader import StoredStudy, StoredTrial
    from bhsearch.tracking.registry import Version
    from bhsearch.tracking.test_access import TestAccess

_REQUIRED = ("keras", "tensorflow", "numpy", "pillow", "tifffile", "imagecodecs")
_N_EXAMPLES = 16  # images that an export is checked on


@dataclass(frozen=True, eq=False)
class _Frozen:
    """Everything that is settled before the test is opened."""

    study: StoredStudy
    trial: StoredTrial
    opened: RestoredStudy
    name: str
    corrected: CorrectedScore
    point: OperatingPoint
    raw: Any
    network: Any
    champion: Version | None
    champion_network: Any
    champion_lineage: dict[str, Any]
    exported: Path
    export_difference: float | None
    note: str


def register(
    request: RegistrationRequest, reporter: ProgressReporter, agree: Callable[[RegistrationPlan], bool] = lambda _: True
) -> RegistrationResult | EarlierResult | None:
    """Test the best trial of a study on the sealed cases, register it, and let the gate decide.

    A trial that was tested on these cases before is not tested again: its earlier result is given.

    Args:
        request: What to register.
        reporter: Receives progress events.
        agree: Asked before the sealed cases are opened, with what would happen.

    Returns:
        What was found; None if `agree` said no.

    Raises:
        InputError: If anything the user gave is wrong; the test was not opened then.
        RunError: If a model cannot be read, or the store stays away.
    """
    client = _client(reporter)
    wanted = _select(client, request)
    if wanted.earlier is not None:
        return _again(client, request, wanted.earlier)
    prospect, opened = _prospect(client, request, wanted, reporter)
    if not agree(prospect):
        return None
    with tempfile.TemporaryDirectory() as exported:
        return _register(client, request, _fix(client, request, prospect, opened, Path(exported), reporter), reporter)


def preview(request: RegistrationRequest, reporter: ProgressReporter) -> RegistrationPlan:
    """What registering would do; opens nothing and writes nothing.

    Raises:
        InputError: If anything the user gave is wrong.
        RunError: If the store stays away.
    """
    client = _client(reporter)
    return _prospect(client, request, _select(client, request), reporter)[0]


def _client(reporter: ProgressReporter) -> Any:
    from bhsearch.tracking.connection import require_store

    check_backend()
    require_store()
    start_framework(reporter)
    return open_mlflow(reporter)


def _register(
    client: Any, request: RegistrationRequest, fixed: _Frozen, reporter: ProgressReporter
) -> RegistrationResult:
    from bhsearch.tracking import test_access

    digest = sealed_digest(fixed.opened.index, fixed.opened.split)
    calibration = fixed.point.calibration
    beforehand = {
        "calibration_slope": calibration.slope,
        "calibration_offset": calibration.offset,
        "threshold": fixed.point.threshold,
    }
    run_id = test_access.log_access(client, fixed.study, fixed.trial, digest, beforehand, fixed.name)
    try:
        result = _test_and_register(client, request, fixed, run_id, digest, reporter)
    except BaseException as error:  # Ctrl-C too: the opening stays counted, and its run says how it ended
        with suppress(Exception):  # the store may be what failed
            test_access.fail_test(client, run_id, f"{type(error).__name__}: {error}")
        raise
    test_access.end_test(client, run_id)
    return result


# -- before the opening ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Selection:
    """What is asked for, as MLflow holds it; no image was looked at."""

    study: StoredStudy
    trial: StoredTrial
    name: str
    openings: list[TestAccess]
    earlier: EarlierResult | None


def _select(client: Any, request: RegistrationRequest) -> _Selection:
    from bhsearch.tracking import reader, registry, test_access

    study = reader.find_study(client, request.study)
    trial = _chosen(study, request.trial)
    name = request.name or study.data
    registry.check_name(name, request.alias)
    split = reader.read_record(study, reader.SPLIT)
    if request.force and not split["promotable"]:
        raise StudyError(f"--force cannot promote what must never be: {split['why_not_promotable']}")
    found = test_access.accesses(client, kept_sealed_digest(study))
    return _Selection(study, trial, name, found, _earlier(client, study, trial, found))


def _prospect(
    client: Any, request: RegistrationRequest, wanted: _Selection, reporter: ProgressReporter
) -> tuple[RegistrationPlan, RestoredStudy]:
    from bhsearch.tracking import registry

    opened = restore_study(wanted.study, reporter, request.data)
    split, labels = opened.split, opened.index.labels
    n_all, n_benign, n_malignant = (
        len(np.unique(split.groups[split.test & rows])) for rows in (labels >= 0, labels == 0, labels == 1)
    )
    return RegistrationPlan(
        study=wanted.study,
        trial=wanted.trial,
        name=wanted.name,
        alias=request.alias,
        n_groups=(n_all, n_benign, n_malignant),
        n_images=int(split.test.sum()),
        openings=wanted.openings,
        champion=registry.version_with_alias(client, wanted.name, request.alias),
        force=request.force,
        earlier=wanted.earlier,
    ), opened


def _earlier(client: Any, study: StoredStudy, trial: StoredTrial, found: list[TestAccess]) -> EarlierResult | None:
    """What came of the last opening for this trial that gave a result."""
    from bhsearch.tracking import registry

    for opening in reversed(found):
        if opening.uid == study.uid and opening.trial == str(trial.number):
            version = registry.version_of_run(client, opening.run_id)
            result = earlier_of(version, opening.when) if version is not None else None
            if result is not None:
                return result
    return None


def _again(client: Any, request: RegistrationRequest, earlier: EarlierResult) -> EarlierResult:
    """Give an earlier result again, and carry out what it lacks: a promotion that an outage prevented, or `--force`."""
    from bhsearch.tracking import registry

    version = earlier.version
    promoted = {entry["version"] for entry in registry.promotions(client, version.name)}
    tags = {key.removeprefix("bhsearch."): value for key, value in version.tags.items()}
    numbers = json.loads(tags.get("gate_numbers", "{}"))
    forced = request.force and request.alias not in version.aliases
    if forced:
        before = registry.version_with_alias(client, version.name, request.alias)
        registry.promote(client, version, request.alias, "force", str(request.reason), numbers, before)
        registry.tag(client, version, "bhsearch.forced", str(request.reason))
    elif tags.get("promoted") and version.number not in promoted:
        reason = tags["forced"] if tags["promoted"] == "force" else tags["gate_reason"]
        before = registry.version_of(client, version.name, tags["instead_of"]) if tags["instead_of"] else None
        registry.promote(client, version, tags["alias"], tags["promoted"], reason, numbers, before)
    notes = list(earlier.notes)
    if request.name not in (None, version.name):
        notes.append(f"--name {request.name} did nothing: this trial is registered as {version.name}.")
    if request.export is not None:
        notes.append("--export did nothing: it writes beside a model when that is registered.")
    now = registry.version_of(client, version.name, version.number)
    return replace(earlier, version=now, notes=notes, forced=forced)


def _fix(
    client: Any,
    request: RegistrationRequest,
    prospect: RegistrationPlan,
    opened: RestoredStudy,
    exported: Path,
    reporter: ProgressReporter,
) -> _Frozen:
    from bhsearch.models.calibrated import calibrated, load_network
    from bhsearch.tracking import model_files, registry

    study, trial, champion = prospect.study, prospect.trial, prospect.champion
    with reporter.step("loading the model"):
        raw, predictions = deployed_network(study, trial, opened, reporter)
    point = operating_point(predictions)
    network = calibrated(raw, point.calibration.slope, point.calibration.offset)
    difference = _export(request.export, network, opened, exported, reporter)
    other, lineage = None, {}
    if champion is not None:
        lineage = registry.lineage(client, champion)
        other = load_network(model_files.keras_file(model_files.download(champion.uri)))
    return _Frozen(
        study=study,
        trial=trial,
        opened=opened,
        name=prospect.name,
        corrected=corrected_score(competitors(client, study, reporter)),
        point=point,
        raw=raw,
        network=network,
        champion=champion,
        champion_network=other,
        champion_lineage=lineage,
        exported=exported,
        export_difference=difference,
        note=context.SYNTHETIC if opened.index.synthetic else "",
    )


def competitors(client: Any, study: StoredStudy, reporter: ProgressReporter) -> list[Predictions]:
    """Predictions of all trials that the search chose from: the study's, and those of the one it was started from.

    Raises:
        StudyError: If the study that it was started from is not in this store.
    """
    from bhsearch.tracking import reader

    origin = study.tags.get(STARTED_FROM)
    earlier = reader.find_study(client, origin).trials if origin else ()
    trials = sorted(study.trials, key=lambda trial: trial.number) + sorted(earlier, key=lambda trial: trial.number)
    found = []
    with reporter.step("reading predictions") as progress:
        for done, trial in enumerate(trials, start=1):
            found.append(reader.predictions_of(trial))
            progress(done, len(trials))
    return found


def _export(
    kind: str | None, network: Any, opened: RestoredStudy, folder: Path, reporter: ProgressReporter
) -> float | None:
    """Export before the opening, so that a failure costs none; checked on development images.

    Returns:
        The largest difference to Keras in P(malignant); None without an export.
    """
    if kind is None:
        return None
    from bhsearch.models.openvino_export import export_openvino

    paths = opened.development.paths()
    examples = [decode(path) for path in paths[:: max(1, len(paths) // _N_EXAMPLES)]]
    with reporter.step("exporting the model"):
        difference = export_openvino(network, folder, examples)
    reporter.say(
        f"OpenVINO and Keras differ by at most {difference:.1g} in P(malignant) on {len(examples)} images, with "
        "INFERENCE_PRECISION_HINT f32."
    )
    return difference


def _chosen(study: StoredStudy, number: int | None) -> StoredTrial:
    if not study.trials:
        raise StudyError(f"A study must have a finished trial to register, but {study.name!r} has none.")
    if number is None:
        return study.trials[0]
    for trial in study.trials:
        if trial.number == number:
            return trial
    known = ", ".join(str(trial.number) for trial in sorted(study.trials, key=lambda trial: trial.number))
    raise StudyError(f"--trial must be a finished trial of {study.name!r}, one of {known}, but got {number}.")


# -- after the opening -------------------------------------------------------------------------------------------------


def _test_and_register(
    client: Any, request: RegistrationRequest, fixed: _Frozen, run_id: str, digest: str, reporter: ProgressReporter
) -> RegistrationResult:
    from bhsearch.tracking import registry, test_access

    tested = _test(fixed, reporter)
    lineage = {part: rows_of(fixed.opened.index, getattr(fixed.opened.split, part)) for part in ("development", "test")}
    verdict = decide(*_sides(fixed, tested, lineage, reporter))
    promoted = "gate" if verdict.promote else ("force" if request.force else "")
    found = test_access.accesses(client, digest)
    metadata = {
        "classes": list(CLASS_NAMES),
        "output": "P(malignant), calibrated",
        "threshold": fixed.point.threshold,
        "calibration": {"slope": fixed.point.calibration.slope, "offset": fixed.point.calibration.offset},
        "data": fixed.study.data,
        "data_fingerprint": fixed.study.tags["bhsearch.data_fingerprint"],
        "split_fingerprint": fixed.opened.split.fingerprint,
        "case_pattern": fixed.opened.settings.case_pattern,
        "layout": fixed.opened.index.layout,
        "note": fixed.note,
        "use": DISCLAIMER,
    }
    result = RegistrationResult(
        fixed.study, fixed.trial, fixed.trial == fixed.study.trials[0], fixed.corrected, fixed.point, found, tested,
        verdict, promoted, request.alias, registry.Version(fixed.name, "", run_id), fixed.note,
    )  # fmt: skip
    before = fixed.champion.number if fixed.champion else ""
    # With the version itself, so that no version is ever without its result.
    tags = tags_of(result, digest, request.reason, before)
    with reporter.step("registering the model"):
        _log_files(client, fixed, result, lineage, run_id)
        version = registry.register(
            client, run_id, fixed.name, fixed.network, _requirements(), metadata, registry.cut(tags)
        )
    result = replace(result, version=version)
    registry.describe(client, version, run_id, describe(result), tags)
    if promoted:
        reason = verdict.reason if promoted == "gate" else str(request.reason)
        registry.promote(client, version, request.alias, promoted, reason, verdict.numbers, fixed.champion)
    return result


def _requirements() -> list[str]:
    versions = context.versions()
    return [f"{name}=={versions[name]}" for name in _REQUIRED if name in versions]


def _test(fixed: _Frozen, reporter: ProgressReporter) -> TestResult:
    index, split = fixed.opened.index, fixed.opened.split
    rows = np.flatnonzero(split.test)
    text = {name: index.column(name)[rows] for name in ("path", "case", "subtype", "magnification")}
    predictions = Predictions(
        label=index.labels[rows],
        probability=six_digits(_ask(fixed.network, fixed.opened, "testing", reporter))[None],
        fold=np.zeros((1, len(rows)), np.int8),
        group=split.groups[rows],
        stratum=split.strata[rows],
        **text,
    )
    before = _ask(fixed.raw, fixed.opened, "testing without calibration", reporter)
    return test_set.evaluate_test(predictions, before, fixed.point.threshold, extra=fixed.opened.settings.metrics)


def _ask(network: Any, opened: RestoredStudy, what: str, reporter: ProgressReporter) -> npt.NDArray[np.float32]:
    """P(malignant) of every test image, from the files. Shape (n_test,)."""
    from bhsearch.models.calibrated import predict_images

    paths = opened.index.select(opened.split.test).paths()
    with reporter.step(what) as progress:

        def images() -> Iterator[npt.NDArray[np.uint8]]:
            for done, path in enumerate(paths, start=1):
                yield decode(path)
                progress(done, len(paths))

        return np.fromiter(predict_images(network, images()), np.float32, len(paths))


def _sides(
    fixed: _Frozen, tested: TestResult, lineage: dict[str, dict[str, list[str]]], reporter: ProgressReporter
) -> tuple[TestScores, TestScores | None]:
    """Challenger and champion on the challenger's test images, as the gate wants them."""

    def side(probability: npt.NDArray[Any], kept: dict[str, Any], why_not: str) -> TestScores:
        return TestScores(
            probability=probability,
            label=tested.predictions.label,
            group=tested.predictions.group,
            case=np.array(lineage["test"]["case"], dtype=object),
            digest=np.array(lineage["test"]["pixels_digest"], dtype=object),
            development_cases=frozenset(kept["case"]),
            development_digests=frozenset(kept["pixels_digest"]),
            why_not_promotable=why_not,
        )

    why_not = fixed.opened.split.why_not_promotable
    challenger = side(tested.predictions.probability[0], lineage["development"], why_not)
    if fixed.champion is None:
        return challenger, None
    probability = _ask(fixed.champion_network, fixed.opened, "testing the champion", reporter)
    return challenger, side(probability, fixed.champion_lineage["development"], "")


def _log_files(
    client: Any, fixed: _Frozen, result: RegistrationResult, lineage: dict[str, dict[str, list[str]]], run_id: str
) -> None:
    from bhsearch.models.resize import make_resize
    from bhsearch.reporting.figures import test
    from bhsearch.tracking import reader, registry, test_access

    tested = result.tested
    resize = make_resize(fixed.opened.settings.resize, fixed.opened.settings.image_size)
    paths = fixed.opened.index.select(fixed.opened.split.test).paths()
    drawn = test.pictures(tested, fixed.note)
    drawn["right_and_wrong"] = test.worst_and_best(tested, lambda row: resize.apply(decode(paths[row]))[0], fixed.note)
    gate = [result.verdict.reason, f"This version is registered as {standing(result)}."]
    card = build_model_card(
        fixed.study, fixed.trial, fixed.opened, fixed.corrected, fixed.point, tested, gate,
        list(map(str, result.openings)), drawn, fixed.raw,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as draft:
        folder = Path(draft)
        (folder / "pictures").mkdir()
        for name, content in drawn.items():
            (folder / "pictures" / f"{name}.png").write_bytes(content)
        card.write(folder)
        tested.predictions.to_csv(
            folder / reader.TEST_PREDICTIONS, f"{fixed.note}. {DISCLAIMER}" if fixed.note else DISCLAIMER
        )
        (folder / registry.LINEAGE).write_text(json.dumps(lineage), encoding="utf-8")
        values = tested.flat()
        if fixed.export_difference is not None:
            shutil.copytree(fixed.exported, folder / "openvino")
            values["export_difference"] = fixed.export_difference
        test_access.log_test(client, run_id, values, folder)
