"""What is computed after a search on request: a failure of it keeps the result of the search."""

from __future__ import annotations

import pytest

from bhsearch.study.outcome import conclusion
from tests.studies import cache_of, search


@pytest.mark.parametrize(("option", "computes"), [("robustness", "robustness_of"), ("nested", "nested_score")])
@pytest.mark.parametrize("error", [OSError("the disk is gone."), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_failure_keeps_the_result_and_says_the_reason(
    option, computes, error, monkeypatch, tmp_path, tmp_path_factory
):
    def fail(*_):
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BHSEARCH_CACHE", cache_of(tmp_path_factory))
    monkeypatch.setattr(conclusion, computes, fail)
    found = search(trials=2, **{option: True})
    assert found.best is not None
    assert getattr(found, f"no_{option}") == (str(error).rstrip(".") or "it was interrupted")
