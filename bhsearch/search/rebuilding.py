"""The network of a trial: the one that MLflow keeps, or where that was not kept, the same made again."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bhsearch.evaluation.predictions import Predictions
from bhsearch.networks.calibrated import load_network
from bhsearch.search.reopening import Reopened, backbone_of
from bhsearch.search.reporter import Reporter
from bhsearch.search.reproducing import run_again

if TYPE_CHECKING:
    from bhsearch.tracking.studies import StoredStudy, StoredTrial


def deployed_network(
    study: StoredStudy, trial: StoredTrial, opened: Reopened, reporter: Reporter
) -> tuple[Any, Predictions]:
    """The network of a trial that is tested and registered, and its out-of-fold predictions.

    It is the ensemble over the folds, which is one network in both regimes: heads on one backbone, or networks side by
    side; uint8 RGB in, P(malignant) out, not calibrated. A trial without a model (`--keep-models`) is trained again at
    its point, on its split: then the predictions are those of the network made now, and how far they differ is said.

    Raises:
        StudyError: If MLflow does not have the model that it says it has, or not enough to make it again.
        BackboneError: If the backbone cannot be had again.
    """
    from bhsearch.tracking import kept, studies

    predictions = studies.predictions_of(trial)
    if trial.model_uri:
        return load_network(kept.keras_file(studies.model_folder(study, trial))), predictions
    reporter.say(f"Trial {trial.number} has no model in MLflow (--keep-models), so it is trained again.")
    network, again = _made_again(study, trial, opened, predictions, reporter)
    gap = np.abs(again.probability - predictions.probability).max()
    reporter.say(
        f"Its out-of-fold P(malignant) differs by at most {gap:.1g} from then; calibration and threshold are of now."
    )
    return network, again


def _made_again(
    study: StoredStudy, trial: StoredTrial, opened: Reopened, predictions: Predictions, reporter: Reporter
) -> tuple[Any, Predictions]:
    from bhsearch.networks.deployed import ModelPool, kept_network

    outcome = run_again(study, trial, opened, reporter)
    settings = opened.settings
    backbone = backbone_of(study, settings, trial.params["backbone"])
    made = kept_network(
        ModelPool(), backbone, settings.resize, settings.image_size, outcome.model, dict(outcome.arrays)
    )
    with tempfile.TemporaryDirectory() as folder:
        made.save(Path(folder) / "model.keras")
        network = load_network(Path(folder) / "model.keras")
    return network, replace(predictions, probability=outcome.probability)
