"""Retrain a trial from its records in MLflow, and compare the predictions with the stored ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bhsearch.errors import SettingsError, StudyError
from bhsearch.lifecycle.candidate import trial_of
from bhsearch.lifecycle.restore import RestoredStudy, backbone_of, complete_params_of, restore_study
from bhsearch.models.backbones.base import AvailableBackbones
from bhsearch.models.keras_settings import check_backend
from bhsearch.study.context import StudyContext, versions
from bhsearch.study.events import ProgressReporter
from bhsearch.study.startup import open_mlflow, start_framework
from bhsearch.tracking import keys

if TYPE_CHECKING:
    from bhsearch.objectives.base import TrialResult
    from bhsearch.tracking.reader import StoredStudy, StoredTrial
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bhsearch.evaluation.predictions import Predictions
from bhsearch.models.calibrated import load_network

if TYPE_CHECKING:
    from bhsearch.tracking.reader import StoredStudy, StoredTrial

SAME = 1e-5  # on the same machine, P(malignant) of a retrained frozen trial differs by less


@dataclass(frozen=True)
class Reproduced:
    """Comparison of a reproduced trial with the original.

    Attributes:
        study: Name of the study.
        number: Number of the trial.
        score: Score of the original trial.
        score_now: Score of the reproduced trial.
        largest: Largest absolute difference in out-of-fold P(malignant).
        mean: Mean absolute difference in out-of-fold P(malignant).
        n_images: Number of compared images.
        versions: Packages whose version has changed, as `name then -> now`.
        title: Name of the score: AUC, or mixed score if shifts count in it.
    """

    study: str
    number: int
    score: float
    score_now: float
    largest: float
    mean: float
    n_images: int
    versions: tuple[str, ...]
    title: str = "AUC"


def reproduce(
    run_id: str | None,
    reporter: ProgressReporter,
    data: str | None = None,
    *,
    study: str | None = None,
    trial: int | None = None,
) -> Reproduced:
    """Retrain a trial and compare its out-of-fold predictions with the stored ones.

    Args:
        run_id: MLflow run of the trial; None to name the trial by `study` and `trial`.
        reporter: Receives progress events.
        data: Current location of the data set, if it was moved.
        study: Name, uid or run of the study; None for the only study of the store.
        trial: Number of the trial within its study; None for the best.

    Raises:
        SettingsError: If both a run, and a study or a trial, are given.
        StudyError: If the run is not the run of a complete trial, or if the trial cannot be retrained.
        DataError: If the data have changed since the study; the message lists the files.
        BackboneError: If the weights of the backbone are not available.
    """
    from bhsearch.tracking.connection import require_store

    if run_id is not None and (study is not None or trial is not None):
        raise SettingsError(
            f"A trial must be named by its run or by --study and --trial, but got the run {run_id!r} and "
            f"{'--study' if study is not None else '--trial'}. Remove one of them."
        )
    check_backend()
    require_store()
    start_framework(reporter)
    client = open_mlflow(reporter)
    from bhsearch.tracking import reader

    if run_id is not None:
        of, found = reader.study_of(client, run_id)
    else:
        of = reader.find_study(client, study)
        found = trial_of(of, trial)
    return _compare(of, found, restore_study(of, reporter, data), reporter)


def _compare(study: StoredStudy, trial: StoredTrial, opened: RestoredStudy, reporter: ProgressReporter) -> Reproduced:
    from bhsearch.tracking import reader

    kept = reader.predictions_of(trial)
    if kept.path.tolist() != opened.development.column("path").tolist():
        raise StudyError(
            f"The stored predictions of trial {trial.number} are for other images than those of the study, so they "
            "cannot be compared. Choose another run."
        )
    outcome = run_again(study, trial, opened, reporter)
    then, now = reader.read_record(study, keys.VERSIONS), versions()
    gap = np.abs(outcome.out_of_fold.astype(np.float64) - kept.out_of_fold)
    return Reproduced(
        study=study.name,
        number=trial.number,
        score=float(trial.score or 0.0),
        score_now=outcome.score,
        largest=float(gap.max()),
        mean=float(gap.mean()),
        n_images=len(kept),
        versions=tuple(f"{name} {then[name]} -> {now.get(name)}" for name in then if then[name] != now.get(name)),
        title=study.score_title,
    )


def run_again(study: StoredStudy, trial: StoredTrial, opened: RestoredStudy, reporter: ProgressReporter) -> TrialResult:
    """Retrain a trial with the original parameters, split and initial heads, and return the result.

    Raises:
        StudyError: If a record of the study is missing, or if the weights of the backbone have changed.
    """
    from bhsearch.study.objective_factory import make_objective
    from bhsearch.tracking import reader

    params = complete_params_of(study, trial)
    prepared = context_of(study, trial, opened)
    objective = make_objective(prepared, reader.read_record(study, keys.ORIGIN), reporter)
    with reporter.step("training again"):
        return objective(params, lambda _: None)


def context_of(study: StoredStudy, trial: StoredTrial, opened: RestoredStudy) -> StudyContext:
    """Return the context of a study whose only backbone is that of a trial, with those that it joins.

    Raises:
        StudyError: If a record of the study is missing, or if the weights of the backbone have changed.
    """
    backbone = backbone_of(study, opened.settings, trial.params["backbone"])
    singles = backbone.members or (backbone,)
    precisions = {single.name: keys.feature_precision_of(study.tags, single.name) for single in singles}
    found, regime = AvailableBackbones(singles), study.tags[keys.REGIME]
    context = StudyContext.of(opened.settings, opened.index, opened.split, found, study.name, regime)
    return replace(context, precisions=precisions, backbones={**context.backbones, backbone.name: backbone})


def deployed_network(
    study: StoredStudy, trial: StoredTrial, opened: RestoredStudy, reporter: ProgressReporter
) -> tuple[Any, Predictions]:
    """Return the uncalibrated network of a trial, for test and registration, and its predictions of unchanged images.

    The network is the ensemble over the folds, from uint8 RGB to P(malignant): heads on one backbone in the frozen
    regime, one network per fold in the finetune regime. If MLflow keeps no model of the trial (`--keep-models`), the
    trial is retrained. The returned predictions are then those of the retrained networks, and their largest difference
    from the stored predictions is reported.

    Raises:
        StudyError: If MLflow lacks the model, or a record that is needed to retrain the trial.
        BackboneError: If the weights of the backbone are not available.
    """
    from bhsearch.tracking import model_files, reader

    predictions = reader.predictions_of(trial).unchanged
    if trial.model_uri:
        return load_network(model_files.network_file(reader.model_folder(study, trial))), predictions
    reporter.say(f"Trial {trial.number} has no model in MLflow (--keep-models), so it is trained again.")
    network, again = _made_again(study, trial, opened, predictions, reporter)
    gap = np.abs(again.probability - predictions.probability).max()
    reporter.say(
        f"Its out-of-fold P(malignant) differs by at most {gap:.1g} from then; calibration and threshold are of now."
    )
    return network, again


def _made_again(
    study: StoredStudy, trial: StoredTrial, opened: RestoredStudy, predictions: Predictions, reporter: ProgressReporter
) -> tuple[Any, Predictions]:
    from bhsearch.models.structures import ArchivePool, StructureBuilder

    outcome = run_again(study, trial, opened, reporter)
    settings = opened.settings
    backbone = backbone_of(study, settings, trial.params["backbone"])
    link = study.task.link
    archives = ArchivePool(link, StructureBuilder(link))
    network = archives.load(backbone, settings.resize, settings.image_size, outcome.model, outcome.arrays)
    return network, replace(predictions, probability=outcome.probability)
