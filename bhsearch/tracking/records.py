"""Records that a study passes to MLflow through the outbox.

Each record is stored as JSON; its arrays are stored in a separate file.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from bhsearch.models.backbones.base import BackboneRecord
from bhsearch.tasks import TaskRecord


class PixelFile(TypedDict):
    """The cached resized images: path of the file, and shape (n_images, n_tiles, size, size, 3) of the array.

    The path is empty if there are only vectors.
    """

    file: str
    shape: list[int]


class StudyRecord(TypedDict):
    """Facts of a study that hold for all its trials.

    Attributes:
        schema: Schema number; see `runtime.store_schema`.
        uid: Identifier of the study.
        user: Login name of the person who runs the study.
        study: Name of the study.
        experiment: Name of the MLflow experiment.
        data: Name of the data set.
        root: Folder of the images.
        digest: Fingerprint of the data.
        task: Task of the study; absent in records of earlier versions.
        note: Text shown on every picture, such as that the data are synthetic; may be empty.
        settings: Resolved settings.
        tags: Tags of the study's run.
        files: Content of JSON artifacts, by file name.
        backbones: Backbones by name.
        pixels: The resized images.
        augmented: Whether images are augmented while a network is trained.
        requirements: Requirements of the logged models, for pip.
    """

    schema: int
    uid: str
    user: str
    study: str
    experiment: str
    data: str
    root: str
    digest: str
    task: NotRequired[TaskRecord]
    note: str
    settings: dict[str, Any]
    tags: dict[str, str]
    files: dict[str, Any]
    backbones: dict[str, BackboneRecord]
    pixels: PixelFile
    augmented: bool
    requirements: list[str]


class TrialRecord(TypedDict):
    """The outcome of a trial.

    Attributes:
        number: Number of the trial.
        state: `COMPLETE`, `PRUNED` or `FAIL`.
        params: Parameters of the trial.
        started_ms, ended_ms: Start and end in milliseconds since 1970.
        retry_of: Number of the trial that was retried; None if this trial is not a retry.
        score, interval, cost, model, resolved: Only in a complete trial: score, ends of the score's interval, cost of
            the deployed model, description of the model, and the values to which `auto` settings were resolved.
        precision: Only in a complete trial of a frozen study: choice of the precision of its features, see
            `study.feature_precision.PrecisionChoice`.
        joined: Only in a complete trial of a joint backbone: names of the backbones that it joins.
        seconds, curves: Only in a complete or pruned trial: duration, and values of each learning curve.
        reason: Only in a failed trial: reason of the failure.
    """

    number: int
    state: str
    params: dict[str, Any]
    started_ms: int
    ended_ms: int
    retry_of: int | None
    score: NotRequired[float]
    interval: NotRequired[tuple[float, float]]
    resolved: NotRequired[dict[str, str]]
    precision: NotRequired[dict[str, Any]]
    joined: NotRequired[list[str]]
    seconds: NotRequired[float]
    cost: NotRequired[dict[str, float]]
    curves: NotRequired[dict[str, list[float]]]
    model: NotRequired[dict[str, Any]]
    reason: NotRequired[str]


class BestTrial(TypedDict):
    """A row in the figure of the best trials."""

    name: str
    score: float
    low: float
    high: float
    tied: bool


class SelectionRecord(TypedDict):
    """Number of the trial with the best score, number of the proposed trial, and sentences that explain the choice."""

    best: int
    proposed: int
    reason: str


class SummaryRecord(TypedDict):
    """The summary of a study at the end of a session.

    Attributes:
        trials: All trials: `number`, `state`, `params`, `value`, `notes`.
        importances: Importance of each parameter.
        importance_spread: Standard deviation of each importance.
        policies: Names of the augmentation policies whose pictures are in the arrays of this record.
        log: Names of parameters plotted on a logarithmic scale.
        best: The best trials that have an interval.
        selection: Best and proposed trial; None if no trial is complete.
        corrected: Corrected score of the proposed trial: `score`, `low`, `high`, `bound`, ...; None if unknown.
        default: Trial with the default parameters, and the difference of the proposed trial to it: `number`,
            `difference`, `low`, `high`, ...; None if unknown.
        race: Numbers of the raced trials, in the order of their predictions in the arrays of this record: `race_fold`,
            shape (n_divisions, n_images), and `race_probability`, shape (n_raced, n_divisions, n_images).
        finished: Number of finished trials.
        settled: Numbers of trials whose runs must have ended.
        summary: Description of the study's run, Markdown.
        status: MLflow status of the study's run.
        ended_ms: End of the session in milliseconds since 1970.
        lost: Message if the storage of the study was lost; empty otherwise.
        robustness: Records of `Robustness` by trial number; empty if it was not computed, and absent
            in records of earlier versions.
        nested: Score of the nested search: `score`, `low`, `high`, `n_trials`, `n_folds`; None if it was not computed,
            and absent in records of earlier versions.
    """

    trials: list[dict[str, Any]]
    importances: dict[str, float]
    importance_spread: dict[str, float]
    policies: list[str]
    log: list[str]
    best: list[BestTrial]
    selection: SelectionRecord | None
    corrected: dict[str, Any] | None
    default: dict[str, Any] | None
    race: list[int]
    finished: int
    settled: list[int]
    summary: str
    status: str
    ended_ms: int
    lost: str
    robustness: NotRequired[dict[str, dict[str, Any]]]
    nested: NotRequired[dict[str, Any] | None]
