"""Store the learning curve of a study's proposed trial on the run of the study, and read it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bhsearch.errors import MissingError
from bhsearch.evaluation.supplementary.learning_curve import LearningCurve
from bhsearch.lifecycle.reproduce import context_of
from bhsearch.lifecycle.restore import complete_params_of, restore_study
from bhsearch.study.context import FINETUNE
from bhsearch.study.events import ProgressReporter
from bhsearch.tracking import keys

if TYPE_CHECKING:
    from bhsearch.tracking.reader import StoredStudy, StoredTrial

_OPTION = "`bhsearch report --learning-curve` computes it"
_FINETUNED = "it is not computed in the finetune regime, where every point would be a training of the networks"


def log_learning_curve(
    client: Any, study: StoredStudy, trial: StoredTrial | None, reporter: ProgressReporter, data: str | None = None
) -> None:
    """Compute the learning curve of a study's proposed trial and log it on the study's run.

    Args:
        client: Client of the MLflow store.
        study: The study as stored in MLflow.
        trial: The proposed trial; None if no trial is complete.
        reporter: Receives progress events.
        data: Current location of the data set, if it was moved.

    Raises:
        DataError: If the data have changed since the study; the message lists the files.
        BackboneError: If features are missing and the weights of the backbone are not available.
    """
    from bhsearch.lifecycle.learning_curve.computed import NoLearningCurve, curve_of
    from bhsearch.tracking import reader

    if trial is None or study.tags[keys.REGIME] == FINETUNE:
        return  # the report states the reason
    record: dict[str, Any] = {"trial": trial.number}
    values: dict[str, float] = {}
    params = complete_params_of(study, trial)
    prepared = context_of(study, trial, restore_study(study, reporter, data))
    try:
        curve = curve_of(prepared, params, reader.predictions_of(trial), reporter)
    except NoLearningCurve as reason:
        record["reason"] = str(reason)
    else:
        record["curve"] = curve.to_record()
        names = [f"{name}{end}" for name in ("auc_at_twice_the_cases", "gain") for end in ("", "_low", "_high")]
        numbers = (*curve.predicted, curve.gain, curve.gain_low, curve.gain_high)
        values = dict(zip(names, numbers, strict=True))
    reader.log_learning_curve(client, study, record, values)


def stored_curve(study: StoredStudy, trial: StoredTrial | None) -> tuple[LearningCurve | None, str]:
    """Return the stored learning curve of a study's proposed trial, or None and the reason why there is none."""
    from bhsearch.tracking import reader

    if trial is None:
        return None, "no trial is complete"
    if study.tags[keys.REGIME] == FINETUNE:
        return None, _FINETUNED
    try:
        record: Mapping[str, Any] = reader.read_record(study, keys.LEARNING_CURVE_RECORD)
    except MissingError:
        return None, f"not computed; {_OPTION} from cached features"
    if record["trial"] != trial.number:
        was, now = f"it was computed for trial {record['trial']}", f"the study now proposes trial {trial.number}"
        return None, f"{was}, but {now}; {_OPTION} again"
    if "reason" in record:
        return None, str(record["reason"])
    return LearningCurve.from_record(record["curve"]), ""
