"""Description of the learning curve over cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bhsearch.evaluation.supplementary.learning_curve import FALLS
from bhsearch.reporting.figures.marks import DASHED, Area, Axis, Description, Dot, Label, Line
from bhsearch.reporting.figures.palette import BLUE

if TYPE_CHECKING:
    from bhsearch.evaluation.supplementary.learning_curve import LearningCurve
    from bhsearch.reporting.figures.marks import Mark

_MARGIN = 0.08  # of the range of scores, above and below


def learning_curve(curve: LearningCurve) -> Description:
    """Describe the score against the number of training cases, with the fitted curve and its extrapolation.

    A falling curve is not extrapolated.

    Args:
        curve: The learning curve.
    """
    largest = curve.sizes[-1]
    end = largest if curve.verdict == FALLS else curve.grid[-1]
    n_shown = sum(size <= end * (1 + 1e-9) for size in curve.grid)
    x, fitted, low, high = (
        list(values[:n_shown]) for values in (curve.grid, curve.fitted, curve.fitted_low, curve.fitted_high)
    )
    n_inside = sum(size <= largest * (1 + 1e-9) for size in x)
    marks: list[Mark] = [Area(x, low, high, BLUE), Line(x[:n_inside], fitted[:n_inside], BLUE, 2.1)]
    if n_inside < n_shown:
        marks.append(Line(x[n_inside - 1 :], fitted[n_inside - 1 :], BLUE, 2.1, DASHED))
    for size, score, *ends in zip(curve.sizes, curve.scores, curve.low, curve.high, strict=True):
        marks.append(Line([size, size], ends, BLUE, 1.4))
        marks.append(Dot(size, score, BLUE, 4.5, f"{size:.0f} training cases: {score:.3f}", 1.0))
    if n_inside < n_shown:
        marks.append(Dot(x[-1], fitted[-1], BLUE, 4.5, f"{x[-1]:.0f} training cases: {fitted[-1]:.3f}", hollow=True))
        marks.append(Label(x[-1], fitted[-1], f"{fitted[-1]:.3f}"))
    values = [*low, *high, *curve.low, *curve.high]
    room = _MARGIN * max(max(values) - min(values), 0.02)
    bottom, top = max(min(values) - room, 0.0), min(max(values) + room, 1.0)
    sizes = [float(round(size)) for size in (*curve.sizes, *x[n_inside:][-1:])]
    return Description(
        Axis("training cases of a fold", x[0] / 1.1, x[-1] * 1.1, log=True, ticks=sizes),
        Axis("ROC AUC, out of fold", bottom, top, ticks=_ticks(bottom, top)),
        marks,
    )


def _ticks(low: float, high: float) -> list[float]:
    """Return tick positions with at most two decimals, whose labels fit beside the axis."""
    step = next((step for step in (1, 2, 5, 10) if (high - low) * 100 <= 6 * step), 20)
    return [k / 100 for k in range(0, 101, step)]
