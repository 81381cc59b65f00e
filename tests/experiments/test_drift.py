"""The benchmark of warnings: its shifts are what they say, and a small run finds them without false alarms."""

from __future__ import annotations

import numpy as np
import pytest

from bhsearch.errors import DataError
from tests.experiments.test_experiments import load

SMALL = ["--backbone", "staintex-s", "--image-size", "48", "--batches", "40"]


@pytest.fixture(scope="module")
def drift():
    return load("drift")


@pytest.mark.slow
def test_strong_shifts_are_found_and_unchanged_batches_are_not(drift, capsys):
    found = drift.main(["--data", "phantom:cases=60,images=1", *SMALL])
    assert max(found[f"unchanged, {size}"] for size in (1, 5, 10)) <= 0.02
    for name in ("brightness x0.7", "blur", "a third of the field", "names"):
        assert found[name] == 1.0, name
    printed = capsys.readouterr().out
    assert "| brightness x0.7, 10 cases | 100.0 % |" in printed
    assert "| unchanged, 50 cases | fewer cases than that |" in printed


def test_too_few_cases_are_refused(drift):
    with pytest.raises(DataError, match="must have at least 22 development cases"):
        drift.main(["--data", "phantom:cases=20,images=1", *SMALL])


def test_crops_are_a_third_of_the_field(drift):
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3)).astype(np.uint8)
    assert drift.third(image, "a").shape == (35, 52, 3)
    assert drift.enlarged_third(image, "a").shape == image.shape
