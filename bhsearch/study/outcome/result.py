"""The result of a study: trials ranked with confidence intervals, ties with the best trial, and the corrected score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bhsearch.engines.base import Trial
from bhsearch.errors import StudyError
from bhsearch.evaluation.mixed_score import score_title
from bhsearch.evaluation.predictions import Predictions
from bhsearch.evaluation.robustness import Robustness
from bhsearch.evaluation.selection.bbc_cv import CorrectedScore
from bhsearch.evaluation.selection.nested import NestedScore
from bhsearch.objectives.base import MS_PER_IMAGE
from bhsearch.study.outcome.selection import DefaultComparison, RankedTrial, auc_interval, explanation, proposed_of
from bhsearch.study.stopping import expected_gain
from bhsearch.text import plural

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


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
        corrected: Score of the proposed trial, corrected for the optimism of selecting it; None if not available.
        uncorrected: Reason why the corrected score is not available; empty if it is available.
        stagnation: Number of consecutive finished trials without an improvement that ended the study; None if the study
            did not end for this reason.
        budget: Minutes of `--budget` if the budget ended the study; otherwise None.
        links: URLs of two MLflow views of the trials: a table, best first, and parallel coordinates; empty without
            tracking.
        before: Result of the frozen study that ran first and provided the heads, with `--regime auto`; otherwise None.
        proposed_predictions: Out-of-fold predictions of the proposed trial; None if they are not available.
        default: Difference between the proposed trial and the default parameters; None if not available.
        robustness: Robustness of the best trials and of the default, by trial number; empty if it was not computed.
        no_robustness: Reason why the requested robustness was not computed; otherwise empty.
        nested: Score of the nested search; None if it was not computed.
        no_nested: Reason why the requested nested search has no score; otherwise empty.
        shift_weight: Weight of the shifts in the score (`--score-weight-shift`); 0 if the score is the AUC.
        joints: Names of the joined backbones by name of the joint one (`--combine`).
        partial: Whether the command did only a part of the work (`--only`, `--no-wait` or `--dry-run`) and ranked no
            trials.
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
    budget: float | None = None
    links: tuple[str, ...] = ()
    findings: Sequence[str] = ()
    proposed_predictions: Predictions | None = None
    default: DefaultComparison | None = None
    robustness: Mapping[int, Robustness] = field(default_factory=dict)
    no_robustness: str = ""
    nested: NestedScore | None = None
    no_nested: str = ""
    shift_weight: float = 0.0
    joints: Mapping[str, Sequence[str]] = field(default_factory=dict)
    partial: bool = False

    def __repr__(self) -> str:
        score = f"best {self.score_title} {self.best.value:.4f}" if self.best is not None else "no complete trial"
        return f"StudyResult({self.study!r}, {self.n_finished} of {plural(self.wanted, 'trial')}, {score})"

    def _repr_html_(self) -> str:
        from bhsearch.reporting.notebook_html import ResultRow, result_html

        title = f"{self.study}: {self.n_finished} of {plural(self.wanted, 'trial')} finished"
        rows = [
            ResultRow(row.trial.number, row.value, row.low, row.high, row.tied, row.proposed, row.params, row.auc)
            for row in self.ranking
        ]
        said = self.selected_because()
        corrected, weight = self.corrected, self.shift_weight
        return result_html(title, rows, corrected, self.uncorrected, self.invalid, self.note, said, weight)

    def plot_history(self) -> Figure:
        """Return a figure that shows the score of every trial and the best score so far."""
        from bhsearch.reporting.figures import notebook_plots

        notebook_plots.enable_display()
        values, states = [t.value for t in self.records], [t.state for t in self.records]
        return notebook_plots.history_figure(values, states, self.note)

    def plot_roc(self) -> Figure:
        """Return a figure of the proposed trial's ROC curve on out-of-fold predictions, with a 95 % confidence band.

        Raises:
            StudyError: If the predictions of the proposed trial are not available.
        """
        from bhsearch.reporting.figures import notebook_plots

        row = self.proposed
        if row is None or self.proposed_predictions is None:
            raise StudyError(
                f"Cannot plot the ROC curve: the predictions of the proposed trial of {self.study!r} are not "
                "available. Without MLflow, they are kept only in the session that ran the trial."
            )
        notebook_plots.enable_display()
        auc, low, high = row.value, row.low, row.high
        unchanged = self.proposed_predictions.unchanged
        if self.shift_weight:  # the interval of the trial is that of the mixed score
            auc, (low, high) = row.auc, auc_interval(unchanged)
        return notebook_plots.mean_roc_figure(unchanged, auc, low, high, self.note)

    @property
    def score_title(self) -> str:
        """Name of the score: AUC, or mixed score if shifts count in it."""
        return score_title(self.shift_weight)

    @property
    def done(self) -> bool:
        """Whether the study has the requested number of finished trials, or `--patience` or `--budget` stopped it."""
        return self.n_finished >= self.wanted or self.stagnation is not None or self.budget is not None

    @property
    def expected_gain(self) -> float:
        """Expected gain in the best score from twice as many trials; nan below `stopping.FEWEST` trials."""
        scores = [trial.value for trial in self.records if trial.value is not None]
        return expected_gain(scores, len(scores))

    @property
    def best(self) -> RankedTrial | None:
        """The complete trial with the highest score; None if no trial is complete."""
        return self.ranking[0] if self.ranking else None

    @property
    def proposed(self) -> RankedTrial | None:
        """The trial that the study proposes: the cheapest of those as good as the best; None if no trial is complete.

        The method `selected_because` of the result explains the choice.
        """
        return proposed_of(self.ranking)

    def selected_because(self) -> list[str]:
        """Return sentences: which trial is the best, which one is proposed and why, and what the search gained."""
        return explanation(self.ranking, self.default)

    @property
    def n_finished(self) -> int:
        """Number of trials that count towards `--trials`."""
        return sum(trial.counts for trial in self.records)

    @property
    def trials(self) -> pd.DataFrame:
        """All trials as a data frame with one row per trial.

        The columns are `number`, `state`, `auc`, `auc_low`, `auc_high`, `tied`, `proposed`, `ms_per_image`, `seconds`,
        and one for each parameter. If shifts count in the score, `auc` is of unchanged images, and `score`, `score_low`
        and `score_high` are of the mixed score.
        """
        import pandas as pd

        ranked = {row.trial.number: row for row in self.ranking}
        rows, score = [], "score" if self.shift_weight else "auc"
        for trial in self.records:
            row = ranked.get(trial.number)
            ends = {f"{score}_low": row.low, f"{score}_high": row.high, "tied": row.tied} if row else {}
            ends |= {"proposed": row.proposed, MS_PER_IMAGE: row.milliseconds} if row else {}
            head = {"number": trial.number, "state": trial.state, score: trial.value}
            head |= {"auc": row.auc} if row and self.shift_weight else {}
            rows.append({**head, **ends, "seconds": trial.notes.get("seconds"), **trial.params})
        return pd.DataFrame(rows)
