"""Describe a registration as rows for the terminal, as a Markdown note, and as tags of the version."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

from bhsearch.evaluation.bbc_cv import CORRECTED_NOTE
from bhsearch.evaluation.calibration import CALIBRATION_NOTE
from bhsearch.evaluation.metrics import METRICS
from bhsearch.evaluation.predictions import DISCLAIMER
from bhsearch.evaluation.promotion import needs
from bhsearch.evaluation.supplementary.supplements import CALIBRATION_SLOPE_NOTE, TITLES
from bhsearch.evaluation.thresholds import AT, rate_title
from bhsearch.lifecycle.registration import EarlierResult, RegistrationResult
from bhsearch.tasks import task_record
from bhsearch.text import plural
from bhsearch.tracking import keys

if TYPE_CHECKING:
    from bhsearch.lifecycle.registration import RegistrationPlan
    from bhsearch.tracking.registry import Version

_SHOWN = ("balanced_accuracy", "sensitivity", "specificity", "average_precision", "recognition_rate")
_ONE_CLASS = {"sensitivity": 1, "specificity": 0}
BEST_TRIAL = "The correction is for the rule that chose this trial: the best score."
OTHER_TRIAL = "The correction is for the best-scoring rule, not for the choice of this trial."


def rows(result: RegistrationResult) -> list[tuple[str, str]]:
    """Return a registration result as pairs of heading and text, in reading order."""
    return [*_measured(result), ("version", f"{result.version.name} {result.version.number}: {standing(result)}")]


def _measured(result: RegistrationResult) -> list[tuple[str, str]]:
    """Return the rows of a result that do not depend on the registered version.

    A test on too few cases comes last, after the corrected score and the gate.
    """
    corrected, tested = result.corrected, result.tested
    first = result.study.trials[0].number
    best, whose = ("the best", "") if result.is_best else (f"the best is {first}", f"of trial {first}, ")
    values = tested.values
    search = [
        ("study", f"{result.study.name}, {plural(len(result.study.trials), 'finished trial')}"),
        ("trial", f"{result.trial.number} ({best}), {result.trial.params.get('backbone', '')}"),
        ("raw", f"AUC {result.trial.score:.3f}, out of fold"),
        (
            "corrected",
            f"{whose}AUC {corrected.score:.3f} [{corrected.low:.3f} {corrected.high:.3f}] for having searched",
        ),
        ("calibration", str(result.point)),
    ]
    test = [
        ("test", f"AUC {_with_ends(result, 'auc')} on {_size(result)}"),
        *(("", f"{METRICS[name].title} {_with_ends(result, name)}{_of_class(result, name)}") for name in _SHOWN),
        *(("", _at_fixed_rate(result, rate)) for rate in result.point.fixed_rates),
        (
            "",
            f"{METRICS['ece'].title} {values['ece_uncalibrated']:.3f} before calibration, {values['ece']:.3f} after",
        ),
        ("", f"Brier score {values['brier_uncalibrated']:.3f} before, {values['brier']:.3f} after"),
        *(("", _supplement(result, name)) for name in TITLES),
    ]
    decision = [("opened", opened(result)), ("gate", result.verdict.reason)]
    few = tested.few_cases
    return [*search, *decision, ("few cases", few), *test] if few else [*search, *test, *decision]


def plan_rows(prospect: RegistrationPlan) -> list[tuple[str, str]]:
    """Return a registration plan as pairs of heading and text."""
    study, trial, earlier = prospect.study, prospect.trial, prospect.earlier
    best = "the best" if trial == study.trials[0] else f"the best is {study.trials[0].number}"
    n_all, n_benign, n_malignant = prospect.n_groups
    times = "; ".join(map(str, prospect.openings)) or "never"
    champion = prospect.champion
    gets = f"{prospect.alias}, by force" if prospect.force else f"{prospect.alias} if it passes the gate"
    then = f"a new version of {prospect.name} becomes challenger, and {gets}"
    if earlier is not None:
        then = f"nothing is opened: the result of {earlier.when} is shown again ({_named(earlier.version)})"
    return [
        ("study", f"{study.name}, {plural(len(study.trials), 'finished trial')}"),
        ("trial", f"{trial.number} ({best}), {trial.params.get('backbone', '')}, AUC {trial.score:.3f}, out of fold"),
        (
            "sealed",
            f"{plural(n_all, 'case')}, {n_benign} with benign and {n_malignant} with malignant images; "
            f"{plural(prospect.n_images, 'image')}",
        ),
        ("opened before", f"{plural(len(prospect.openings), 'time')}: {times}" if prospect.openings else times),
        (prospect.alias, _named(champion) if champion else f"{prospect.name} has none"),
        ("gate needs", needs(n_benign, n_malignant, champion is not None)),
        ("then", then),
    ]


def earlier_rows(earlier: EarlierResult) -> list[tuple[str, str]]:
    """Return an earlier result and the current aliases of its version, as pairs of heading and text."""
    version = earlier.version
    standing = ", ".join(version.aliases) or "it has no alias now"
    again = f"nothing, this time: trial and sealed cases are those of {earlier.when}, and this is what was found then"
    return [
        *((heading, text) for heading, text in earlier.rows if heading != "opened"),
        ("opened", again),
        ("version", f"{_named(version)}: {standing}{' (by force, now)' if earlier.forced else ''}"),
    ]


def advice(result: RegistrationResult | EarlierResult) -> str:
    """Return the command that predicts with the registered version.

    The alias `challenger` moves on with the next registration, so another alias is preferred.
    """
    version = result.version
    if isinstance(result, RegistrationResult):
        alias = result.alias if result.promoted else "challenger"
    else:
        alias = min(version.aliases, key=lambda name: (name == "challenger", name), default="")
    uri = f"models:/{version.name}@{alias}" if alias else version.uri
    return f"python -m bhsearch.predict FILES_OR_FOLDERS --model {shlex.quote(uri)}"


def _named(version: Version) -> str:
    return f"version {version.number} of {version.name}"


def _at_fixed_rate(result: RegistrationResult, rate: str) -> str:
    found = ", ".join(f"{METRICS[name].title} {_with_ends(result, f'{name}{AT}{rate}')}" for name in _ONE_CLASS)
    return f"at the threshold for {rate_title(rate)} out of fold, {result.point.fixed_rates[rate]:.3f}: {found}"


def _supplement(result: RegistrationResult, name: str) -> str:
    """Return a supplementary statistic with its interval as text, or the reason why it is not applicable."""
    tested = result.tested
    if name in tested.values:
        return f"{TITLES[name]} {_with_ends(result, name)}"
    return f"{TITLES[name]}: not applicable, {tested.not_applicable[name]}"


def _of_class(result: RegistrationResult, name: str) -> str:
    """Return, as text, the number of cases and images behind a one-class metric; empty for other metrics."""
    if name not in _ONE_CLASS:
        return ""
    predictions = result.tested.predictions
    rows = predictions.label == _ONE_CLASS[name]
    return f" on {plural(len(set(predictions.group[rows].tolist())), 'case')}, {plural(int(rows.sum()), 'image')}"


def notes(result: RegistrationResult) -> list[str]:
    """Return the sentences that must be read with the numbers."""
    found = [CORRECTED_NOTE, *([] if result.is_best else [OTHER_TRIAL]), CALIBRATION_NOTE, CALIBRATION_SLOPE_NOTE]
    if result.note:
        found.insert(0, f"{result.note}: the numbers say nothing about tissue.")
    return [*found, DISCLAIMER]


def opened(result: RegistrationResult) -> str:
    """Describe how often and when the images of the held-out test set were opened."""
    earlier = result.openings[:-1]
    if not earlier:
        return "for the first time"
    return f"{len(result.openings)} times: before this " + "; ".join(map(str, earlier))


def describe(result: RegistrationResult) -> str:
    """Return the Markdown description of the registered version and its run."""
    head = [f"**{sentence}**  " for sentence in notes(result)[:1] if result.note]
    table = ["| | |", "| --- | --- |", *(f"| {heading} | {text.replace('|', '/')} |" for heading, text in rows(result))]
    return "\n".join([*head, "", *table, "", *(f"{sentence}  " for sentence in notes(result)[bool(result.note) :])])


def tags_of(result: RegistrationResult, sealed: str, reason: str | None, before: str) -> dict[str, str]:
    """Return the tags that store the result of a registration on the registered version.

    Args:
        result: Result of the registration; its `version` is not used.
        sealed: Digest that identifies the images of the held-out test set.
        reason: The user's reason for `--force`.
        before: Number of the registered version that had the alias, such as `champion`, before; empty if none had it.
    """
    corrected, line = result.corrected, result.point.calibration
    ends = result.tested.intervals["auc"]
    tags = {
        keys.STUDY: result.study.name,
        keys.TRIAL: str(result.trial.number),
        keys.SPLIT_FINGERPRINT: result.study.tags[keys.SPLIT_FINGERPRINT],
        keys.DATA_FINGERPRINT: result.study.tags[keys.DATA_FINGERPRINT],
        keys.TASK: json.dumps(task_record(result.tested.task)),
        keys.SEALED: sealed,
        keys.OPENINGS: str(len(result.openings)),
        keys.AUC_RAW: f"{result.trial.score:.5f}",
        keys.TEST_AUC: f"{result.tested.values['auc']:.5f} [{ends.low:.5f} {ends.high:.5f}]",
        keys.FIXED_THRESHOLD: repr(result.point.threshold),
        keys.FIXED_CALIBRATION: f"{line.slope!r} {line.offset!r}",
        keys.GATE: "passed" if result.verdict.promote else "refused",
        keys.GATE_REASON: result.verdict.reason,
        keys.INSTEAD_OF: before,
        keys.RESULT: json.dumps({"rows": _short(result), "notes": notes(result)}),
        keys.GATE_NUMBERS: json.dumps({key: round(value, 5) for key, value in result.verdict.numbers.items()}),
    }
    if result.is_best:  # the correction is that of the best trial
        tags[keys.AUC_CORRECTED] = f"{corrected.score:.5f} [{corrected.low:.5f} {corrected.high:.5f}]"
    if result.promoted:
        tags[keys.PROMOTED] = result.promoted
        tags[keys.ALIAS] = result.alias
    if result.promoted == "force":
        tags[keys.FORCED] = str(reason)
    if result.note:
        tags[keys.NOTE] = result.note
    return tags


def earlier_of(version: Version, when: str) -> EarlierResult | None:
    """Return the test result that is stored in the tags of a version; None if the tags contain no result."""
    text = version.tags.get(keys.RESULT)
    if text is None:
        return None
    kept = json.loads(text)
    return EarlierResult(version, when, [(heading, words) for heading, words in kept["rows"]], kept["notes"])


def _short(result: RegistrationResult) -> list[tuple[str, str]]:
    """Return the rows that fit into a tag: all rows except the list of accesses, whose length is unbounded."""
    return [(heading, text) for heading, text in _measured(result) if heading != "opened"]


def standing(result: RegistrationResult) -> str:
    """Describe the alias of the registered version, and whether the alias was forced."""
    if result.promoted == "force":
        return (
            f"{result.alias}, by force, against the gate" if not result.verdict.promote else f"{result.alias}, by force"
        )
    return result.alias if result.promoted else "challenger"


def _with_ends(result: RegistrationResult, name: str) -> str:
    ends = result.tested.intervals[name]
    return f"{result.tested.values[name]:.3f} [{ends.low:.3f} {ends.high:.3f}]"


def _size(result: RegistrationResult) -> str:
    predictions = result.tested.predictions
    return f"{plural(len(set(predictions.group.tolist())), 'sealed case')}, {plural(len(predictions), 'image')}"
