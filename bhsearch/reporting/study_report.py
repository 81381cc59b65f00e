"""The report of a study as one HTML page: result and evidence first, then figures, then details."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from bhsearch.evaluation.bootstrap import INTERVAL_NOTE
from bhsearch.evaluation.mixed_score import AUC_TITLE, definition
from bhsearch.evaluation.predictions import DISCLAIMER
from bhsearch.evaluation.selection.bbc_cv import CORRECTED_NOTE
from bhsearch.evaluation.selection.nested import NESTED_NOTE
from bhsearch.evaluation.supplementary.auc_precision import what_cases_show
from bhsearch.reporting import gate_status, html, report_numbers, report_sections, robustness_table, svg_charts
from bhsearch.reporting.report_data import Measured
from bhsearch.states import FAILED
from bhsearch.text import capitalised, plural

if TYPE_CHECKING:
    from bhsearch.reporting.report_data import StudyReport

SYNTHETIC = "Synthetic data: drawn by a program, so the numbers say nothing about tissue."
_INTERVALS = f"Intervals: 95 % {INTERVAL_NOTE}."
_INVALID = "These numbers are invalid as a measure of performance."


def report_page(report: StudyReport) -> str:
    """Return the report as one self-contained HTML page.

    Args:
        report: Data of the report.
    """
    alarms = [_INVALID, *report.invalid] if report.invalid else []
    begun = f"begun {report.made['begun']}" if "begun" in report.made else ""
    body = [
        html.heading(report.study, " · ".join(part for part in (report.data, begun, DISCLAIMER) if part)),
        html.alarm(alarms),
        html.notice([SYNTHETIC] if report.synthetic else []),
        _hero(report),
    ]
    sealed = report_sections.sealed(report, report.test) if report.test is not None else ""
    if gate_status.leads_with_test(report):
        body.append(sealed)
    if report.proposed_predictions is not None:
        body += report_sections.proposed(report, report.proposed_predictions)
    body += report_sections.search(report)
    if not gate_status.leads_with_test(report):
        body.append(sealed)
    if report.ranked:
        body.append(robustness_table.card(report.robustness, report.ranked[0].number, report.shift_weight))
    body.append(report_sections.all_trials(report))
    return html.document(f"{report.study}: report", "\n".join(body), STYLE)


def headline(report: StudyReport) -> Measured:
    """Return the most trustworthy score.

    This is the sealed test if `gate_status.leads_with_test`, else the corrected score if known, else the score of the
    proposed trial.
    """
    if report.test is not None and gate_status.leads_with_test(report):
        return report.test.auc
    if report.corrected is not None:
        return Measured(report.corrected.score, report.corrected.low, report.corrected.high)
    chosen = report.proposed
    return Measured(chosen.score or math.nan, chosen.low, chosen.high)


def estimates(report: StudyReport) -> list[tuple[str, Measured, str, str]]:
    """Return the score of the proposed trial, the corrected score and the sealed test of a study.

    Returns:
        Name, value with interval, CSS classes, and note of each score.
    """
    chosen, found, nothing = report.proposed, report.corrected, Measured(math.nan)
    kinds = ["invalid", "invalid", ""] if report.invalid else ["", "", ""]
    kinds[2 if gate_status.leads_with_test(report) else 1 if found is not None else 0] += " strong"
    corrected, sealed = nothing, nothing
    said, of_the_test = f"not available: {report.uncorrected}", "not opened for this study"
    if found is not None:
        corrected, said = Measured(found.score, found.low, found.high), "most of the optimism of the search removed"
        if math.isfinite(found.bound):
            said += f"; lower bound of the score {found.bound:.2f}, {found.bound_note}"
    if report.test is not None:
        sealed, of_the_test = report.test.auc, f"{report.test.opening.trial}, on cases that chose nothing"
        if not gate_status.leads_with_test(report):
            of_the_test = f"{report.test.opening.trial}, on too few cases to come first"
    else:
        kinds[2] = "closed"
    rows = [
        (
            f"Selected from {plural(len(report.ranked), 'trial')}",
            Measured(chosen.score or math.nan, chosen.low, chosen.high),
            kinds[0],
            "optimistic: these scores chose it",
        ),
        ("Corrected for having searched", corrected, kinds[1], said),
        ("Sealed test", sealed, kinds[2], of_the_test),
    ]
    if not report.shift_weight:
        return rows
    named = [(f"{name}: {report.score_title}", value, kind, note) for name, value, kind, note in rows[:2]]
    beside = "of the proposed trial, out of fold; the mixed score chose it"
    auc = _auc_of_proposed(report)
    unchanged = ("AUC of unchanged images", auc, kinds[0].replace(" strong", ""), beside)
    return [*named, unchanged, (f"{rows[2][0]}: AUC", *rows[2][1:])]


def _auc_of_proposed(report: StudyReport) -> Measured:
    """Return the AUC of the proposed trial on unchanged images, which is not its score if shifts count in that."""
    found = report.proposed_predictions
    return (report_numbers.auc_of(found) if found is not None else None) or Measured(report.proposed.auc)


def expected_auc(report: StudyReport) -> float:
    """Return the AUC that the sealed cases are judged by: the headline, or the proposed trial's if that is no AUC."""
    is_auc = gate_status.leads_with_test(report) or not report.shift_weight
    return headline(report).value if is_auc else report.proposed.auc


