"""Records that a study gives to the tracking through the outbox. Every record is JSON, with arrays beside it."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class PixelFile(TypedDict):
    """The resized images in the cache: path of the file, and its shape (n_images, n_tiles, size, size, 3)."""

    file: str
    shape: list[int]


class BackboneRecord(TypedDict):
    """A backbone: its name, the file of its weights (empty if it has none), their digest, and its kind."""

    name: str
    file: str
    digest: str
    kind: str


class StudyRecord(TypedDict):
    """What all trials of a study have in common.

    Attributes:
        schema: Schema number; see `runtime.schema`.
        uid: Identifier of the study.
        user: Login name of the person who runs it.
        study: Name of the study.
        experiment: Name of the MLflow experiment.
        data: Name of the data set.
        root: Folder of the images.
        digest: Fingerprint of the data.
        note: Text that belongs on every picture; may be empty.
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
    note: str
    settings: dict[str, Any]
    tags: dict[str, str]
    files: dict[str, Any]
    backbones: dict[str, BackboneRecord]
    pixels: PixelFile
    augmented: bool
    requirements: list[str]


class TrialRecord(TypedDict):
    """The end of a trial.

    Attributes:
        number: Number of the trial.
        state: `COMPLETE`, `PRUNED` or `FAIL`.
        params: Its parameters.
        started_ms, ended_ms: Milliseconds since 1970.
        retry_of: Number of the trial that it retries; None if it is no retry.
        score, interval, cost, model, resolved: Only in a complete trial: score, ends of its interval, cost of the
            deployed model, description of the model, and what `auto` stood for on the device.
        seconds, curves: Only in a complete or pruned trial.
        reason: Only in a failed trial.
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
    seconds: NotRequired[float]
    cost: NotRequired[dict[str, float]]
    curves: NotRequired[dict[str, list[float]]]
    model: NotRequired[dict[str, Any]]
    reason: NotRequired[str]


class BestTrial(TypedDict):
    """A row of the picture of the best trials."""

    name: str
    score: float
    low: float
    high: float
    tied: bool


class SummaryRecord(TypedDict):
    """The end of a session of a study.

    Attributes:
        trials: All trials: `number`, `state`, `params`, `value`, `notes`.
        importances: Importance of each parameter.
        importance_spread: Standard deviation of each importance.
        policies: Names of the augmentation policies whose pictures are in the arrays.
        log: Parameters that are drawn on a logarithmic scale.
        best: The best trials that have an interval.
        corrected: Corrected score of the best trial: `score`, `low`, `high`, ...; None if it is not known.
        finished: Number of finished trials.
        settled: Numbers of trials whose runs must have ended.
        summary: Description of the study's run, Markdown.
        status: MLflow status of the study's run.
        ended_ms: Milliseconds since 1970.
        lost: Message if the storage of the study was lost; empty otherwise.
    """

    trials: list[dict[str, Any]]
    importances: dict[str, float]
    importance_spread: dict[str, float]
    policies: list[str]
    log: list[str]
    best: list[BestTrial]
    corrected: dict[str, Any] | None
    finished: int
    settled: list[int]
    summary: str
    status: str
    ended_ms: int
    lost: str
