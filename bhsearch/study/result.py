"""The result of a study: trials ranked with confidence intervals, ties with the best trial, and the corrected score."""

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
from bhsearch.tasks import Task

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

N_DRAWS = 1000


@dataclass(frozen=True)
class RankedTrial:
    """A complete trial in the ranking.

    Attributes:
        trial: Record of the trial.
        low: Lower end of the score's 95 % confidence interval, from a bootstrap over cases; nan if the predictions are
            not available.
        high: Upper end of this interval; nan if the predictions are not available.
        tied: Whether the score is statistically indistinguishable from the best score.
    """

    trial: Trial
    low: float
    high: float
    tied: bool

    @property
    def params(self) -> Params:
        """Parameters of the trial."""
        return self.trial.params

    @property
    def value(self) -> float:
        """Score of the trial: case-weighted AUC, mean over folds."""
        return float(self.trial.value or 0.0)

    @property
    def run_id(self) -> str:
        """Id of the trial's MLflow run; empty without tracking."""
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
        records: All trials, ordered by number.
        wanted: Requested number of finished trials.
        note: Text to show next to every score, such as that the data are synthetic; may be empty.
        invalid: Reasons why the scores are invalid; empty if they are valid.
        findings: Sentences about errors and duplicates in the data.
        tracked: Whether the trials were logged to MLflow.
        interrupted: Whether Ctrl-C or the time limit ended the search early.
        corrected: The best score, corrected for the optimism of selecting the best trial; None if not available.
        uncorrected: Reason why the corrected score is not available; empty if it is available.
        stagnation: Number of consecutive finished trials without an improvement that ended the study; None if the study
            did not end for this reason.
        links: URLs of two MLflow views of the trials: a table, best first, and parallel coordinates; empty without
            tracking.
        before: Result of the frozen study that ran first and provided the heads, with `--regime auto`; otherwise None.
        best_predictions: Out-of-fold predictions of the best trial; None if they are not available.
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
        """Return a figure that shows the score of every trial and the best score so far."""
        from bhsearch.reporting.figures import notebook_plots
        from bhsearch.reporting.figures.study import history_figure

        notebook_plots.enable_display()
        return history_figure([t.value for t in self.records], [t.state for t in self.records], self.note)

    def plot_roc(self) -> Figure:
        """Return a figure of the best trial's ROC curve on out-of-fold predictions, with a 95 % confidence band.

        Raises:
            StudyError: If the predictions of the best trial are not available.
        """
        from bhsearch.reporting.figures import notebook_plots

        best = self.best
        if best is None or self.best_predictions is None:
            raise StudyError(
                f"Cannot plot the ROC curve: the predictions of the best trial of {self.study!r} are not available. "
                "Without MLflow, they are kept only in the session that ran the trial."
            )
        notebook_plots.enable_display()
        return notebook_plots.mean_roc_figure(self.best_predictions, best.value, best.low, best.high, self.note)

    @property
    def done(self) -> bool:
        """Whether the study has the requested number of finished trials or was stopped by `--patience`."""
        return self.n_finished >= self.wanted or self.stagnation is not None

    @property
    def expected_gain(self) -> float:
        """Expected improvement of the best score if the number of trials doubles; nan if there are too few trials."""
        scores = [trial.value for trial in self.records if trial.value is not None]
        return expected_gain(scores, len(scores))

    @property
    def best(self) -> RankedTrial | None:
        """The complete trial with the highest score; None if no trial is complete."""
        return self.ranking[0] if self.ranking else None

    @property
    def n_finished(self) -> int:
        """Number of trials that count towards `--trials`."""
        return sum(trial.counts for trial in self.records)

    @property
    def trials(self) -> pd.DataFrame:
        """All trials as a data frame with one row per trial.

        The columns are `number`, `state`, `auc`, `auc_low`, `auc_high`, `tied`, `seconds`, and one for each parameter.
        """
        import pandas as pd

        ranked = {row.trial.number: row for row in self.ranking}
        rows = []
        for trial in self.records:
            row = ranked.get(trial.number)
            ends = {"auc_low": row.low, "auc_high": row.high, "tied": row.tied} if row else {}
            head = {"number": trial.number, "state": trial.state, "auc": trial.value}
            rows.append({**head, **ends, "seconds": trial.notes.get("seconds"), **trial.params})
        return pd.DataFrame(rows)


def rank(records: Sequence[Trial], predictions: Mapping[int, Predictions], task: Task) -> list[RankedTrial]:
    """Return the complete trials ranked by score, with their intervals and their ties with the best trial.

    Args:
        records: All trials.
        predictions: Out-of-fold predictions by trial number. A trial without predictions has no interval and is not
            tied; without predictions of the best trial, no trial is tied.
        task: Task that names the score.
    """
    complete = sorted((t for t in records if t.state == COMPLETE), key=lambda t: (-(t.value or 0.0), t.number))
    known = [trial for trial in complete if trial.number in predictions]
    samples: dict[int, np.ndarray] = {}
    if known:
        first = predictions[known[0].number]
        draws = group_draws(first.group, first.stratum, N_DRAWS)
        samples = {trial.number: bootstrap_scores(predictions[trial.number], draws, task) for trial in known}
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
    task: Task,
    earlier: Sequence[Predictions] = (),
    n_earlier: int = 0,
) -> tuple[CorrectedScore | None, str]:
    """Return the best score corrected for the optimism of selecting the best of many trials (BBC-CV).

    All predictions are required, because a correction over some of the trials would be too small.

    Args:
        records: All trials; the correction is over the complete ones.
        predictions: Out-of-fold predictions by trial number.
        task: Task that names the score.
        earlier: Out-of-fold predictions of the study that this study was started from.
        n_earlier: Minimum number of predictions that `earlier` must contain.

    Returns:
        The corrected score and an empty string, or None and the reason why it is not available.
    """
    complete = [trial.number for trial in records if trial.state == COMPLETE]
    lost = sum(number not in predictions for number in complete)
    if lost:
        return None, f"the predictions of {lost} of {len(complete)} complete trials are not available"
    if not complete:
        return None, "no trial is complete"
    if len(earlier) < n_earlier:
        return None, (
            f"the predictions of {n_earlier - len(earlier)} of the {n_earlier} trials that it was started from are not "
            "available"
        )
    try:
        return corrected_score([*(predictions[number] for number in complete), *earlier], task, N_DRAWS), ""
    except DataError as error:
        return None, str(error).rstrip(".")
