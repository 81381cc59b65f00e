"""Names that bhsearch uses in MLflow: tags, metrics, parameters, artifacts, saved views and runs.

Other modules use these constants instead of string literals. Does not import MLflow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bhsearch.evaluation import held_out_test, metrics
from bhsearch.models.backbones.licence import UNKNOWN, consequence, joint_licence
from bhsearch.models.backbones.registry import licence_without_record
from bhsearch.models.frozen.precision import F32

PREFIX = "bhsearch."

# -- tags of experiments and of the runs of studies --------------------------------------------------------------------

SCHEMA = "bhsearch.schema"  # schema number of an experiment and of the run of a study; see `runtime.store_schema`
UID = "bhsearch.study_uid"
STUDY = "bhsearch.study"
DATA_FINGERPRINT, SPLIT_FINGERPRINT = "bhsearch.data_fingerprint", "bhsearch.split_fingerprint"
REGIME, GROUP_BY = "bhsearch.regime", "bhsearch.group_by"
TASK = "bhsearch.task"  # name and class names of the task, JSON; see `tasks.TaskRecord`; also on registered versions
SYNTHETIC = "bhsearch.synthetic"  # `True` if a program drew the images
LICENCES = "bhsearch.licences"  # licence of the weights of each backbone, JSON; on the run of a study
# Choice of the precision of each backbone's features, with its reason and the comparison, JSON; on the run of a study.
FEATURE_PRECISIONS = "bhsearch.feature_precisions"
VECTORS = "bhsearch.vectors"  # files of vectors and their encoders, JSON; on the run of a study without images
JOINTS = "bhsearch.joints"  # names of the backbones that each joint backbone joins, JSON; on the run of a study
PLUGINS = "bhsearch.plugins"  # plugins in use, with distribution and version; absent if there are none
STARTED_FROM = "bhsearch.started_from"  # name of the earlier study that a study was started from
BEST_TRIAL, PROPOSED_TRIAL = "bhsearch.best_trial", "bhsearch.proposed_trial"  # numbers, on the run of a study
PROPOSED_BECAUSE = "bhsearch.proposed_because"  # why this trial is proposed
DEFAULT_TRIAL = "bhsearch.default_trial"  # number of the trial with the default parameters
LOST = "bhsearch.storage_lost"  # on the run of a study whose storage was lost during the search

# -- tags of the runs of trials ----------------------------------------------------------------------------------------

TRIAL = "bhsearch.trial"  # number of the trial; `NO_TRIAL` on the run of the study
NO_TRIAL = "none"
STATE, REASON = "bhsearch.state", "bhsearch.reason"
RETRY_OF, RETRY_OF_RUN = "bhsearch.retry_of", "bhsearch.retry_of_run"
LICENCE = "bhsearch.licence"  # of the backbone: its name, `unknown` or `no weights`; also on registered versions
JOINED = "bhsearch.joined"  # names of the backbones that the trial's backbone joins, such as `a + b`; absent for one
FEATURE_PRECISION = "bhsearch.feature_precision"  # `f32` or `bf16`; absent in the finetune regime
MODEL = "bhsearch.model"  # `kept`, `leaving` or `none`: whether MLflow has the model of the trial

# -- tags of accesses to the sealed test -------------------------------------------------------------------------------

OPENED = "bhsearch.opened"  # time of the access; on the run with the result of the test
OPENED_TRIAL, OPENED_UID = "bhsearch.opened_trial", "bhsearch.opened_uid"
OPENING_ID = "bhsearch.opening_id"
OPENINGS = "bhsearch.openings"  # number of accesses to the sealed images; on every run and version tested on them
ACCESS_COPY = "bhsearch.opening."  # followed by the id of the access; on the experiment and the registered model
SEALED = "bhsearch.sealed"  # digest of the sealed images; on every run and version tested on them

# -- tags of validations on external cohorts ---------------------------------------------------------------------------

KIND, VALIDATION = "bhsearch.kind", "validation"  # tag of the run of a validation, and its value
COHORT = "bhsearch.cohort"  # digest of the images of the cohort
VALIDATED, VALIDATION_REASON = "bhsearch.validated", "bhsearch.validation_reason"  # time of the access; its reason
VALIDATED_UID, VALIDATED_TRIAL = "bhsearch.validated_uid", "bhsearch.validated_trial"  # study and trial of the model
VALIDATED_MODEL = "bhsearch.validated_model"  # name and version
VALIDATION_ID = "bhsearch.validation_id"
VALIDATIONS = "bhsearch.validations"  # number of accesses to images or cases of the cohort so far, this one included
VALIDATION_COPY = "bhsearch.validation."  # followed by the id of the access; on experiment and registered model

# -- tags of registered models and their versions ----------------------------------------------------------------------

GATE, GATE_REASON, GATE_NUMBERS = "bhsearch.gate", "bhsearch.gate_reason", "bhsearch.gate_numbers"
FORCED, ALIAS = "bhsearch.forced", "bhsearch.alias"  # reason for overruling the gate; alias of a promoted version
PROMOTED, INSTEAD_OF = "bhsearch.promoted", "bhsearch.instead_of"  # `gate` or `force`; number of the version replaced
AUC_RAW, AUC_CORRECTED, TEST_AUC = "bhsearch.auc_raw", "bhsearch.auc_corrected", "bhsearch.test_auc"
FIXED_THRESHOLD, FIXED_CALIBRATION = "bhsearch.threshold", "bhsearch.calibration"
NOTE = "bhsearch.note"  # text shown with every number; absent if empty
RESULT = "bhsearch.result"  # rows and notes of the test result as first shown, JSON
DATA = "bhsearch.data"  # name of the data set; on the registered model
PROMOTION = "bhsearch.promotion."  # followed by a number: an entry in the history of promotions
TEST_RUN = "bhsearch.test_run"  # run of the test from which a version was registered

# -- metrics: MLflow groups names by the part before the slash -- ------------------------------------------------------

AUC = metrics.AUC
AUC_LOW, AUC_HIGH, SECONDS = "auc_low", "auc_high", "seconds"
SCORE, SCORE_LOW, SCORE_HIGH = "score", "score_low", "score_high"  # mixed score; absent if the score is the AUC
EPOCH = "epoch/"  # curves of a trial
COST = "cost/"  # of a trial
ROBUSTNESS = "robustness/"  # of a trial under shifts, in all, and followed by a shift and a slash for each
TEST = held_out_test.TEST  # of the sealed test
EXTERNAL = "external/"  # of a validation on an external cohort
EXTERNAL_SITE = "external_site/"  # followed by site and metric
EXPORT_DIFFERENCE = "export_difference"
# On the run of a study, with the number of the trial as the step.
TRIAL_AUC, TRIAL_BEST = "trial/auc", "trial/best"
# On the run of a study, logged when the study ends.
CORRECTED = {
    "corrected/auc": "score",
    "corrected/auc_low": "low",
    "corrected/auc_high": "high",
    "corrected/auc_bound": "bound",  # one-sided lower bound of the score of the proposed trial
}
OVER_DEFAULT = {
    "over_default/auc": "difference",
    "over_default/auc_low": "low",
    "over_default/auc_high": "high",
}  # difference between the proposed trial and the default parameters
NESTED = {"nested/auc": "score", "nested/auc_low": "low", "nested/auc_high": "high"}  # of the nested search
FINISHED_TRIALS = "finished_trials"
# On the run of a study: what the learning curve over cases predicts for twice the cases.
LEARNING_CURVE = "learning_curve/"


def score_of(values: Mapping[str, float]) -> float | None:
    """Return the score of a trial from its metrics: the mixed score, or the AUC without one; None without both."""
    return values.get(SCORE, values.get(AUC))


def of_score(name: str, is_mixed: bool) -> str:
    """Return the name of a metric of the score of a study.

    Args:
        name: Name of the metric if the score is the AUC, such as `auc_low` or `corrected/auc`.
        is_mixed: Whether the score is the mixed score, whose metric is `score_low` or `corrected/score`.
    """
    return name.replace(AUC, SCORE) if is_mixed else name


def joined_of(tags: Mapping[str, str], backbone: str) -> tuple[str, ...]:
    """Return the names of the backbones that a joint backbone joins, from the tags of a study's run; empty for one."""
    return tuple(json.loads(tags.get(JOINTS, "{}")).get(backbone, ()))


