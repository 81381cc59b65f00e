"""Keep the bootstrap intervals that the number of cases supports, replace those of shares, and drop the others."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from bhsearch.data.dataset import CLASS_NAMES
from bhsearch.evaluation.bootstrap import Interval
from bhsearch.evaluation.predictions import Predictions
from bhsearch.evaluation.thresholds import AT

NO_INTERVAL = Interval(math.nan, math.nan)
_CLASS_OF_SHARE = {"sensitivity": 1, "specificity": 0}  # label of the images that a share is computed from
_SHARES = (*_CLASS_OF_SHARE, "recognition_rate")
_Z = 1.959963984540054  # normal quantile of 0.975


def reliable_intervals(
    values: Mapping[str, float], intervals: Mapping[str, Interval], predictions: Predictions
) -> dict[str, Interval]:
    """Return the intervals of metrics, without those that the number of cases does not support.

    Resampling cases says nothing about a class with a single case, of which every resample is the same: metrics that
    use such a class have no interval. Resampling gives an interval of zero width if all cases are right or all are
    wrong: sensitivity, specificity and recognition rate then get Wilson's interval, and other metrics get none. The AUC
    keeps an interval of zero width, because the promotion gate decides on it.

    Args:
        values: Values of the metrics by name.
        intervals: Their bootstrap intervals by name.
        predictions: Predictions that the metrics were computed on.

    Returns:
        Intervals by name, for the same names as `intervals`; both ends are nan if there is no interval.
    """
    return {name: _reliable(name, values[name], pair, predictions) for name, pair in intervals.items()}


def _reliable(name: str, value: float, pair: Interval, predictions: Predictions) -> Interval:
    if not np.isfinite((value, *pair)).all() or single_case_class(predictions, name):
        return NO_INTERVAL
    if name == "auc" or not math.isclose(*pair, rel_tol=0.0, abs_tol=1e-9):
        return Interval(*pair)
    base = _base(name)
    if base not in _SHARES:
        return NO_INTERVAL
    label = _CLASS_OF_SHARE.get(base)
    n_groups = predictions.count_groups()
    return wilson(value, n_groups[0] if label is None else n_groups[1 + label])


def single_case_class(predictions: Predictions, name: str = "") -> str:
    """Return the name of a class with a single case; empty if there is none.

    Args:
        predictions: The predictions.
        name: Name of a metric, to consider only the classes that the metric is computed from; empty for all classes.
    """
    only = _CLASS_OF_SHARE.get(_base(name))
    counts = predictions.count_groups()[1:]
    found = [CLASS_NAMES[label] for label, n in enumerate(counts) if n == 1 and only in (None, label)]
    return found[0] if found else ""


def why_no_interval(name: str, predictions: Predictions) -> str:
    """Return the reason why a metric has no interval, as text without a full stop."""
    single = single_case_class(predictions, name)
    return f"only one {single} case" if single else "too few cases"


def wilson(share: float, n_cases: int) -> Interval:
    """Return the 95 % Wilson confidence interval of a share.

    Args:
        share: Mean over cases of a share within each case, 0 to 1.
        n_cases: Number of cases.

    Source:
        Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927, with cases as
        the sample. A share within a case varies no more than a single right or wrong answer, so the interval is not too
        narrow. Unlike resampling, the Wilson interval is valid for few cases and for a share of 0 or 1.
    """
    square = _Z**2 / n_cases
    middle = (share + square / 2) / (1 + square)
    half = _Z / (1 + square) * math.sqrt(share * (1 - share) / n_cases + square / (4 * n_cases))
    return Interval(max(middle - half, 0.0), min(middle + half, 1.0))


def _base(name: str) -> str:
    """Return the name of a metric without the operating point at which it is computed."""
    return name.partition(AT)[0]
