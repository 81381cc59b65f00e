"""The reporting checklists of a study as one Markdown page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bhsearch.evaluation.predictions import DISCLAIMER
from bhsearch.reporting.checklists.claim import claim
from bhsearch.reporting.checklists.study_facts import StudyFacts
from bhsearch.reporting.checklists.tripod_ai import tripod_ai
from bhsearch.reporting.study_report import SYNTHETIC

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bhsearch.reporting.checklists.base import Answer, Checklist
    from bhsearch.reporting.report_data import StudyReport

_READ = (
    "**filled**: the answer comes from the records of the study; the author checks and completes it. **author's**: the "
    "author must write it. **not applicable**: with the reason. The items are summarised in our own words; submit the "
    "official forms of the guidelines."
)


def checklists(report: StudyReport) -> list[Checklist]:
    """Return the checklists of TRIPOD+AI and CLAIM with the answers that the records of a study hold."""
    facts = StudyFacts(report)
    return [tripod_ai(facts), claim(facts)]


def checklist_page(report: StudyReport, found: Sequence[Checklist]) -> str:
    """Return checklists as a Markdown page.

    Args:
        report: Data of the report of the study.
        found: The checklists, from `checklists`.
    """
    lines = [f"# Reporting checklists of {_cell(report.study)}", "", f"**{DISCLAIMER}**", ""]
    if report.synthetic:
        lines += [f"**{SYNTHETIC}**", ""]
    lines += [_READ, ""]
    for checklist in found:
        lines += [f"## {checklist.name}", "", f"{checklist.citation}.", "", f"{counted(checklist)}.", ""]
        section = ""
        for item in checklist.items:
            if item.section != section:
                section = item.section
                lines += [
                    "",
                    f"### {section}",
                    "",
                    "| item | asks for | status | answer |",
                    "| --- | --- | --- | --- |",
                ]
            answer = checklist.answers[item.number]
            lines.append(f"| {item.number} | {_cell(item.asks)} | {answer.status} | {_cell(_said(answer))} |")
        lines.append("")
    return "\n".join(lines)


def counted(checklist: Checklist) -> str:
    """Return the number of items of each status as text."""
    counts = ", ".join(f"{number} {status}" for status, number in checklist.counts().items())
    return f"{checklist.name}: {checklist.size}, {counts}"


def _said(answer: Answer) -> str:
    still = f"Author: {answer.still}" if answer.still else ""
    return " ".join(part for part in (answer.value, still) if part)


def _cell(text: str) -> str:
    """Escape text for a cell of a Markdown table."""
    kept = " ".join(text.split())
    for character in ("\\", "|", "<", "*", "_", "["):
        kept = kept.replace(character, f"\\{character}")
    return kept