def backbone_title(tags: Mapping[str, str], backbone: str) -> str:
    """Return the name of a backbone for people, such as `joint-1 (staintex + resnet50)`."""
    members = joined_of(tags, backbone)
    return f"{backbone} ({' + '.join(members)})" if members else backbone


def licence_of(tags: Mapping[str, str], backbone: str) -> str:
    """Return the licence of a backbone from the tags of a study's run.

    Returns:
        The name of the licence, `no weights`, or `unknown`. Studies of earlier versions have no tag, so that only
        backbones without weights are known. Of a joint backbone, the licences of all that it joins.
    """
    members = joined_of(tags, backbone)
    if members:
        return joint_licence(licence_of(tags, member) for member in members)
    if LICENCES not in tags:
        return licence_without_record(backbone)
    return str(json.loads(tags[LICENCES]).get(backbone, UNKNOWN))


def feature_precision_of(tags: Mapping[str, str], backbone: str) -> str:
    """Return the precision of the features of a backbone from the tags of a study's run.

    Returns:
        `f32` or `bf16`. Studies of earlier versions have no tag, and computed features in f32.
    """
    return str(json.loads(tags.get(FEATURE_PRECISIONS, "{}")).get(backbone, {}).get("precision", F32))


def vectors_of(tags: Mapping[str, str], backbone: str) -> dict[str, Any] | None:
    """Return which file the vectors of a backbone are from; None for a network.

    Args:
        tags: Tags of the run of a study.
        backbone: Name of the backbone.

    Returns:
        Name, file, digest, encoder and n_features; see `data.embeddings.join.ImageVectors.facts`.
    """
    found: dict[str, Any] | None = json.loads(tags.get(VECTORS, "{}")).get(backbone)
    return found


