"""From a study to a registered version: everything fixed first, the sealed test opened once, and the gate.

Only this module reads test rows, and only after the opening is written down.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.decode import decode
from bhsearch.data.index import CLASS_NAMES
from bhsearch.errors import StudyError
from bhsearch.evaluation import sealed
from bhsearch.evaluation.calibration import OperatingPoint, operating_point
from bhsearch.evaluation.gate import TestScores, judge
from bhsearch.evaluation.predictions import DISCLAIMER, Predictions, six_digits
from bhsearch.evaluation.selection import Corrected, corrected_score
from bhsearch.search import preparation
from bhsearch.search.carding import make_card
from bhsearch.search.rebuilding import deployed_network
from bhsearch.search.registered import describe, tags_of
from bhsearch.search.registration import Registered, Request
from bhsearch.search.reopening import Reopened, reopen, rows_of, sealed_digest
from bhsearch.search.reporter import Reporter
from bhsearch.search.starting import open_mlflow, start_framework
from bhsearch.tracking.keys import STARTED_FROM

if TYPE_CHECKING:
    from bhsearch.evaluation.sealed import Tested
    from bhsearch.tracking.registry import Version
    from bhsearch.tracking.studies import StoredStudy, StoredTrial

_REQUIRED = ("keras", "tensorflow", "numpy", "pillow", "tifffile", "imagecodecs")
_N_EXAMPLES = 16  # images that an export is checked on


@dataclass(frozen=True, eq=False)
class _Fixed:
    """Everything that is settled before the test is opened."""

    study: StoredStudy
    trial: StoredTrial
    opened: Reopened
    name: str
    corrected: Corrected
    point: OperatingPoint
    raw: Any
    network: Any
    champion: Version | None
    champion_network: Any
    exported: Path
    export_difference: float | None
    note: str


def register(request: Request, reporter: Reporter) -> Registered:
    """Test the best trial of a study on the sealed cases, register it, and let the gate decide.

    Raises:
        InputError: If anything the user gave is wrong; the test was not opened then.
        RunError: If a model cannot be read.
    """
    from bhsearch.tracking.store import check_store

    check_store()
    start_framework(reporter)
    client = open_mlflow(reporter)
    with tempfile.TemporaryDirectory() as exported:
        return _register(client, request, _fix(client, request, Path(exported), reporter), reporter)


def _register(client: Any, request: Request, fixed: _Fixed, reporter: Reporter) -> Registered:
    from bhsearch.tracking import registry

    digest = sealed_digest(fixed.opened.index, fixed.opened.split)
    calibration = fixed.point.calibration
    beforehand = {
        "calibration_slope": calibration.slope,
        "calibration_offset": calibration.offset,
        "threshold": fixed.point.threshold,
    }
    run_id = registry.open_seal(client, fixed.study, fixed.trial, digest, beforehand)
    try:
        result = _test_and_register(client, request, fixed, run_id, digest, reporter)
    except BaseException as error:  # Ctrl-C too: the opening stays counted, and its run says how it ended
        registry.end_test(client, run_id, f"{type(error).__name__}: {error}")
        raise
    registry.end_test(client, run_id)
    return result


# -- before the opening ------------------------------------------------------------------------------------------------


def _fix(client: Any, request: Request, exported: Path, reporter: Reporter) -> _Fixed:
    from bhsearch.networks.calibrated import calibrated, load_network
    from bhsearch.tracking import kept, registry, studies

    study = studies.find_study(client, request.study)
    trial = _chosen(study, request.trial)
    name = request.name or study.data
    registry.check_name(name, request.alias)
    opened = reopen(study, reporter, request.data)
    if request.force and not opened.split.promotable:
        raise StudyError(f"--force cannot promote what must never be: {opened.split.why_not_promotable}")
    with reporter.step("loading the model"):
        raw, predictions = deployed_network(study, trial, opened, reporter)
    point = operating_point(predictions)
    network = calibrated(raw, point.calibration.slope, point.calibration.offset)
    difference = _export(request.export, network, opened, exported, reporter)
    champion = registry.holder(client, name, request.alias)
    other = None
    if champion is not None:
        registry.lineage(client, champion)
        other = load_network(kept.keras_file(kept.download(champion.uri)))
    return _Fixed(
        study=study,
        trial=trial,
        opened=opened,
        name=name,
        corrected=corrected_score(competitors(client, study, reporter)),
        point=point,
        raw=raw,
        network=network,
        champion=champion,
        champion_network=other,
        exported=exported,
        export_difference=difference,
        note=preparation.SYNTHETIC if opened.index.synthetic else "",
    )


def competitors(client: Any, study: StoredStudy, reporter: Reporter) -> list[Predictions]:
    """Predictions of all trials that the search chose from: the study's, and those of the one it was started from.

    Raises:
        StudyError: If the study that it was started from is not in this store.
    """
    from bhsearch.tracking import studies

    origin = study.tags.get(STARTED_FROM)
    earlier = studies.find_study(client, origin).trials if origin else ()
    trials = sorted(study.trials, key=lambda trial: trial.number) + sorted(earlier, key=lambda trial: trial.number)
    found = []
    with reporter.step("reading predictions") as progress:
        for done, trial in enumerate(trials, start=1):
            found.append(studies.predictions_of(trial))
            progress(done, len(trials))
    return found


def _export(kind: str | None, network: Any, opened: Reopened, folder: Path, reporter: Reporter) -> float | None:
    """Export before the opening, so that a failure costs none; checked on development images.

    Returns:
        The largest difference to Keras in P(malignant); None without an export.
    """
    if kind is None:
        return None
    from bhsearch.networks.export import export_openvino

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
    client: Any, request: Request, fixed: _Fixed, run_id: str, digest: str, reporter: Reporter
) -> Registered:
    from bhsearch.tracking import registry

    tested = _test(fixed, reporter)
    lineage = {part: rows_of(fixed.opened.index, getattr(fixed.opened.split, part)) for part in ("development", "test")}
    verdict = judge(*_sides(client, fixed, tested, lineage, reporter))
    promoted = "gate" if verdict.promote else ("force" if request.force else "")
    found = registry.openings(client, digest)
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
    with reporter.step("registering the model"):
        _log_files(client, fixed, tested, lineage, run_id)
        version = registry.register(client, run_id, fixed.name, fixed.network, _requirements(), metadata, {})
    result = Registered(
        fixed.study, fixed.trial, fixed.trial == fixed.study.trials[0], fixed.corrected, fixed.point, found, tested,
        verdict, promoted, request.alias, version, fixed.note,
    )  # fmt: skip
    registry.describe(client, version, run_id, describe(result), tags_of(result, digest, request.why))
    if promoted:
        reason = verdict.reason if promoted == "gate" else str(request.why)
        registry.promote(client, version, request.alias, promoted, reason, verdict.numbers)
    return result


def _requirements() -> list[str]:
    versions = preparation.versions()
    return [f"{name}=={versions[name]}" for name in _REQUIRED if name in versions]


def _test(fixed: _Fixed, reporter: Reporter) -> Tested:
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
    return sealed.evaluate(predictions, before, fixed.point.threshold)


def _ask(network: Any, opened: Reopened, what: str, reporter: Reporter) -> npt.NDArray[np.float32]:
    """P(malignant) of every test image, from the files. Shape (n_test,)."""
    from bhsearch.networks.calibrated import predict_images

    paths = opened.index.select(opened.split.test).paths()
    with reporter.step(what) as progress:

        def images() -> Iterator[npt.NDArray[np.uint8]]:
            for done, path in enumerate(paths, start=1):
                yield decode(path)
                progress(done, len(paths))

        return np.fromiter(predict_images(network, images()), np.float32, len(paths))


def _sides(
    client: Any, fixed: _Fixed, tested: Tested, lineage: dict[str, dict[str, list[str]]], reporter: Reporter
) -> tuple[TestScores, TestScores | None]:
    """Challenger and champion on the challenger's test images, as the gate wants them."""
    from bhsearch.tracking import registry

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
    return challenger, side(probability, registry.lineage(client, fixed.champion)["development"], "")


