"""Rows of the growth of a study, each at a small size; `experiments/benchmarks/growth.md` has larger ones."""

from __future__ import annotations

import json

import pytest

from experiments.benchmarks import growth
from experiments.benchmarks.growth import GROWS, MEANING, PARTS, Size


def test_a_row_runs_alone_and_is_measured_once(tmp_path, capsys):
    file, figure = tmp_path / "growth.json", tmp_path / "growth.png"
    words = ["--data", str(file), "--rows", "ranking/50/476/5", "--figure", str(figure)]
    kept = growth.main(words)
    assert list(kept) == ["ranking/50/476/5"]
    assert kept["ranking/50/476/5"]["seconds"]["ranking"] > 0
    assert kept["ranking/50/476/5"]["megabytes"] > 10
    printed = capsys.readouterr().out
    assert printed.count(MEANING["ranking"]) == 3  # the usual size is in the tables of all axes
    assert json.loads(file.read_text()) == kept
    assert growth.main(words) == kept
    assert capsys.readouterr().out == printed
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("part", PARTS)
def test_every_part_gives_seconds_for_what_it_measures(part):
    found = growth.measure(f"{part}/12/120/5")["seconds"]
    assert found
    assert set(found) <= set(MEANING)
    assert all(seconds > 0 for seconds in found.values())


def test_every_part_is_in_a_table():
    assert {part for parts in GROWS.values() for part in parts} == set(PARTS)


def test_fold_columns_are_repeats_of_five_folds():
    for columns, shape, n_folds in ((1, (1, 120), 1), (5, (1, 120), 5), (25, (5, 120), 5)):
        trials, predictions = growth.simulated(Size(2, 120, columns))
        assert (predictions[0].probability.shape, predictions[0].n_folds) == (shape, n_folds)
        assert predictions[0].label is predictions[1].label
        assert trials[0].value != trials[1].value


def test_trials_are_different_points():
    points = growth.parameter_sets(500)
    assert len({str(growth.effective(point)) for point in points}) == 500
    assert len(growth.parameter_sets(growth.N_POINTS + 1)) == growth.N_POINTS


def test_a_row_that_does_not_exist_is_refused_before_anything_is_measured(tmp_path, capsys):
    for name in ("ranking/50/476", "walking/50/476/5", "search/100000/476/5"):
        with pytest.raises(SystemExit):
            growth.main(["--data", str(tmp_path / "growth.json"), "--rows", name])
        assert "must be" in capsys.readouterr().err
    assert not (tmp_path / "growth.json").exists()