def described_vectors(tags: Mapping[str, str]) -> str:
    """Return all files of vectors of a study and their encoders as text; empty for a study of images."""
    return "; ".join(
        f"{each['name']} by {each['encoder'] or 'an encoder that the file does not name'} "
        f"({each['n_features']:,} features, {each['file']}, digest {each['digest']})"
        for each in json.loads(tags.get(VECTORS, "{}")).values()
    )


def licence_limit(tags: Mapping[str, str], backbone: str) -> str:
    """Return a sentence on how the licence of a backbone limits a model; empty if it permits commercial use.

    Args:
        tags: Tags of the run of a study.
        backbone: Name of the backbone.
    """
    return consequence(backbone_title(tags, backbone), licence_of(tags, backbone))


# -- parameters --------------------------------------------------------------------------------------------------------

CONFIG = "config/"  # settings of a study; the parameters of a trial have no prefix
THRESHOLD, CALIBRATION_SLOPE, CALIBRATION_OFFSET = "threshold", "calibration_slope", "calibration_offset"
THRESHOLD_AT = "threshold_at_"  # followed by the name of an operating point in `evaluation.thresholds.FIXED_RATES`


def config_params(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the MLflow parameters that store the resolved settings of a study."""
    return {f"{CONFIG}{key}": str(value) for key, value in settings.items()}


def config_of(params: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a study, as text, from the MLflow parameters of its run."""
    return {key.removeprefix(CONFIG): value for key, value in params.items() if key.startswith(CONFIG)}


# -- artifacts ---------------------------------------------------------------------------------------------------------

STUDY_FOLDER = "study"
SPLIT, AUDIT, SPACE = "study/split.json", "study/audit.json", "study/space.json"
VERSIONS, MADE, IMAGES = "study/versions.json", "study/made.json", "study/images.json"
BACKBONES, ORIGIN = "study/backbones.json", "study/started_from.json"
TRIALS = "trials.json"  # written once the study has ended
REPORT = "report.html"
CHECKLIST = "checklist.md"  # reporting checklists, beside the report
RACE = "race"  # folder of the predictions of raced trials on all divisions, on the run of a study
LEARNING_CURVE_RECORD = "learning_curve.json"  # of one trial, on the run of its study
NESTED_RECORD = "nested.json"  # score of the nested search, on the run of the study
ROBUSTNESS_RECORD = "robustness.json"  # of the best trials, on the run of their study
PREDICTIONS = "out_of_fold_predictions.csv"  # of a trial
TEST_PREDICTIONS = "test_predictions.csv"  # of the sealed images, on the run of their test
LINEAGE = "lineage.json"  # cases and images that a registered version was developed and tested on
COHORT_CONTENT = "cohort.json"  # images and cases of a cohort, on the run of its validation
VALIDATION_RESULT, VALIDATION_PREDICTIONS = "validation.json", "validation_predictions.csv"
PICTURES = "pictures"
PICTURE_SUFFIX, EARLIER_PICTURE_SUFFIX = ".svg", ".png"  # the earlier one on runs of earlier versions
OPENVINO = "openvino"

# -- saved views of an experiment --------------------------------------------------------------------------------------

TABLE_VIEW, PARALLEL_VIEW = "bhsearch-trials", "bhsearch-parallel"

# -- runs --------------------------------------------------------------------------------------------------------------

# Values of the MLflow tag for the source name.
SEARCH_SOURCE, REGISTER_SOURCE, VALIDATE_SOURCE = "bhsearch.run", "bhsearch.register", "bhsearch.validate"


def race_file(number: int) -> str:
    """Return the artifact with the predictions of a raced trial, on the run of its study."""
    return f"{RACE}/trial_{number:03d}.csv"


def trial_name(number: int, params: Mapping[str, Any]) -> str:
    """Return the name of a trial's run, such as `039 staintex-l colour mlp16` or `012 cnn dihedral depth-all`."""
    words = [f"{number:03d}", params.get("backbone"), params.get("policy")]
    if "hidden_units" in params:
        words.append(f"mlp{params['hidden_units']}" if params["hidden_units"] else "linear")
    if "depth" in params:
        words.append(f"depth-{params['depth']}")
    return " ".join(str(word) for word in words if word is not None)
