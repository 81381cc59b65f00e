"""Train a trial again from what MLflow holds, and compare its predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bhsearch.errors import StudyError
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
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bhsearch.evaluation.predictions import Predictions
from bhsearch.models.calibrated import load_network

if TYPE_CHECKING:
    from bhsearch.tracking.reader import StoredStudy, StoredTrial

SAME = 1e-5  # largest difference of P(malignant) that a frozen trial shows on the same machine


@dataclass(frozen=True)
class Reproduced:
    """Comparison of a reproduced trial with the original.

    Attributes:
        study: Its study's name.
        number: Its number.
        score: Score of the original trial.
        score_now: Score of the reproduced trial.
        largest: Largest difference of an image's out-of-fold P(malignant).
        mean: Mean difference.
        n_images: Images that were compared.
        versions: Packages whose version differs, as `name then -> now`.
    """

    study: str
    number: int
    score: float
    score_now: float
    largest: float
    mean: float
    n_images: int
    versions: tuple[str, ...]


def reproduce(run_id: str, reporter: ProgressReporter, data: str | None = None) -> Reproduced:
    """Train a trial again and compare its out-of-fold predictions with those kept.

    Args:
        run_id: The MLflow run of the trial.
        reporter: Receives progress events.
        data: Where the data are now, if they were moved.

    Raises:
        StudyError: If it is no run of a finished trial, or of a regime that cannot be repeated.
        DataError: If the data are not those of the study any more; the files are named.
        BackboneError: If the weights of the backbone are not available.
    """
    from bhsearch.tracking.connection import require_store

    check_backend()
    require_store()
    start_framework(reporter)
    client = open_mlflow(reporter)
    from bhsearch.tracking import reader

    study, trial = reader.study_of(client, run_id)
    opened = restore_study(study, reporter, data)
    kept = reader.predictions_of(trial)
    if kept.path.tolist() != opened.development.column("path").tolist():
        raise StudyError(f"The predictions of trial {trial.number} must be of the study's images, but are of others.")
    outcome = run_again(study, trial, opened, reporter)
    then, now = reader.read_record(study, keys.VERSIONS), versions()
    gap = np.abs(outcome.probability.astype(np.float64) - kept.probability)
    return Reproduced(
        study=study.name,
        number=trial.number,
        score=float(trial.score or 0.0),
        score_now=outcome.score,
        largest=float(gap.max()),
        mean=float(gap.mean()),
        n_images=len(kept),
        versions=tuple(f"{name} {then[name]} -> {now.get(name)}" for name in then if then[name] != now.get(name)),
    )


def run_again(study: StoredStudy, trial: StoredTrial, opened: RestoredStudy, reporter: ProgressReporter) -> TrialResult:
    """Train a trial again with its parameters, on its split, from the same initial heads.

    Raises:
        StudyError: If the study does not say enough, or the weights of the backbone are others now.
    """
    from bhsearch.study.objective_factory import make_objective
    from bhsearch.tracking import reader

    params = complete_params_of(study, trial)
    backbone = backbone_of(study, opened.settings, params["backbone"])
    regime = study.tags[keys.REGIME]
    prepared = StudyContext.of(
        opened.settings, opened.index, opened.split, AvailableBackbones((backbone,)), study.name, regime
    )
    objective = make_objective(prepared, reader.read_record(study, keys.ORIGIN), reporter)
    with reporter.step("training again"):
        return objective(params, lambda _: None)


def deployed_network(
    study: StoredStudy, trial: StoredTrial, opened: RestoredStudy, reporter: ProgressReporter
) -> tuple[Any, Predictions]:
    """Return the network of a trial for test and registration, and its out-of-fold predictions.

    The network is the ensemble over the folds, from uint8 RGB to P(malignant), not calibrated: heads on one backbone in
    the frozen regime, several networks in the finetune regime. A trial without a model (`--keep-models`) is trained
    again with its parameters on its split; then the predictions are those of the new network, and their difference to
    the stored ones is reported.

    Raises:
        StudyError: If MLflow does not have the model, or not enough to train the trial again.
        BackboneError: If the weights of the backbone are not available.
    """
    from bhsearch.tracking import model_files, reader

    predictions = reader.predictions_of(trial)
    if trial.model_uri:
        return load_network(model_files.keras_file(reader.model_folder(study, trial))), predictions
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
    from bhsearch.models.inference_model import ModelPool, inference_network

    outcome = run_again(study, trial, opened, reporter)
    settings = opened.settings
    backbone = backbone_of(study, settings, trial.params["backbone"])
    made = inference_network(
        ModelPool(), backbone, settings.resize, settings.image_size, outcome.model, dict(outcome.arrays)
    )
    with tempfile.TemporaryDirectory() as folder:
        made.save(Path(folder) / "model.keras")
        network = load_network(Path(folder) / "model.keras")
    return network, replace(predictions, probability=outcome.probability)