def _hero(report: StudyReport) -> str:
    if not report.ranked:
        reasons = [f"trial {row.number}: {row.reason or row.state.lower()}" for row in report.rows]
        sealed = html.paragraphs(_sealed_cases(report), kind="soft")
        return html.section("No trial has finished", html.bullets(reasons) if reasons else "", sealed)
    found = gate_status.gate_status(report)
    shown = headline(report)
    ends = f"95 % interval {shown.low:.2f} to {shown.high:.2f}" if math.isfinite(shown.low) else "no interval"
    kind = f" {found.kind}" if found.kind in (gate_status.INVALID, gate_status.FEW) else ""
    result = (
        f'<p class="badge {found.kind}">{escape(found.badge)}</p>'
        + html.paragraphs(_kicker(report), kind="kicker")
        + f'<p class="big">{_headline_title(report)} {shown.value:.2f}</p>'
        + html.paragraphs(ends, kind="range")
        + html.paragraphs(*_definition(report), kind="small soft")
        + html.paragraphs(_sealed_cases(report), kind="cases")
        + html.paragraphs(found.claim, kind="verdict")
    )
    left = f'<div class="hero-result{kind}">{result}{_estimates(report)}</div>'
    right = f"<div><h2>How far to trust it</h2>{_trust(report, found)}</div>"
    return f'<section class="card"><div class="hero">{left}{right}</div></section>'


def _headline_title(report: StudyReport) -> str:
    if gate_status.leads_with_test(report) or not report.shift_weight:
        return AUC_TITLE
    return capitalised(report.score_title)


def _definition(report: StudyReport) -> list[str]:
    """Return a sentence that defines the score and gives the AUC beside it; empty if the score is the AUC."""
    if not report.shift_weight:
        return []
    auc = f"AUC of the proposed trial, of unchanged images: {report.proposed.auc:.4f}."
    return [f"{definition(report.shift_weight)} {auc}"]


def _kicker(report: StudyReport) -> str:
    if report.test is not None and gate_status.leads_with_test(report):
        times = _times(len(report.openings))
        return f"On sealed cases, opened {times}: {report.test.opening.trial}"
    if gate_status.is_invalid(report):
        return "Score of the search"
    if report.corrected is not None:
        return "Score of the search, corrected for having searched"
    return "Score of the search, not corrected"


def _sealed_cases(report: StudyReport) -> str:
    sealed = report.sealed
    if not sealed.n_cases:
        return "No cases are sealed."
    by_class = f"{sealed.n_benign} benign, {sealed.n_malignant} malignant"
    return f"Sealed: {plural(sealed.n_cases, 'case')} ({by_class}), {plural(sealed.n_images, 'image')}"


def _estimates(report: StudyReport) -> str:
    rows = [(name, found.value, found.low, found.high, kind, said) for name, found, kind, said in estimates(report)]
    key = html.paragraphs("Bar: 95 % interval over cases. Dotted line: guessing.", kind="small soft")
    return svg_charts.interval_rows(rows, *report_sections.scale([value for row in rows for value in row[1:4]])) + key


