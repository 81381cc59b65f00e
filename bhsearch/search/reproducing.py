"""A trial again, from what MLflow holds of it, and how far its predictions then differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bhsearch.errors import StudyError
from bhsearch.networks.backbones import Found
from bhsearch.networks.keras_settings import check_backend
from bhsearch.search.preparation import Preparation, versions
from bhsearch.search.reopening import STARTED_FROM, Reopened, backbone_of, params_of, reopen
from bhsearch.search.reporter import Reporter
from bhsearch.search.starting import open_mlflow, start_framework

if TYPE_CHECKING:
    from bhsearch.search.objective import Outcome
    from bhsearch.tracking.studies import StoredStudy, StoredTrial

SAME = 1e-5  # in P(malignant): what a frozen trial stays below on the same machine


@dataclass(frozen=True)
class Reproduced:
    """How a trial came out again.

    Attributes:
        study: Its study's name.
        number: Its number.
        score: As it was kept.
        score_now: As it came out.
        largest: Largest difference of an image's out-of-fold P(malignant).
        mean: Mean difference.
        n_images: Images that were compared.
        versions: Packages of other versions than then, as `name then -> now`.
    """

    study: str
    number: int
    score: float
    score_now: float
    largest: float
    mean: float
    n_images: int
    versions: tuple[str, ...]


def reproduce(run_id: str, reporter: Reporter, data: str | None = None) -> Reproduced:
    """Train a trial again and compare its out-of-fold predictions with those kept.

    Args:
        run_id: The MLflow run of the trial.
        reporter: Hears of it.
        data: Where the data lie now, if not where they lay then.

    Raises:
        StudyError: If it is no run of a finished trial, or of a regime that cannot be repeated.
        DataError: If the data are not those of the study any more; the files are named.
        BackboneError: If the backbone cannot be had.
    """
    from bhsearch.tracking.store import require_store

    check_backend()
    require_store()
    start_framework(reporter)
    client = open_mlflow(reporter)
    from bhsearch.tracking import studies

    study, trial = studies.study_of(client, run_id)
    opened = reopen(study, reporter, data)
    kept = studies.predictions_of(trial)
    if kept.path.tolist() != opened.development.column("path").tolist():
        raise StudyError(f"The predictions of trial {trial.number} must be of the study's images, but are of others.")
    outcome = run_again(study, trial, opened, reporter)
    then, now = studies.record(study, studies.VERSIONS), versions()
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


def run_again(study: StoredStudy, trial: StoredTrial, opened: Reopened, reporter: Reporter) -> Outcome:
    """Train a trial at its point, on its split, from what it was started from.

    Raises:
        StudyError: If the study does not say enough, or the weights of the backbone are others now.
    """
    from bhsearch.search.regimes import make_objective
    from bhsearch.tracking import studies

    params = params_of(study, trial)
    backbone = backbone_of(study, opened.settings, params["backbone"])
    regime = study.tags["bhsearch.regime"]
    prepared = Preparation(
        opened.settings, opened.index, opened.split, opened.development, Found((backbone,)), study.name, regime
    )
    objective = make_objective(prepared, studies.record(study, STARTED_FROM), reporter)
    with reporter.step("training again"):
        return objective(params, lambda _: None)
