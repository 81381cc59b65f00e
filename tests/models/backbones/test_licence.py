from __future__ import annotations

import pytest

from bhsearch.models.backbones.licence import (
    NO_WEIGHTS,
    UNKNOWN,
    consequence,
    is_non_commercial,
    joint_licence,
    licence_text,
)


@pytest.mark.parametrize(
    "name",
    ["cc-by-nc-4.0", "cc-by-nc-nd-4.0", "CC BY-NC-SA 4.0", "owkin-non-commercial", "polyform-noncommercial-1.0.0",
     "fair-noncommercial-research-license", "Non Commercial Licence"],
)  # fmt: skip
def test_a_name_that_says_so_is_non_commercial(name):
    assert is_non_commercial(name) is True
    assert consequence("uni", name) == (
        f"Not for commercial use: the licence of the backbone uni, {name}, is non-commercial, and so is this model."
    )


@pytest.mark.parametrize(
    "name",
    ["mit", "MIT License", "Apache-2.0", "apache-2.0", "BSD", "BSD-3-Clause", "cc-by-4.0", "cc0-1.0", NO_WEIGHTS],
)
def test_a_well_known_permissive_name_limits_nothing(name):
    assert is_non_commercial(name) is False
    assert consequence("uni", name) == ""


@pytest.mark.parametrize("name", [UNKNOWN, "h-optimus", "other", "gpl-3.0", "ncsa", "licence", "research-only"])
def test_any_other_name_is_unknown_and_never_free(name):
    """`ncsa` and `licence` contain the letters of `nc`, and `other` is what hubs call anything."""
    assert is_non_commercial(name) is None
    said = consequence("uni", name)
    assert said.startswith("Not for commercial use")
    assert ("unknown" in said) == (name == UNKNOWN)


@pytest.mark.parametrize(
    ("name", "needs_weights", "text"),
    [("mit", True, "mit"), (" ", True, UNKNOWN), ("", True, UNKNOWN), ("", False, NO_WEIGHTS), ("mit", False, "mit")],
)
def test_a_licence_is_always_said(name, needs_weights, text):
    assert licence_text(name, needs_weights) == text


@pytest.mark.parametrize(
    ("licences", "text", "forbids"),
    [
        (("mit", "mit"), "mit", False),
        (("mit", "no weights"), "mit", False),
        (("no weights", "no weights"), "no weights", False),
        (("mit", "apache-2.0"), "mit; apache-2.0", False),
        (("mit", "cc-by-nc-4.0"), "mit; cc-by-nc-4.0", True),
        (("unknown", "cc-by-nc-4.0", "mit"), "unknown; cc-by-nc-4.0; mit", True),
        (("mit", "unknown"), "mit; unknown", None),
    ],
)
def test_of_several_licences_the_strictest_counts(licences, text, forbids):
    assert joint_licence(licences) == text
    assert is_non_commercial(text) is forbids