def _trust(report: StudyReport, found: gate_status.GateStatus) -> str:
    """Return the evidence behind the result as an HTML list, with warnings marked."""
    lines = []
    if found.reasons:
        lead = "What the gate said" if report.test is not None else "What the gate would say"
        if found.kind == gate_status.UNFINISHED:
            lead = "Why there is no decision"
        lines.append((lead, " ".join(found.reasons), found.kind != gate_status.PROMOTED))
    n_all, n_benign, n_malignant = report.n_cases
    searched = f"{n_benign} with benign and {n_malignant} with malignant images. {_INTERVALS}"
    lines.append((f"{plural(n_all, 'case')} in the search", searched, False))
    sealed = report.sealed
    shows = what_cases_show(sealed.n_benign, sealed.n_malignant, expected_auc(report))
    if shows:
        lines.append(
            (f"What {plural(sealed.n_cases, 'sealed case')} can show", f"{shows[0].upper()}{shows[1:]}.", False)
        )
    tied = [row for row in report.ranked if row.tied]
    if len(tied) > 1:
        lines.append(
            (f"{len(tied)} of {len(report.ranked)} trials are tied", "They cannot be told from the best.", False)
        )
    if report.selection:
        lines.append((f"Trial {report.proposed.number} is proposed", " ".join(report.selection), False))
    if report.nested is not None:
        lines.append((f"Nested search: {report.score_title} {report.nested}", NESTED_NOTE, False))
    n_openings = len(report.openings)
    if n_openings == 0 and not report.invalid:
        said = f"{CORRECTED_NOTE} Registering a model opens it, once."
        lines.append(("The sealed test is untouched", said, False))
    elif n_openings > 1:
        said = "Only the first opening is unbiased; each further look makes these cases less of a test."
        lines.append((f"The sealed cases were opened {n_openings} times", said, True))
    elif n_openings and report.test is None:
        said = f"On {report.openings[0].when[:10]}, for the study {report.openings[0].study}."
        lines.append(("The sealed cases were opened before", said, True))
    failed = sum(row.state == FAILED for row in report.rows)
    if failed:
        lines.append(
            (
                f"{failed} of {plural(len(report.rows), 'trial')} failed",
                "The list of trials gives the reasons.",
                True,
            )
        )
    lines += [("Mind", sentence, True) for sentence in report.warnings]
    items = (
        f'<li class="{"warn" if warns else "fact"}"><b>{escape(lead)}</b>{escape(said)}</li>'
        for lead, said, warns in lines
    )
    return f'<ul class="trust">{"".join(items)}</ul>'


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


