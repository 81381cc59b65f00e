"""Describe a registration as rows for the terminal, as a Markdown note, and as tags of the version."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import numpy as np

from bhsearch.evaluation.calibration import CALIBRATION_NOTE, NO_CALIBRATION
from bhsearch.evaluation.metrics import METRICS
from bhsearch.evaluation.predictions import DISCLAIMER
from bhsearch.evaluation.promotion import needs
from bhsearch.evaluation.selection.bbc_cv import CORRECTED_NOTE
from bhsearch.evaluation.supplementary.supplements import CALIBRATION_SLOPE_NOTE, TITLES
from bhsearch.evaluation.thresholds import AT, rate_title
from bhsearch.lifecycle.registration import EarlierResult, RegistrationResult
from bhsearch.reporting.report_numbers import text_with_ends
from bhsearch.tasks import task_record
from bhsearch.text import plural
from bhsearch.tracking import keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bhsearch.lifecycle.registration import RegistrationPlan
    from bhsearch.tracking.registry import Version

_SHOWN = ("balanced_accuracy", "sensitivity", "specificity", "average_precision", "recognition_rate")
_ONE_CLASS = {"sensitivity": 1, "specificity": 0}
PROPOSED_TRIAL = "The correction is for the rule that proposed this trial."
OTHER_TRIAL = "The correction is for the trial that the study proposes, not for the choice of this trial."


def rows(result: RegistrationResult) -> list[tuple[str, str]]:
    """Return a registration result as pairs of heading and text, in reading order."""
    return [*_measured(result), ("version", f"{result.version.name} {result.version.number}: {standing(result)}")]


def _measured(result: RegistrationResult) -> list[tuple[str, str]]:
    """Return the rows of a result that do not depend on the registered version.

    A test on fewer than `FEWEST_GROUPS` groups of a class comes last, after the corrected score and the gate.
    """
    corrected, tested = result.corrected, result.tested
    standing, whose = _proposal(result), "" if result.is_proposed else f"of trial {result.proposed.number}, "
    search = [
        ("study", f"{result.study.name}, {plural(len(result.study.trials), 'finished trial')}"),
        ("trial", f"{result.trial.number} ({standing}), {_backbone(result)}"),
        ("raw", raw_score(result)),
        (
            "corrected",
            f"{whose}{corrected.title} {corrected.score:.3f} [{corrected.low:.3f} {corrected.high:.3f}] for having "
            "searched",
        ),
        ("calibration", str(result.point)),
    ]
    test = [
        ("test", f"AUC {_with_ends(result, 'auc')} on {_size(result)}"),
        *(("", f"{METRICS[name].title} {_with_ends(result, name)}{_of_class(result, name)}") for name in _SHOWN),
        *(("", _at_fixed_rate(result, rate)) for rate in result.point.fixed_rates),
        *(("", _around_calibration(result, name)) for name in ("ece", "brier")),
        *(("", _supplement(result, name)) for name in TITLES),
    ]
    decision = [("opened", opened(result)), ("gate", result.verdict.reason)]
    few = tested.few_cases
    return [*search, *decision, ("few cases", few), *test] if few else [*search, *test, *decision]


def plan_rows(prospect: RegistrationPlan) -> list[tuple[str, str]]:
    """Return a registration plan as pairs of heading and text."""
    study, trial, earlier = prospect.study, prospect.trial, prospect.earlier
    n_all, n_benign, n_malignant = prospect.n_groups
    times = "; ".join(map(str, prospect.openings)) or "never"
    champion = prospect.champion
    gets = f"{prospect.alias}, by force" if prospect.force else f"{prospect.alias} if it passes the gate"
    then = f"a new version of {prospect.name} becomes challenger, and {gets}"
    if earlier is not None:
        then = f"nothing is opened: the result of {earlier.when} is shown again ({_named(earlier.version)})"
    return [
        ("study", f"{study.name}, {plural(len(study.trials), 'finished trial')}"),
        (
            "trial",
            f"{trial.number} ({_proposal(prospect)}), {_backbone(prospect)}, {raw_score(prospect)}",
        ),
        (
            "sealed",
            f"{plural(n_all, 'case')}, {n_benign} with benign and {n_malignant} with malignant images; "
            f"{plural(prospect.n_images, 'image')}",
        ),
        ("opened before", f"{plural(len(prospect.openings), 'time')}: {times}" if prospect.openings else times),
        *(("", line) for line in overlap_lines(prospect.overlapping)),
        (prospect.alias, _named(champion) if champion else f"{prospect.name} has none"),
        ("gate needs", needs(n_benign, n_malignant, champion is not None)),
        ("then", then),
    ]


def raw_score(what: RegistrationPlan | RegistrationResult) -> str:
    """Return the score of the trial as text, and the AUC of unchanged images beside a mixed score."""
    study, trial = what.study, what.trial
    if not study.shift_weight:
        return f"AUC {trial.score:.3f}, out of fold"
    return f"{study.score_title} {trial.score:.3f}, AUC {trial.metrics[keys.AUC]:.3f} of unchanged images, out of fold"


def _backbone(what: RegistrationPlan | RegistrationResult) -> str:
    """Return the name of the trial's backbone, with those that it joins."""
    return keys.backbone_title(what.study.tags, what.trial.params.get("backbone", ""))


