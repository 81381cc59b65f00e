from __future__ import annotations

import pytest

from bhsearch.text import duration, listed, plural, value_text, verb


@pytest.mark.parametrize(("count", "said"), [(0, "0 cases"), (1, "1 case"), (2, "2 cases"), (1234, "1,234 cases")])
def test_a_noun_follows_its_count(count, said):
    assert plural(count, "case") == said


def test_a_verb_agrees_with_a_count():
    assert [verb(count, "has", "have") for count in (0, 1, 2)] == ["have", "has", "have"]


def test_a_long_list_ends_with_the_number_of_the_rest():
    assert listed(["a", "b"]) == "  a\n  b"
    assert listed(["a", "b", "c"], most=1) == "  a\n  and 2 more"


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.000123456, "0.0001235"), (1.0, "1"), (123456, "123456"), (True, "True"), ("cnn", "cnn"), (None, "None")],
)
def test_a_parameter_is_short_only_if_it_is_a_float(value, said):
    assert value_text(value) == said
    assert value_text(0.12345, 3) == "0.123"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (3599.9, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_durations_are_written_as_a_person_reads_them(seconds, text):
    assert duration(seconds) == text
