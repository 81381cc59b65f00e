from __future__ import annotations

import pytest

from bhsearch.runtime.wording import number_of


@pytest.mark.parametrize(("n", "text"), [(0, "0 cases"), (1, "1 case"), (2, "2 cases"), (1200, "1,200 cases")])
def test_one_is_singular(n, text):
    assert number_of(n, "case") == text
