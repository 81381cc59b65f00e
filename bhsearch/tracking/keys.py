"""Every name that a study has in MLflow: of tags, metrics, parameters and runs. Imports no MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bhsearch.evaluation import metrics

# -- tags of runs ------------------------------------------------------------------------------------------------------

UID = "bhsearch.study_uid"
STUDY = "bhsearch.study"
TRIAL = "bhsearch.trial"  # number of the trial; `NO_TRIAL` on the study's own run
STATE, REASON = "bhsearch.state", "bhsearch.reason"
RETRY_OF, RETRY_OF_RUN = "bhsearch.retry_of", "bhsearch.retry_of_run"
MODEL = "bhsearch.model"  # whether a trial's run has its model
OPENED = "bhsearch.opened"  # when a sealed test was opened; on the run that holds its result
LOST = "bhsearch.storage_lost"  # on the run of a study whose storage was deleted while it was searched
SEALED = "bhsearch.sealed"  # digest of the sealed images; on everything that came of them
GATE, GATE_REASON, GATE_NUMBERS = "bhsearch.gate", "bhsearch.gate_reason", "bhsearch.gate_numbers"
FORCED, ALIAS = "bhsearch.forced", "bhsearch.alias"  # why the gate was overruled; what a promoted version is called
PLUGINS = "bhsearch.plugins"  # parts of other packages, with distribution and version; absent without any
STARTED_FROM = "bhsearch.started_from"  # name of the study whose trials came first
NO_TRIAL = "none"

# -- metrics: MLflow makes a section of the part before the slash ------------------------------------------------------

AUC = metrics.AUC
AUC_LOW, AUC_HIGH, SECONDS = "auc_low", "auc_high", "seconds"
EPOCH = "epoch/"  # curves of a trial
COST = "cost/"  # of a trial
# Of a study's run; the step is the number of the trial.
TRIAL_AUC, TRIAL_BEST = "trial/auc", "trial/best"
# Of a study's run, once it has ended.
CORRECTED = {"corrected/auc": "score", "corrected/auc_low": "low", "corrected/auc_high": "high"}
FINISHED_TRIALS = "finished_trials"

# -- parameters --------------------------------------------------------------------------------------------------------

CONFIG = "config/"  # settings of a study; a trial's parameters have no prefix


def config_params(settings: Mapping[str, Any]) -> dict[str, str]:
    """The parameters of a study's run from its resolved settings."""
    return {f"{CONFIG}{key}": str(value) for key, value in settings.items()}


def config_of(params: Mapping[str, str]) -> dict[str, str]:
    """Settings of a study, as text, from the parameters of its run."""
    return {key.removeprefix(CONFIG): value for key, value in params.items() if key.startswith(CONFIG)}


# -- saved views of an experiment --------------------------------------------------------------------------------------

TABLE_VIEW, PARALLEL_VIEW = "bhsearch-trials", "bhsearch-parallel"

# -- runs --------------------------------------------------------------------------------------------------------------


def trial_name(number: int, params: Mapping[str, Any]) -> str:
    """Name of a trial's run, such as `039 staintex-l colour mlp16` or `012 cnn dihedral depth-all`."""
    words = [f"{number:03d}", params.get("backbone"), params.get("policy")]
    if "hidden_units" in params:
        words.append(f"mlp{params['hidden_units']}" if params["hidden_units"] else "linear")
    if "depth" in params:
        words.append(f"depth-{params['depth']}")
    return " ".join(str(word) for word in words if word is not None)
