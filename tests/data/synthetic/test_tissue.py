from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bhsearch.data.synthetic import tissue
from bhsearch.data.synthetic.tissue_style import Style, case_style


@pytest.fixture
def style() -> Style:
    """A case without what would blur a measurement: no noise, no vignette, no fat, no lymphocytes."""
    plain = case_style(np.random.default_rng(5), 0, 0.5)
    return replace(plain, noise=0.0, vignette=0.0, fat=0.0, lymphocytes=0.0, white=np.full(3, 240.0))


def rng(at: int = 0) -> np.random.Generator:
    return np.random.default_rng((1, at))


def mean_darkness(style: Style) -> float:
    """Light taken from the red channel, where haematoxylin absorbs and eosin hardly does; mean of six images."""
    return float(np.mean([255 - tissue.draw_tissue(style, rng(at))[:, :, 0].astype(float) for at in range(6)]))


def test_an_image_is_a_function_of_style_and_generator(style):
    first = tissue.draw_tissue(style, rng())
    assert first.shape == (tissue.HEIGHT, tissue.WIDTH, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, tissue.draw_tissue(style, rng()))
    assert not np.array_equal(first, tissue.draw_tissue(style, rng(1)))


def test_bare_glass_shows_the_white_of_the_lamp_and_nothing_is_brighter(style):
    lit = np.concatenate([tissue.draw_tissue(replace(style, fat=0.6), rng(at)).reshape(-1, 3) for at in range(3)])
    assert 0.95 * 240 < lit.max() <= np.ceil(1.02 * 240)


def test_nuclei_darken_the_red_channel_where_they_are(style):
    few = replace(style, cover=0.05, spacing=14.0, glands=0.0, fibroblasts=0.0)
    many = replace(few, cover=0.7, spacing=8.5)
    assert mean_darkness(many) > mean_darkness(few) + 10
    assert mean_darkness(replace(many, radius=5.2)) > mean_darkness(replace(many, radius=3.0)) + 5


def test_one_nucleus_is_a_rotated_ellipse_with_a_soft_edge():
    one = (np.array([value]) for value in (80.3, 120.6, 7.0, 3.5, np.pi / 2, 1.0))
    dye = tissue._chromatin(tissue.Nuclei(*one), np.zeros((tissue.HEIGHT, tissue.WIDTH)), 0.0)
    y, x = np.nonzero(dye > 0.4)
    assert (y.mean(), x.mean()) == pytest.approx((80.3, 120.6), abs=0.3)
    assert np.ptp(y) == pytest.approx(14, abs=2)  # standing upright: an angle of a quarter turn
    assert np.ptp(x) == pytest.approx(7, abs=2)
    assert 0 < ((dye > 0.05) & (dye < 0.4)).sum() < len(y)


def test_nuclei_at_and_beyond_the_edges_are_cut_not_lost_or_moved():
    places = np.array([-11.9, 0.0, tissue.HEIGHT - 0.5, tissue.HEIGHT + 10.9])
    n = len(places)
    nuclei = tissue.Nuclei(
        places, np.linspace(0, tissue.WIDTH - 1.0, n), np.full(n, 10.5), np.full(n, 8.0), np.zeros(n), np.ones(n)
    )
    dye = tissue._chromatin(nuclei, np.zeros((tissue.HEIGHT, tissue.WIDTH)), 0.0)
    assert dye[0, 79] > 0.5
    assert dye[-1, 159] > 0.5
    assert dye[40:-40].max() == 0


def test_fibres_run_along_their_angle(style):
    # Along the fibres neighbours are alike, across them they are not.
    straight = replace(
        style,
        fibre_angle=0.0,
        fibre_waviness=1.0,
        fibre_contrast=0.8,
        cleft=0.0,
        cover=0.06,
        glands=0.0,
        fibroblasts=0.0,
    )
    green = np.stack([tissue.draw_tissue(straight, rng(at))[:, :, 1].astype(float) for at in range(6)])
    across, along = np.abs(np.diff(green, axis=1)).mean(), np.abs(np.diff(green, axis=2)).mean()
    assert across > 1.15 * along


def test_smooth_noise_has_unit_deviation_and_the_scale_it_is_asked_for():
    fine, coarse = (np.stack([tissue._smooth(rng(at), scale) for at in range(40)]) for scale in (8.0, 40.0))
    assert fine.std() == pytest.approx(1.0, abs=0.2)
    assert coarse.std() == pytest.approx(1.0, abs=0.25)
    assert np.abs(np.diff(fine, axis=2)).mean() > 3 * np.abs(np.diff(coarse, axis=2)).mean()
