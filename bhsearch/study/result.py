"""The result of a study: trials ranked with intervals, ties with the best, and the corrected score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bhsearch.engines.base import Trial
from bhsearch.errors import DataError, StudyError
from bhsearch.evaluation.bbc_cv import CorrectedScore, corrected_score, tied_with_best
from bhsearch.evaluation.bootstrap import bootstrap_scores, group_draws, interval
from bhsearch.evaluation.predictions import Predictions
from bhsearch.objectives.space import Params
from bhsearch.states import COMPLETE
from bhsearch.study.stopping import expected_gain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

N_DRAWS = 1000


@dataclass(frozen=True)
class RankedTrial:
    """A complete trial in the ranking.

    Attributes:
        trial: The trial.
        low: Lower end of the 95 % interval of its score over cases; nan if its predictions are not available.
        high: Upper end.
        tied: Whether its score does not differ from the best one beyond chance.
    """

    trial: Trial
    low: float
    high: float
    tied: bool

    @property
    def params(self) -> Params:
        """Its parameters."""
        return self.trial.params

    @property
    def value(self) -> float:
        """Its score: mean case-weighted AUC over folds."""
        return float(self.trial.value or 0.0)

    @property
    def run_id(self) -> str:
        """Its MLflow run; empty without tracking."""
        return str(self.trial.notes.get("mlflow_run", ""))

    def __repr__(self) -> str:
        ends = f" [{self.low:.3f} {self.high:.3f}]" if self.low == self.low else ""
        return f"RankedTrial(number={self.trial.number}, auc={self.value:.4f}{ends}{', tied' if self.tied else ''})"


@dataclass(frozen=True, repr=False)
class StudyResult:
    """The result of `bhsearch.optimize`.

    Attributes:
        study: Name of the study.
        data: Name of the data set.
        ranking: Complete trials, best first.
        records: All trials, by number.
        wanted: Number of finished trials that was requested.
        note: Text that belongs beside every number, such as that the data are synthetic; may be empty.
        invalid: Reasons why the scores are invalid; empty if they are valid.
        findings: Sentences on errors and duplicates in the data.
        tracked: Whether MLflow keeps its runs.
        interrupted: Whether it was ended by Ctrl-C or time-out before it was done.
        corrected: The best score, corrected for having searched; None if it is not available.
        uncorrected: Reason why there is no corrected score; empty if there is one.
        stagnation: Finished trials in a row without a better one, if those ended the study.
        links: Addresses of the trials in MLflow: a table, best first, and parallel coordinates; empty without tracking.
        before: Result of the frozen study that was run before this one, and that it was started from.
        best_predictions: Out-of-fold predictions of the best trial; None where they are not available.
    """

    study: str
    data: str
    ranking: Sequence[RankedTrial]
    records: Sequence[Trial]
    wanted: int
    note: str = ""
    invalid: Sequence[str] = ()
    tracked: bool = True
    interrupted: bool = False
    corrected: CorrectedScore | None = None
    uncorrected: str = ""
    before: StudyResult | None = None
    stagnation: int | None = None
    links: tuple[str, ...] = ()
    findings: Sequence[str] = ()
    best_predictions: Predictions | None = None

    def __repr__(self) -> str:
        score = f"best AUC {self.best.value:.4f}" if self.best is not None else "no complete trial"
        return f"StudyResult({self.study!r}, {self.n_finished} of {self.wanted} trials, {score})"

    def _repr_html_(self) -> str:
        from bhsearch.reporting.notebook_html import ResultRow, result_html

        title = f"{self.study}: {self.n_finished} of {self.wanted} trials finished"
        rows = [ResultRow(row.trial.number, row.value, row.low, row.high, row.tied, row.params) for row in self.ranking]
        return result_html(title, rows, self.corrected, self.uncorrected, self.invalid, self.note)

    def plot_history(self) -> Figure:
        """Return a figure of the score of every trial and the best so far."""
        from bhsearch.reporting.figures import notebook_plots
        from bhsearch.reporting.figures.study import history_figure

        notebook_plots.enable_display()
        return history_figure([t.value for t in self.records], [t.state for t in self.records], self.note)

    def plot_roc(self) -> Figure:
        """Return a figure of the ROC curve of the best trial, out of fold, with its 95 % band over cases.

        Raises:
            StudyError: If the predictions of the best trial are not available.
        """
        from bhsearch.reporting.figures import notebook_plots

        best = self.best
        if best is None or self.best_predictions is None:
            raise StudyError(
                f"The study {self.study!r} must have the predictions of its best trial for a ROC curve, but they are "
                "not available: without MLflow they are kept only while the trial's own command runs."
            )
        notebook_plots.enable_display()
        return notebook_plots.mean_roc_figure(self.best_predictions, best.value, best.low, best.high, self.note)

    @property
    def done(self) -> bool:
        """Whether the study has what was asked for."""
        return self.n_finished >= self.wanted or self.stagnation is not None

    @property
    def expected_gain(self) -> float:
        """Expected improvement of the best score after as many trials again; nan if there are too few trials."""
        scores = [trial.value for trial in self.records if trial.value is not None]
        return expected_gain(scores, len(scores))

    @property
    def best(self) -> RankedTrial | None:
        """The complete trial with the highest score."""
        return self.ranking[0] if self.ranking else None

    @property
    def n_finished(self) -> int:
        """Number of trials that count towards `--trials`."""
        return sum(trial.counts for trial in self.records)

    @property
    def trials(self) -> pd.DataFrame:
        """All trials: `number`, `state`, `auc`, `auc_low`, `auc_high`, `tied`, `seconds`, a column per parameter."""
        import pandas as pd

        ranked = {row.trial.number: row for row in self.ranking}
        rows = []
        for trial in self.records:
            row = ranked.get(trial.number)
            ends = {"auc_low": row.low, "auc_high": row.high, "tied": row.tied} if row else {}
            head = {"number": trial.number, "state": trial.state, "auc": trial.value}
            rows.append({**head, **ends, "seconds": trial.notes.get("seconds"), **trial.params})
        return pd.DataFrame(rows)


def rank(records: Sequence[Trial], predictions: Mapping[int, Predictions]) -> list[RankedTrial]:
    """Rank complete trials by score, give each its interval, and find those tied with the best.

    Args:
        records: All trials.
        predictions: Out-of-fold predictions by number; trials without them get no interval and are never tied.
    """
    complete = sorted((t for t in records if t.state == COMPLETE), key=lambda t: (-(t.value or 0.0), t.number))
    known = [trial for trial in complete if trial.number in predictions]
    samples: dict[int, np.ndarray] = {}
    if known:
        first = predictions[known[0].number]
        draws = group_draws(first.group, first.stratum, N_DRAWS)
        samples = {trial.number: bootstrap_scores(predictions[trial.number], draws) for trial in known}
    tied: set[int] = set()
    if known and known[0] is complete[0]:
        scores = np.array([trial.value for trial in known])
        marks = tied_with_best(scores, np.stack([samples[trial.number] for trial in known]))
        tied = {trial.number for trial, mark in zip(known, marks, strict=True) if mark}
    ranking = []
    for trial in complete:
        ends = interval(samples[trial.number]) if trial.number in samples else (np.nan, np.nan)
        ranking.append(RankedTrial(trial, float(ends[0]), float(ends[1]), trial.number in tied))
    return ranking


def correct(
    records: Sequence[Trial],
    predictions: Mapping[int, Predictions],
    earlier: Sequence[Predictions] = (),
    n_earlier: int = 0,
) -> tuple[CorrectedScore | None, str]:
    """Correct the best score for having searched.

    Args:
        records: All trials; the complete ones compete.
        predictions: Out-of-fold predictions by number.
        earlier: Predictions of the complete trials of the study that this one was started from.
        n_earlier: How many of them there are, at least.

    Returns:
        The correction and an empty sentence; or None and why there is none. Where trials are missing there is none: a
        part of a search would be corrected too little.
    """
    complete = [trial.number for trial in records if trial.state == COMPLETE]
    lost = sum(number not in predictions for number in complete)
    if lost:
        return None, f"the predictions of {lost} of {len(complete)} complete trials are not at hand"
    if not complete:
        return None, "no trial is complete"
    if len(earlier) < n_earlier:
        return None, (
            f"the predictions of {n_earlier - len(earlier)} of the {n_earlier} trials that it was started from are not "
            "at hand"
        )
    try:
        return corrected_score([*(predictions[number] for number in complete), *earlier], N_DRAWS), ""
    except DataError as error:
        return None, str(error).rstrip(".")
