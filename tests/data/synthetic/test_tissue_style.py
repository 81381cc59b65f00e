from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from bhsearch.data.synthetic.tissue_style import case_style

TRAITS = ("cover", "spacing", "radius", "pleomorphism")


def styles(label: int, difficulty: float, n_cases: int = 200) -> list[dict]:
    return [asdict(case_style(np.random.default_rng((7, case)), label, difficulty)) for case in range(n_cases)]


def column(rows: list[dict], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows])


def test_only_the_nuclear_traits_know_the_label():
    benign, malignant = styles(0, 0.2, 30), styles(1, 0.2, 30)
    for name in benign[0]:
        same = np.array_equal(column(benign, name), column(malignant, name))
        assert same == (name not in TRAITS), name


def test_at_difficulty_one_the_label_changes_nothing():
    benign, malignant = styles(0, 1.0, 30), styles(1, 1.0, 30)
    assert all(np.array_equal(column(benign, name), column(malignant, name)) for name in benign[0])


@pytest.mark.parametrize(("name", "sign"), [("radius", 1), ("pleomorphism", 1), ("cover", 1), ("spacing", -1)])
def test_malignant_nuclei_are_larger_denser_and_more_varied_in_every_paired_draw(name, sign):
    benign, malignant = column(styles(0, 0.5), name), column(styles(1, 0.5), name)
    assert (sign * (malignant - benign) >= 0).all()
    assert sign * (malignant.mean() - benign.mean()) > 0


def test_classes_overlap_more_the_higher_the_difficulty():
    def overlap(difficulty: float) -> float:
        benign, malignant = column(styles(0, difficulty), "radius"), column(styles(1, difficulty), "radius")
        return float((benign[:, None] >= malignant[None, :]).mean())

    shares = [overlap(difficulty) for difficulty in (0.0, 0.3, 0.6, 1.0)]
    assert shares == sorted(shares)
    assert shares[0] < 0.05
    assert shares[-1] == pytest.approx(0.5, abs=0.02)


def test_absorptions_are_a_direction_times_a_strength_that_varies_from_case_to_case():
    rows = styles(0, 0.5, 50)
    for dye, strongest in (("haematoxylin", (0, 1)), ("eosin", (1,))):
        vectors = column(rows, dye)
        assert (vectors > 0).all()
        assert set(vectors.argmax(axis=1)) <= set(strongest)
        strength = np.linalg.norm(vectors, axis=1)
        assert strength.max() > 1.5 * strength.min()
