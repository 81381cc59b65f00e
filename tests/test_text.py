from __future__ import annotations

import pytest

from bhsearch.text import listed, plural


@pytest.mark.parametrize(("count", "said"), [(0, "0 cases"), (1, "1 case"), (2, "2 cases"), (1234, "1,234 cases")])
def test_a_noun_follows_its_count(count, said):
    assert plural(count, "case") == said


def test_a_long_list_ends_with_the_number_of_the_rest():
    assert listed(["a", "b"]) == "  a\n  b"
    assert listed(["a", "b", "c"], most=1) == "  a\n  and 2 more"
