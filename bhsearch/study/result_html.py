"""The result of a study as HTML, for notebooks."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bhsearch.study.result import RankedTrial, StudyResult

_N_ROWS = 10
_CELL = "style='text-align:left;padding:2px 12px 2px 0'"


def result_html(result: StudyResult) -> str:
    """Return the best trials as a table, with the corrected score above and the warnings below.

    Args:
        result: Result of the study.
    """
    parts = [f"<div><b>{escape(result.study)}</b>: {result.n_finished} of {result.wanted} trials finished</div>"]
    corrected = result.corrected
    if corrected is not None:
        parts.append(
            f"<div>corrected AUC <b>{corrected.score:.4f}</b> [{corrected.low:.3f} {corrected.high:.3f}] after a "
            f"search of {corrected.n_trials} trials</div>"
        )
    elif result.uncorrected:
        parts.append(f"<div>corrected AUC not known: {escape(result.uncorrected)}</div>")
    if result.ranking:
        names = list(result.ranking[0].params)
        head = ["trial", "AUC", "95 %", "tied", *names]
        rows = [_row(row, names) for row in result.ranking[:_N_ROWS]]
        cells = "".join(f"<th {_CELL}>{escape(name)}</th>" for name in head)
        parts.append(f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table>")
        n_tied = sum(row.tied for row in result.ranking)
        parts.append(f"<div>{n_tied} of {len(result.ranking)} complete trials are tied with the best.</div>")
    parts += [f"<div style='color:#b00020'>These numbers mean nothing: {escape(text)}</div>" for text in result.invalid]
    if result.note:
        parts.append(f"<div>{escape(result.note)}: the numbers say nothing about tissue.</div>")
    parts.append("<div>Research only. Not for screening patients.</div>")
    return "".join(parts)


def _row(row: RankedTrial, names: list[str]) -> str:
    ends = f"[{row.low:.3f} {row.high:.3f}]" if row.low == row.low else "not known"
    values = [row.params.get(name, "") for name in names]
    texts = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
    cells = [str(row.trial.number), f"{row.value:.4f}", ends, "yes" if row.tied else "", *texts]
    return "<tr>" + "".join(f"<td {_CELL}>{escape(cell)}</td>" for cell in cells) + "</tr>"