STYLE = """
.hero{display:grid;gap:22px;grid-template-columns:minmax(0,1fr)}
.kicker{margin:0;color:var(--soft);font-weight:600}
.big{font-size:3.1rem;line-height:1.05;font-weight:700;margin:2px 0;color:var(--blue);letter-spacing:-.02em}
.range{font-size:1.1rem;color:var(--soft);margin:0 0 8px}
.few .big,.few .strong .value{color:var(--soft)}
.few .strong .track i{background:#9fb8c9}.few .strong .track b{background:#5d7486}
.invalid .big,.invalid .kicker{color:var(--red)}
.verdict{font-size:1.1rem;font-weight:600}
.cases{margin:4px 0;font-weight:600}
.badge{display:inline-block;margin:0 0 8px;padding:3px 12px;border-radius:14px;border:2px solid var(--c);
color:var(--ink);background:var(--b);font-weight:600;--c:#8a949e;--b:#f0f2f4}
.badge.promoted{--c:var(--blue);--b:#e6f2f9}
.badge.few,.badge.refused,.badge.unfinished{--c:var(--orange);--b:var(--amber)}
.badge.forced{--c:var(--vermillion);--b:#fdeee4}
.badge.invalid{--c:var(--red);--b:var(--redwash);color:var(--red)}
.trust{list-style:none;padding:0;margin:8px 0}
.trust li{padding:7px 0 7px 14px;border-left:4px solid var(--line);margin-bottom:6px}
.trust li.warn{border-color:var(--orange);background:#fffaf0}
.trust b{display:block}
.chart{width:100%;max-width:520px;margin:6px auto 0}
.rows{margin-top:10px}
.row{display:grid;grid-template-columns:minmax(0,1fr) auto;gap:2px 12px;align-items:baseline;margin:0 0 10px}
.row .name{font-weight:600;font-size:.92rem;overflow-wrap:anywhere}
.row small{display:block;font-weight:400;color:var(--soft);font-size:.8rem}
.row .value{font-variant-numeric:tabular-nums;font-weight:600;text-align:right}
.track{grid-column:1/-1;position:relative;height:16px}
.track::before{content:"";position:absolute;left:0;right:0;top:50%;border-top:1px solid var(--line)}
.track i,.track b,.track u,.track s{position:absolute;top:50%}
.track s{border-top:2px solid var(--ink);margin-top:-1px;opacity:.75;text-decoration:none}
.number b{font-weight:600}p.number{margin:6px 0 0;font-size:.92rem}
.track i{height:6px;margin-top:-3px;border-radius:3px;background:#9fb8c9;min-width:2px}
.track b{width:12px;height:12px;margin:-6px 0 0 -6px;border-radius:50%;background:#5d7486}
.track u{width:0;height:16px;margin-top:-8px;border-left:2px dotted var(--ink);opacity:.6}
.strong .track i{background:#7fb8d8}.strong .track b{background:var(--blue)}.strong .value{color:var(--blue)}
.invalid .track i,.row.invalid .track i{background:#f0b3bb}
.invalid .track b,.row.invalid .track b{background:var(--red)}
.row.invalid .value,.invalid .value{color:var(--red)}
.tied .track i{background:#7fb8d8}.tied .track b{background:var(--blue)}
.part .track i{background:#cfe3ef;height:12px;margin-top:-6px;border-radius:2px}
.part .track b{width:9px;height:9px;margin:-4.5px 0 0 -4.5px;background:var(--blue);opacity:.6}
.bar .track i{background:var(--blue);height:10px;margin-top:-5px;border-radius:2px}
.scale .track::before{display:none}
.scale .track{height:18px;font-size:.75rem;color:var(--soft)}
.scale .track span{position:absolute;transform:translateX(-50%);white-space:nowrap}
.part~.scale .track span:first-child{transform:none}.part~.scale .track span:last-child{transform:translateX(-100%)}
.key{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:.85rem;color:var(--soft);margin:6px 0}
.key span::before{content:"";display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:6px;
vertical-align:-1px;background:var(--c)}
.trials{list-style:none;padding:0;font-size:.85rem;color:var(--soft)}
.trials li{break-inside:avoid;padding:6px 0;border-top:1px solid var(--line);overflow-wrap:anywhere}
.trials b{color:var(--ink)}.trials b.red{color:var(--red)}
@media(min-width:880px){.trials{columns:2;column-gap:32px}}
.red{color:var(--red);font-weight:600}
@media(min-width:880px){.hero{grid-template-columns:minmax(0,1.05fr) minmax(0,1fr)}}
@page{size:A4;margin:13mm 12mm}
@media print{
html{font-size:12px;-webkit-print-color-adjust:exact;print-color-adjust:exact}
body{font-size:12px}
main{max-width:none;padding:0}
.card:has(svg),.card:has(dl),.card:has(ul:not(.trials)){break-inside:avoid}
.card{border:0;border-top:1px solid var(--line);border-radius:0;padding:8px 0;margin:6px 0}
.columns{grid-template-columns:minmax(0,1fr) minmax(0,1fr);gap:8px 18px;margin:6px 0}
.stack>.card{margin:0 0 8px}
.hero{grid-template-columns:minmax(0,1fr) minmax(0,1fr)}
.chart{max-width:340px}
h2,h3,.card>.soft{break-after:avoid}
svg,figure,.row,.trust li,tr,.badge,.alarm,.note,.pictures{break-inside:avoid}
thead{display:table-header-group}
.scroll{overflow:visible}
.pictures.tiles{grid-template-columns:repeat(4,minmax(0,1fr));gap:8px}
.trials{columns:2;column-gap:24px}
details>summary{display:none}
details::details-content{display:block;content-visibility:visible;block-size:auto;opacity:1}
}
"""
