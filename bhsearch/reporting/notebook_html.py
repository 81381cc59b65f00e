"""Render the result of a study as HTML for notebooks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from bhsearch.evaluation.mixed_score import definition, score_title
from bhsearch.evaluation.selection.bbc_cv import CorrectedScore
from bhsearch.text import plural, value_text, verb

_N_ROWS = 10
_CELL = "style='text-align:left;padding:2px 12px 2px 0'"


@dataclass(frozen=True)
class ResultRow:
    """A complete trial as a table row.

    Attributes:
        number: Number of the trial.
        score: Score of the trial.
        low, high: Ends of the score's 95 % interval; nan if unknown.
        tied: Whether the trial is tied with the best.
        proposed: Whether this is the proposed trial.
        params: Parameters of the trial.
        auc: AUC of unchanged images; nan if unknown.
    """

    number: int
    score: float
    low: float
    high: float
    tied: bool
    proposed: bool
    params: Mapping[str, Any]
    auc: float = math.nan


def result_html(
    title: str,
    rows: Sequence[ResultRow],
    corrected: CorrectedScore | None,
    uncorrected: str,
    invalid: Sequence[str],
    note: str,
    chosen: Sequence[str] = (),
    shift_weight: float = 0.0,
) -> str:
    """Return the best trials as a table, with the corrected score above and the warnings below.

    Args:
        title: Name and progress of the study.
        rows: Complete trials, best first.
        corrected: Best score corrected for the search; None if unknown.
        uncorrected: Reason why the corrected score is unknown.
        invalid: Reasons why the numbers are invalid, as sentences.
        note: Text shown with the numbers, such as that the data are synthetic; may be empty.
        chosen: Sentences that say which trial is proposed and why.
        shift_weight: Weight of the shifts in the score; above 0, the AUC of unchanged images has its own column.
    """
    name, beside = score_title(shift_weight), ["AUC"] if shift_weight else []
    parts = [f"<div><b>{escape(title)}</b></div>"]
    if corrected is not None:
        parts.append(
            f"<div>corrected {name} <b>{corrected.score:.4f}</b> [{corrected.low:.3f} {corrected.high:.3f}] after a "
            f"search of {plural(corrected.n_trials, 'trial')}</div>"
        )
        if math.isfinite(corrected.bound):
            parts.append(f"<div>lower bound <b>{corrected.bound:.3f}</b>, {corrected.bound_note}</div>")
    elif uncorrected:
        parts.append(f"<div>corrected {name} not known: {escape(uncorrected)}</div>")
    if rows:
        names = list(rows[0].params)
        cells = "".join(
            f"<th {_CELL}>{escape(head)}</th>" for head in ["trial", name, "95 %", *beside, "tied", "proposed", *names]
        )
        body = "".join(_row(row, names, len(beside)) for row in rows[:_N_ROWS])
        parts.append(f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>")
        parts += [f"<div>{escape(sentence)}</div>" for sentence in chosen]
        n_tied = sum(row.tied for row in rows)
        parts.append(
            f"<div>{n_tied} of {plural(len(rows), 'complete trial')} {verb(n_tied, 'is', 'are')} tied with the "
            "best.</div>"
        )
    parts += [f"<div style='color:#b00020'>These numbers mean nothing: {escape(text)}</div>" for text in invalid]
    if shift_weight:
        parts.append(f"<div>{escape(definition(shift_weight))}</div>")
    if note:
        parts.append(f"<div>{escape(note)}: the numbers say nothing about tissue.</div>")
    parts.append("<div>Research only. Not for screening patients.</div>")
    return "".join(parts)


def _row(row: ResultRow, names: Sequence[str], n_beside: int) -> str:
    ends = f"[{row.low:.3f} {row.high:.3f}]" if row.low == row.low else "not known"
    texts = [value_text(row.params.get(name, "")) for name in names]
    cells = [str(row.number), f"{row.score:.4f}", ends, *[f"{row.auc:.4f}"] * n_beside]
    cells += ["yes" if row.tied else "", "yes" if row.proposed else "", *texts]
    return "<tr>" + "".join(f"<td {_CELL}>{escape(cell)}</td>" for cell in cells) + "</tr>"
