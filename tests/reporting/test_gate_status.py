from __future__ import annotations

import pytest

from bhsearch.evaluation.promotion import FEWEST_GROUPS
from bhsearch.reporting import gate_status
from bhsearch.reporting.report_data import SealedCases
from tests.reporting.reports import make_report, registered


@pytest.mark.parametrize(
    ("fewest", "kind"), [(FEWEST_GROUPS, gate_status.UNTESTED), (FEWEST_GROUPS - 1, gate_status.FEW)]
)
def test_too_few_to_register_is_what_is_too_few_for_the_gate(fewest, kind):
    for sealed in (SealedCases(30, fewest, 20, 60), SealedCases(30, 20, fewest, 60)):
        assert gate_status.gate_status(make_report(sealed=sealed)).kind == kind


@pytest.mark.parametrize("fewest", [FEWEST_GROUPS, FEWEST_GROUPS - 1])
def test_what_the_gate_compared_counts_and_not_what_is_sealed(fewest):
    """Sealed cases that the champion was developed on are left out of the comparison."""
    changes = registered(compared=(fewest, 20), verdict="refused", alias="")
    found = gate_status.gate_status(make_report(sealed=SealedCases(40, 20, 20, 60), **changes))
    assert (found.kind == gate_status.FEW) == (fewest < FEWEST_GROUPS)
    assert ("guessing" in found.claim) == (fewest >= FEWEST_GROUPS)


def test_passed_without_an_alias_is_not_called_promoted():
    assert gate_status.gate_status(make_report(**registered(alias=""))).badge == "Passed the gate"
