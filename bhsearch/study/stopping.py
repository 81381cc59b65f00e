"""Estimate how much more trials would improve a study, from the trials that it has."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

BETTER = 1e-4  # smallest difference of scores that counts as an improvement
FEWEST = 8  # scores; fewer do not allow three doublings


def trials_since_improvement(scores: Iterable[float | None]) -> Iterator[int]:
    """Yield, after each finished trial, how many trials in a row did not improve the best score.

    Args:
        scores: In the order of the trials; None for one that was pruned.
    """
    best, since = -math.inf, 0
    for score in scores:
        if score is not None and score > best + BETTER:
            best, since = score, 0
        else:
            since += 1
        yield since


def expected_best(scores: Sequence[float], sizes: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return the expected best score of shorter studies: its mean over all subsets of the trials of a given size.

    Args:
        scores: Scores of the complete trials, in any order. Length n.
        sizes: Each from 1 to n.

    Returns:
        Shape (len(sizes),).

    Source:
        Dodge et al. 2019, "Show your work", here without replacement: of the subsets of size k, the share
        C(i - 1, k - 1) / C(n, k) has the i-th smallest score as its best.
    """
    ranked = np.sort(np.asarray(scores, np.float64))
    n = len(ranked)
    found = []
    for size in sizes:
        share, shares = size / n, []
        for place in range(n, 0, -1):
            shares.append(share)
            share *= (place - size) / (place - 1) if place > size and place > 1 else 0.0
        # Differences to the best, so that equal scores give exactly the best.
        found.append(ranked[-1] + float(np.dot(shares, ranked[::-1] - ranked[-1])))
    return np.array(found)


def expected_gain(scores: Sequence[float], more: int) -> float:
    """Return the expected improvement of the best score after more trials of the same kind.

    The result is the larger of two estimates. The first assumes independent trials: it computes the expected best score
    of random halves and quarters of the study, and extrapolates how the gain from each doubling decreases. The second
    is for samplers that learn, whose later trials are better than earlier ones suggest: it takes the gain of the second
    half of the study, and halves it with each doubling.

    Args:
        scores: Scores of the complete trials, in their order; higher is better.
        more: Further trials, 0 or more.

    Returns:
        0 or more, in the unit of the scores; nan where there are fewer than `FEWEST` scores.

    Raises:
        ValueError: If `more` is negative.

    Source:
        Ours. Over recorded trials, random and learning samplers alike brought 0.4 to 1.7 times this, on
        average over studies; see `experiments/benchmarks/README.md`.
    """
    if more < 0:
        raise ValueError(f"more must be 0 or more trials, but got {more}.")
    n = len(scores)
    if n < FEWEST:
        return math.nan
    doublings = math.log2(1 + more / n)
    brought = max(scores) - max(scores[: n // 2])
    return max(_by_subsets(scores, doublings), float(brought * (1 - 0.5**doublings)))


def _by_subsets(scores: Sequence[float], doublings: float) -> float:
    """Return the gain from doubling the number of trials several times, if their order does not matter."""
    n = len(scores)
    quarter, half, whole = expected_best(scores, (round(n / 4), round(n / 2), n))
    last, before = whole - half, half - quarter
    if last <= 0 or doublings == 0:
        return 0.0
    falls = min(last / before, 1.0)
    if falls > 1 - 1e-6:
        return float(last * doublings)
    # The gains of the next doublings are last * falls, last * falls**2, ...; part of a doubling counts in proportion.
    return float(last * falls * (1 - falls**doublings) / (1 - falls))
