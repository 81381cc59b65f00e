"""Report cards of curves: ROC, calibration, decision curve, probabilities by class, and the learning curve."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from bhsearch.evaluation.bootstrap import group_draws
from bhsearch.evaluation.curves import roc_band
from bhsearch.evaluation.supplementary import decision_curve as decision_curves
from bhsearch.evaluation.supplementary.learning_curve import LEARNING_CURVE_NOTE
from bhsearch.evaluation.supplementary.probability_histogram import probability_histogram
from bhsearch.reporting import html, report_numbers, svg_charts
from bhsearch.reporting.figures import description
from bhsearch.reporting.figures.learning_curve import learning_curve as describe_learning_curve
from bhsearch.reporting.svg.frame import inline_chart
from bhsearch.text import plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bhsearch.evaluation.predictions import Predictions
    from bhsearch.evaluation.supplementary.learning_curve import LearningCurve
    from bhsearch.reporting.report_data import Measured

N_DRAWS_BAND = 200


def roc(predictions: Predictions, auc: Measured, title: str, lead: str) -> str:
    """Return an HTML card with a ROC curve, the AUC and the sample size."""
    draws = group_draws(predictions.group, predictions.stratum, N_DRAWS_BAND)
    said = [f"AUC {svg_charts.with_ends(auc)}", size_of(predictions)]
    chart = inline_chart(description.roc(roc_band(predictions, draws)), f"ROC curve, {', '.join(said)}")
    return html.section(
        title,
        _above(said),
        chart,
        lead=f"{lead} Every case counts the same. Band: 95 % over cases; dashed: guessing.",
    )


def calibration(predictions: Predictions, ece: Measured, title: str, lead: str) -> str:
    """Return an HTML card with a calibration curve, the expected calibration error and the sample size."""
    said = [f"Calibration error {svg_charts.with_ends(ece)}", size_of(predictions)]
    points = report_numbers.calibration_points(predictions)
    return html.section(
        title,
        _above(said),
        inline_chart(description.calibration(points), f"Calibration, {', '.join(said)}"),
        lead=f"{lead} On the dashed line, probabilities are right on average. Area of a point: its share of the "
        "weight; hollow: a single case; vertical lines: 95 % over cases.",
    )


def decision_curve(predictions: Predictions, title: str) -> str:
    """Return an HTML card with the decision curve of calibrated predictions."""
    draws = group_draws(predictions.group, predictions.stratum, N_DRAWS_BAND)
    curve = decision_curves.decision_curve(predictions, draws)
    said = [f"{curve.prevalence:.0%} malignant", size_of(predictions)]
    chart = inline_chart(description.decision_curve(curve), f"Decision curve, {', '.join(said)}")
    return html.section(title, _above(said), chart, lead=decision_curves.DECISION_CURVE_NOTE)


def distributions(predictions: Predictions, class_names: Sequence[str], threshold: float, title: str) -> str:
    """Return an HTML card with the distribution of the predicted probability within each class."""
    figure = description.probability_histogram(probability_histogram(predictions), class_names, threshold)
    return html.section(
        title,
        inline_chart(figure, f"Predicted probabilities of {' and '.join(class_names)} images"),
        lead="Calibrated probabilities, every case counting the same. Dotted: the threshold.",
    )


def learning_curve(curve: LearningCurve | None, why_not: str, title: str) -> str:
    """Return an HTML card with the learning curve over cases, or with the reason why there is none.

    Args:
        curve: The curve; None if there is none.
        why_not: Reason why there is no curve; unused if there is one.
        title: Title of the card.
    """
    if curve is None:
        return html.section(title, lead=f"{why_not[:1].upper()}{why_not[1:]}.")
    said = f"{plural(curve.n_subsets, 'random subset')} per size of {plural(curve.n_cases, 'development case')}"
    chart = inline_chart(describe_learning_curve(curve), f"Learning curve, {curve.sentence()}")
    return html.section(title, _above([curve.sentence(), said]), chart, lead=LEARNING_CURVE_NOTE)


def _above(said: Sequence[str]) -> str:
    """Return the lines above a chart as HTML, the first of them in bold."""
    first, *rest = said
    return f'<p class="number"><b>{escape(first)}</b><br>{escape(", ".join(rest))}</p>'


def size_of(predictions: Predictions) -> str:
    """Return the sample size as text, such as `n = 64 cases (26 benign, 38 malignant), 129 images`."""
    n_all, n_benign, n_malignant = predictions.count_groups()
    by_class = f"{n_benign} benign, {n_malignant} malignant"
    return f"n = {plural(n_all, 'case')} ({by_class}), {plural(len(predictions), 'image')}"