def _log_files(
    client: Any, fixed: _Fixed, tested: Tested, lineage: dict[str, dict[str, list[str]]], run_id: str
) -> None:
    from bhsearch.evaluation import sealed_plots
    from bhsearch.networks.resize import make_resize
    from bhsearch.tracking import registry, studies

    resize = make_resize(fixed.opened.settings.resize, fixed.opened.settings.image_size)
    paths = fixed.opened.index.select(fixed.opened.split.test).paths()
    drawn = sealed_plots.pictures(tested, fixed.note)
    drawn["right_and_wrong"] = sealed_plots.worst_and_best(
        tested, lambda row: resize.apply(decode(paths[row]))[0], fixed.note
    )
    found = [
        str(opening) for opening in registry.openings(client, sealed_digest(fixed.opened.index, fixed.opened.split))
    ]
    card = make_card(
        fixed.study, fixed.trial, fixed.opened, fixed.corrected, fixed.point, tested, found, drawn, fixed.raw
    )
    with tempfile.TemporaryDirectory() as draft:
        folder = Path(draft)
        (folder / "pictures").mkdir()
        for name, content in drawn.items():
            (folder / "pictures" / f"{name}.png").write_bytes(content)
        card.write(folder)
        tested.predictions.to_csv(
            folder / studies.TEST_PREDICTIONS, f"{fixed.note}. {DISCLAIMER}" if fixed.note else DISCLAIMER
        )
        (folder / registry.LINEAGE).write_text(json.dumps(lineage), encoding="utf-8")
        values = tested.flat()
        if fixed.export_difference is not None:
            shutil.copytree(fixed.exported, folder / "openvino")
            values["export_difference"] = fixed.export_difference
        registry.log_test(client, run_id, values, folder)
