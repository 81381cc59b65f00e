"""Predictions: weights, refusals, and a file that gives every number back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bhsearch.errors import DataError
from bhsearch.evaluation.predictions import Predictions, case_weights, six_digits
from tests.evaluation.simulated import simulate


def test_every_group_weighs_one_in_each_part_it_lies_in() -> None:
    group = np.array([7, 7, 7, 2, 2, 9])
    fold = np.array([[0, 0, 1, 0, 0, 1]], dtype=np.int8)
    assert case_weights(group, fold).tolist() == [[0.5, 0.5, 1.0, 0.5, 0.5, 1.0]]


def test_a_file_gives_every_value_back_exactly(tmp_path: Path) -> None:
    first = simulate(8, n_repeats=2)
    noise = np.random.default_rng(1).random(first.probability.shape).astype(np.float32)
    path = first.path.copy()
    path[0] = '# odd, "name"\nÄ.png'
    first = dataclasses.replace(first, probability=noise, path=path)
    first.to_csv(tmp_path / "p.csv")
    again = Predictions.from_csv(tmp_path / "p.csv")
    for field in dataclasses.fields(first):
        assert np.array_equal(getattr(first, field.name), getattr(again, field.name)), field.name


def test_a_file_is_plain_csv_and_says_in_every_row_and_beside_what_it_must_not_be_used_for(tmp_path: Path) -> None:
    first = simulate(6)
    first.to_csv(tmp_path / "p.csv", "Synthetic data. Not for screening.")
    table = pd.read_csv(tmp_path / "p.csv", dtype={"case": str})
    assert len(table) == len(first)
    assert table.columns.tolist()[:3] == ["path", "case", "group"]
    assert set(table["use"]) == {"Synthetic data. Not for screening."}
    assert "#" not in (tmp_path / "p.csv").read_text(encoding="utf-8")
    beside = (tmp_path / "p.README.txt").read_text(encoding="utf-8")
    assert beside == "p.csv: out-of-fold P(malignant), one row per image.\nSynthetic data. Not for screening.\n"


def test_a_file_without_a_note_is_read_too_and_has_no_text_beside(tmp_path: Path) -> None:
    simulate(6).to_csv(tmp_path / "p.csv", note="")
    assert len(Predictions.from_csv(tmp_path / "p.csv")) == len(simulate(6))
    assert "use" not in (tmp_path / "p.csv").read_text(encoding="utf-8").splitlines()[0]
    assert [file.name for file in tmp_path.iterdir()] == ["p.csv"]


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_six_digits_are_those_that_python_writes(values: list[float]) -> None:
    rounded = six_digits(values)
    assert rounded.dtype == np.float32
    assert [float(str(value)) for value in rounded] == pytest.approx([float(f"{v:.6g}") for v in values], rel=1e-12)
    assert np.array_equal(six_digits(rounded), rounded)


@pytest.mark.parametrize("damage", ["header", "row", "number", "empty"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "p.csv"
    simulate(6).to_csv(path, note="")
    header, first, *rest = path.read_text(encoding="utf-8").splitlines()
    lines = {
        "header": [header.replace("probability_r0", "p"), first],
        "row": [header, first, rest[0].rsplit(",", 1)[0]],
        "number": [header, first.rsplit(",", 1)[0] + ",x"],
        "empty": [],
    }[damage]
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=r"p\.csv"):
        Predictions.from_csv(path)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("probability", np.nan, "diverged"),
        ("probability", 1.5, r"\[0, 1\]"),
        ("label", 2, "Labels must be 0 or 1"),
        ("fold", -1, "Folds must be 0 or more"),
    ],
)
def test_impossible_values_are_refused(name: str, value: float, said: str) -> None:
    good = simulate(6)
    bad = getattr(good, name).copy()
    bad[..., 0] = value
    with pytest.raises(DataError, match=said):
        dataclasses.replace(good, **{name: bad})


def test_shapes_that_disagree_are_refused() -> None:
    good = simulate(6)
    with pytest.raises(DataError, match="`case` must have shape"):
        dataclasses.replace(good, case=good.case[1:])
    with pytest.raises(DataError, match="same shape"):
        dataclasses.replace(good, fold=good.fold[:, 1:])


def test_a_selection_counts_only_its_own_images() -> None:
    whole = simulate(8)
    part = whole.select(whole.magnification == "40X")
    sums = np.bincount(np.unique(part.group, return_inverse=True)[1], part.weight[0])
    assert np.allclose(sums, 1)


def test_predictions_of_many_trials_share_what_is_equal_and_lose_nothing(tmp_path: Path) -> None:
    first = simulate(8)
    first.to_csv(tmp_path / "p.csv")
    again = Predictions.from_csv(tmp_path / "p.csv")
    shared = again.sharing(first)
    assert all(getattr(shared, name) is getattr(first, name) for name in ("label", "fold", "group", "path", "case"))
    assert shared.probability is again.probability
    other = dataclasses.replace(again, path=again.path[::-1].copy()).sharing(first)
    assert other.path.tolist() == again.path[::-1].tolist()
    assert again.sharing(None) is again