def _proposal(what: RegistrationPlan | RegistrationResult) -> str:
    """Return whether the study proposes the trial, and how the trial compares with the one that has the best score."""
    number, best = what.proposed.number, what.study.trials[0].number
    if what.trial != what.proposed:
        return f"the study proposes {number}"
    return "proposed, the best" if number == best else f"proposed; {best} has the best score"


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


def _around_calibration(result: RegistrationResult, name: str) -> str:
    """Return an error with and without calibration as text, or once if the model is not calibrated."""
    title, after = METRICS[name].title, result.tested.values[name]
    if result.point.calibration == NO_CALIBRATION:
        return f"{title} {after:.3f}, without calibration"
    return f"{title} {result.tested.values[f'{name}_uncalibrated']:.3f} before calibration, {after:.3f} after"


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
    found = [CORRECTED_NOTE, *([] if result.is_proposed else [OTHER_TRIAL]), CALIBRATION_NOTE, CALIBRATION_SLOPE_NOTE]
    if result.note:
        found.insert(0, f"{result.note}: the numbers say nothing about tissue.")
    return [*found, *filter(None, [keys.licence_limit(result.study.tags, result.trial.params["backbone"])]), DISCLAIMER]


def opened(result: RegistrationResult) -> str:
    """Return a phrase that says how often and when the images of the held-out test set were opened."""
    earlier = result.openings[:-1]
    times = f"{len(result.openings)} times: before this {'; '.join(map(str, earlier))}"
    return ". ".join([times if earlier else "for the first time", *overlap_lines(result.overlapping)])


def overlap_lines(overlapping: Sequence[object]) -> list[str]:
    """Return one sentence, without a full stop, per access to another test set that shares images with this one."""
    return [f"Images of this set were opened in another set: {access}" for access in overlapping]


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
    interval = f"[{ends.low:.5f} {ends.high:.5f}]" if np.isfinite(ends).all() else "(no interval)"
    tags = {
        keys.STUDY: result.study.name,
        keys.TRIAL: str(result.trial.number),
        keys.SPLIT_FINGERPRINT: result.study.tags[keys.SPLIT_FINGERPRINT],
        keys.DATA_FINGERPRINT: result.study.tags[keys.DATA_FINGERPRINT],
        keys.TASK: json.dumps(task_record(result.tested.task)),
        keys.LICENCE: keys.licence_of(result.study.tags, result.trial.params["backbone"]),
        keys.SEALED: sealed,
        keys.OPENINGS: str(len(result.openings)),
        keys.AUC_RAW: f"{result.trial.metrics[keys.AUC]:.5f}",
        keys.TEST_AUC: f"{result.tested.values['auc']:.5f} {interval}",
        keys.FIXED_THRESHOLD: repr(result.point.threshold),
        keys.FIXED_CALIBRATION: f"{line.slope!r} {line.offset!r}",
        keys.GATE: "passed" if result.verdict.promote else "refused",
        keys.GATE_REASON: result.verdict.reason,
        keys.INSTEAD_OF: before,
        keys.RESULT: json.dumps({"rows": _short(result), "notes": notes(result)}),
        keys.GATE_NUMBERS: json.dumps({key: round(value, 5) for key, value in result.verdict.numbers.items()}),
    }
    is_mixed = result.study.shift_weight > 0
    joined = keys.joined_of(result.study.tags, result.trial.params["backbone"])
    if joined:
        tags[keys.JOINED] = " + ".join(joined)
    if is_mixed:
        tags[keys.of_score(keys.AUC_RAW, is_mixed)] = f"{result.trial.score:.5f}"
    if result.is_proposed:  # the correction is that of the proposed trial
        name = keys.of_score(keys.AUC_CORRECTED, is_mixed)
        tags[name] = f"{corrected.score:.5f} [{corrected.low:.5f} {corrected.high:.5f}]"
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
    """Return a phrase that names the alias of the registered version, and says whether the alias was forced."""
    if result.promoted == "force":
        return (
            f"{result.alias}, by force, against the gate" if not result.verdict.promote else f"{result.alias}, by force"
        )
    return result.alias if result.promoted else "challenger"


def _with_ends(result: RegistrationResult, name: str) -> str:
    tested = result.tested
    return text_with_ends(tested.values[name], tested.intervals[name], name, tested.predictions)


def _size(result: RegistrationResult) -> str:
    predictions = result.tested.predictions
    return f"{plural(len(set(predictions.group.tolist())), 'sealed case')}, {plural(len(predictions), 'image')}"
