"""Markdown descriptions of runs and registered models."""

from __future__ import annotations

from collections.abc import Mapping

from bhsearch.evaluation.mixed_score import definition
from bhsearch.evaluation.predictions import DISCLAIMER
from bhsearch.states import COMPLETE, PRUNED
from bhsearch.text import value_text
from bhsearch.tracking import keys, links
from bhsearch.tracking.records import StudyRecord, TrialRecord


def trial_note(
    study: StudyRecord, trial: TrialRecord, values: Mapping[str, float], experiment_id: str, parent: str
) -> str:
    """Return the Markdown description of the run of a trial.

    Args:
        study: Record of the study.
        trial: Record of the trial.
        values: Metrics of the trial; empty unless the trial is complete.
        experiment_id: Experiment of the study.
        parent: Id of the study's run.
    """
    settings = study["settings"]
    if trial["state"] == COMPLETE:
        weight = float(settings.get("score_weight_shift", 0.0))
        score, low, high = (values[keys.of_score(name, weight > 0)] for name in (keys.AUC, keys.AUC_LOW, keys.AUC_HIGH))
        end = (
            f"{'Mixed score' if weight else 'ROC AUC'} **{score:.4f}** (95 % over cases: {low:.3f} to {high:.3f}), "
            f"case-weighted, out of fold, mean over {settings['folds'] * settings['repeats']} folds. The best of many "
            "trials looks better than it is."
        )
        if weight:
            end += f" ROC AUC of unchanged images: {values[keys.AUC]:.4f}. {definition(weight)}"
    elif trial["state"] == PRUNED:
        end = f"Pruned after {trial['seconds']:.0f} s: it was behind the other trials at the same stage."
    else:
        end = f"Failed: {trial['reason']}"
    backbone = trial["params"].get("backbone")
    named = {} if backbone is None else {"backbone": keys.backbone_title(study["tags"], backbone)}
    point = ", ".join(f"{name} {value_text(value)}" for name, value in {**trial["params"], **named}.items())
    what = "A head on frozen features" if settings["regime"] == "frozen" else "A network trained"
    lines = [
        f"**{study['note']}.**" if study["note"] else "",
        end,
        f"{what} at {point}.",
        "" if backbone is None else keys.licence_limit(study["tags"], backbone),
        f"Trial {trial['number']} of the study [{study['study']}]({links.run_path(experiment_id, parent)}) on "
        f"{study['data']}.",
        DISCLAIMER,
    ]
    return "\n\n".join(line for line in lines if line)


def model_description(data: str) -> str:
    """Return the description of a registered model."""
    return (
        f"P(malignant) of a breast histology image, searched for on {data}. A new version is the challenger; the gate "
        f"makes it the champion if it is better on sealed cases. {DISCLAIMER}"
    )
