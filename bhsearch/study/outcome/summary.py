"""The summary of a study's result: the record for MLflow, and the text that MLflow shows on the study's run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict

from bhsearch.evaluation.mixed_score import definition
from bhsearch.evaluation.predictions import DISCLAIMER
from bhsearch.evaluation.selection.bbc_cv import CORRECTED_NOTE
from bhsearch.evaluation.selection.nested import NESTED_NOTE
from bhsearch.objectives.space import finetune_space, frozen_space
from bhsearch.study.outcome.result import StudyResult
from bhsearch.study.outcome.selection import RankedTrial, reason_of
from bhsearch.text import capitalised, plural
from bhsearch.tracking.records import BestTrial, SelectionRecord, SummaryRecord

N_BEST = 10
GUESSING = 0.5
WORSE = 0.4  # an AUC below this value is unlikely by chance alone, unless there are very few cases
LARGE = 0.25  # more trials are recommended if the expected gain is at least this fraction of the interval's width


def summary_record(
    result: StudyResult,
    importances: dict[str, float],
    spread: dict[str, float],
    *,
    policies: Sequence[str] = (),
    settled: Sequence[int] = (),
    lost: str = "",
) -> SummaryRecord:
    """Return the record that is logged to MLflow at the end of a session.

    Args:
        result: Result of the study.
        importances: Importance of each parameter, from the engine.
        spread: Half-width of the 95 % interval of each importance, from `importance_spread`.
        policies: Augmentation policies with an example image.
        settled: Numbers of trials whose MLflow runs must be ended.
        lost: Error message if the storage of the study was lost; otherwise empty.
    """
    best: list[BestTrial] = [
        {
            "name": f"trial {row.trial.number}",
            "score": row.trial.value or 0.0,
            "low": row.low,
            "high": row.high,
            "tied": row.tied,
        }
        for row in result.ranking[:N_BEST]
        if row.low == row.low  # without predictions there is no interval to draw
    ]
    return {
        "trials": [asdict(trial) for trial in result.records],
        "importances": importances,
        "importance_spread": spread,
        "policies": list(policies),
        "log": sorted(
            {parameter.name for parameter in (*frozen_space(("",)), *finetune_space(("",), (0,))) if parameter.log}
        ),
        "best": best,
        "selection": _selection(result),
        "corrected": asdict(result.corrected) if result.corrected else None,
        "default": asdict(result.default) if result.default else None,
        "nested": asdict(result.nested) if result.nested else None,
        "race": [],
        "finished": result.n_finished,
        "settled": list(settled),
        "summary": _note(result),
        "status": "FINISHED" if result.done else ("KILLED" if result.interrupted else "FAILED"),
        "ended_ms": int(time.time() * 1000),
        "lost": lost,
        "robustness": {str(number): row.to_record() for number, row in result.robustness.items()},
    }


def _selection(result: StudyResult) -> SelectionRecord | None:
    chosen = result.proposed
    if chosen is None:
        return None
    return {
        "best": result.ranking[0].trial.number,
        "proposed": chosen.trial.number,
        "reason": reason_of(result.ranking),
    }


def _note(result: StudyResult) -> str:
    """Return the description of the study's MLflow run, in Markdown."""
    mixed = f" {definition(result.shift_weight)}" if result.shift_weight else ""
    lines = [f"**{result.note}.**" if result.note else "", *(f"**{sentence}**" for sentence in result.invalid)]
    lines += [
        f"{plural(result.n_finished, 'finished trial')} on `{result.data}`. "
        f"Score: case-weighted {'mixed score' if mixed else 'ROC AUC'}, out of fold, mean over folds.{mixed}",
        "",
        f"| trial | {result.score_title} | 95 % interval over cases |{' AUC |' * bool(mixed)} tied with the best | "
        "proposed |",
        f"| --- | --- | --- |{' --- |' * bool(mixed)} --- | --- |",
    ]
    lines += [
        f"| {row.trial.number} | {row.trial.value:.4f} | {_interval(row)} |{f' {row.auc:.4f} |' * bool(mixed)} "
        f"{'tied' * row.tied} | {'proposed' * row.proposed} |"
        for row in result.ranking[:N_BEST]
    ]
    if result.ranking:
        lines += ["", *result.selected_because(), _correction(result), *_nested(result), *remarks(result)]
        lines += expected_improvement(result)
    lines += ["", "The data:", *(f"- {sentence}" for sentence in result.findings)] if result.findings else []
    lines += [
        "",
        "The best of many trials looks better than it is: these scores chose it. Intervals are over cases; variation "
        "of training is not included.",
        "",
        DISCLAIMER,
    ]
    return "\n".join(line for k, line in enumerate(lines) if line or k > 1)


def expected_improvement(result: StudyResult) -> list[str]:
    """Return a sentence about the expected gain from more trials; empty if the gain or the interval is unknown."""
    gain, best = result.expected_gain, result.best
    if best is None or gain != gain or best.low != best.low:
        return []
    width = best.high - best.low
    if gain >= LARGE * width:
        return [
            f"As many trials again would raise the best {result.score_title} by about {gain:.4f}, going by how it rose "
            "so far."
        ]
    return [
        f"More trials would add little to the best {result.score_title} (about {gain:.4f}, and its interval spans "
        f"{width:.3f}): more cases or --repeats would help."
    ]


def remarks(result: StudyResult) -> list[str]:
    """Return sentences about odd scores: below chance, none better than chance, or corrected to above the score."""
    low = sum((trial.value or 0.0) < WORSE for trial in result.records if trial.value is not None)
    n_trials = len(result.ranking)
    said = []
    if low:
        subject = "trial has" if low == 1 else "trials have"
        said.append(
            f"{low} of {n_trials} {subject} {'a' if result.shift_weight else 'an'} {result.score_title} below "
            f"{WORSE:g}, worse than guessing: are labels swapped in a part of the data, or is there nothing to find?"
        )
    known = [row for row in result.ranking if row.low == row.low]
    if known and all(row.low <= GUESSING <= row.high for row in known):
        subject = "The interval of the only trial" if len(known) == 1 else f"The intervals of all {len(known)} trials"
        verb = "holds" if len(known) == 1 else "hold"
        said.append(
            f"{subject} {verb} {GUESSING:g}, the {result.score_title} of guessing: there may be nothing to find, too "
            "few cases to find it, or wrong labels."
        )
    chosen, corrected = result.proposed, result.corrected
    if chosen is not None and corrected is not None and corrected.score > (chosen.trial.value or 0.0):
        said.append(
            f"The corrected {result.score_title} is above the {result.score_title} itself: the correction finds no "
            "optimism here, and differs from zero by chance. Read the two as equal."
        )
    return said


def _correction(result: StudyResult) -> str:
    row = result.corrected
    if row is None:
        return f"Corrected for having searched: not available, since {result.uncorrected}."
    bound = f" Lower bound of the score: **{row.bound:.3f}** ({row.bound_note})." if row.bound == row.bound else ""
    return (
        f"Corrected for having searched: **{row.score:.4f}** ({row.low:.3f} to {row.high:.3f}) instead of "
        f"{row.raw:.4f}, over {plural(row.n_trials, 'trial')}. {CORRECTED_NOTE}{bound}"
    )


def _nested(result: StudyResult) -> list[str]:
    if result.nested is None:
        return []
    return [f"{capitalised(result.score_title)} of the nested search: **{result.nested}**. {NESTED_NOTE}"]


def _interval(row: RankedTrial) -> str:
    return f"{row.low:.3f} to {row.high:.3f}" if row.low == row.low else "not available"
