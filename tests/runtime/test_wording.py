from __future__ import annotations

import pytest

from bhsearch.runtime.wording import counted


@pytest.mark.parametrize(("n", "text"), [(0, "0 cases"), (1, "1 case"), (2, "2 cases"), (1200, "1,200 cases")])
def test_one_is_singular(n, text):
    assert counted(n, "case") == text
