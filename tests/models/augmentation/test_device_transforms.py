from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from bhsearch.errors import SettingsError
from bhsearch.models import backend
from bhsearch.models.augmentation import device_transforms as module
from bhsearch.models.augmentation import policies
from bhsearch.models.augmentation.cached_views import apply_view, views_of
from bhsearch.models.augmentation.device_transforms import (
    COLUMNS,
    N_COLUMNS,
    SHOWN_SAMPLES,
    SHOWN_STRENGTHS,
    augment,
    draw_augmentation,
    draw_mixup,
    examples,
    mixup,
)
from bhsearch.models.augmentation.policies import FINETUNE_POLICIES
from bhsearch.models.augmentation.stain import HE_TO_RGB, RGB_TO_HE, optical_density
from tests.models.conftest import tissue

SIZE = 40
AUGMENTING = FINETUNE_POLICIES[1:]
CHANGING = FINETUNE_POLICIES[2:]  # more than turning and mirroring


@pytest.fixture(scope="module")
def images():
    return tissue(6, SIZE).astype(np.float32)


def drawn(n, policy, strength=1.0, seed=0, size=SIZE):
    return draw_augmentation(np.random.default_rng(seed), n, policy, strength, size)


def nothing(n, size=SIZE):
    """Parameters that leave images as they are."""
    return drawn(n, "none", 0.0, size=size)


def seen(images, parameters):
    return np.asarray(augment(images, parameters))


def moved(images, parameters):
    """Zoom, shift and dihedral alone, without the way to optical densities and back."""
    result = np.asarray(module._geometric(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), parameters))
    return result.transpose(0, 2, 3, 1)


def symmetries(image):
    return [np.asarray(apply_view(image[None], view))[0] for view in views_of("dihedral", 8)]


def stained(haematoxylin, eosin, residual=0.0):
    """RGB of an image with given densities of the stains."""
    density = np.stack(np.broadcast_arrays(haematoxylin, eosin, residual), axis=-1) @ HE_TO_RGB.astype(np.float64)
    return (256 * np.exp(-density) - 1).astype(np.float32)


def stains_of(images):
    return np.asarray(optical_density(images)) @ RGB_TO_HE


# Drawing


def test_the_columns_cover_a_row_once():
    taken = [k for part in COLUMNS for k in range(part.start, part.stop)]
    assert taken == list(range(N_COLUMNS))


@pytest.mark.parametrize("policy", FINETUNE_POLICIES)
def test_draws_are_rows_of_finite_numbers_and_the_seed_says_which(policy):
    rows = drawn(50, policy)
    assert rows.shape == (50, N_COLUMNS)
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()
    np.testing.assert_array_equal(drawn(50, policy), rows)
    assert (policy == "none") == np.array_equal(drawn(50, policy, seed=1), rows)


@pytest.mark.parametrize("policy", AUGMENTING)
def test_every_policy_turns_and_mirrors_in_all_eight_ways(policy):
    rows = drawn(400, policy)
    ways = np.column_stack([np.sign(rows[:, [1, 3]]), rows[:, COLUMNS.transposed]])
    _, counts = np.unique(ways, axis=0, return_counts=True)
    assert len(counts) == 8
    assert counts.min() > 25


def test_no_augmentation_is_none_at_any_strength():
    np.testing.assert_array_equal(drawn(20, "none", 1.0), nothing(20))


def test_a_policy_changes_its_own_columns_only():
    own = {
        "dihedral": (COLUMNS.rows, COLUMNS.columns, COLUMNS.transposed),
        "stain": (COLUMNS.matrix, COLUMNS.offset),
        "colour": (COLUMNS.colour,),
        "zoom": (COLUMNS.rows, COLUMNS.columns),
        "erasing": (COLUMNS.box,),
    }
    for policy in AUGMENTING[1:]:
        base, rows = drawn(100, "dihedral"), drawn(100, policy)
        differs = (base != rows).any(axis=0)
        parts = CHANGING[:-1] if policy == "all" else (policy,)
        for name in CHANGING[:-1]:
            for part in own[name]:
                assert differs[part].any() == (name in parts), (policy, name)
        assert not differs[COLUMNS.transposed].any()


@pytest.mark.parametrize("policy", CHANGING)
def test_at_strength_nothing_a_policy_turns_and_mirrors_only(policy):
    np.testing.assert_array_equal(drawn(50, policy, 0.0), drawn(50, "dihedral", 1.0))


def test_strength_stretches_the_same_draw():
    # So that two trials differ by their strength, and not by their luck.
    weak, strong = drawn(200, "all", 0.25), drawn(200, "all", 0.5)
    np.testing.assert_allclose(
        2 * np.log(weak[:, COLUMNS.colour]), np.log(strong[:, COLUMNS.colour]), rtol=1e-3, atol=1e-6
    )
    np.testing.assert_allclose(2 * weak[:, COLUMNS.offset], strong[:, COLUMNS.offset], rtol=1e-5)


def test_boxes_lie_inside_the_image_and_reach_its_edges():
    top, left, height, width = drawn(3000, "erasing")[:, COLUMNS.box].T
    for first, side in ((top, height), (left, width)):
        assert first.min() == 0
        assert (first + side).max() == SIZE
        assert (first == first.round()).all()
        assert (side == side.round()).all()
    area = height * width / SIZE**2
    assert 0 <= area.min() < 0.02
    assert 0.9 * policies.BOX < area.max() < 1.15 * policies.BOX


def test_what_cannot_be_drawn_is_refused():
    random = np.random.default_rng(0)
    with pytest.raises(SettingsError, match=r"one of none, dihedral.*got 'shear'"):
        draw_augmentation(random, 1, "shear", 0.5, 32)
    for strength in (-0.1, 1.1, np.nan):
        with pytest.raises(SettingsError, match=r"0 to 1, but got"):
            draw_augmentation(random, 1, "stain", strength, 32)
        with pytest.raises(SettingsError, match=r"0 to 1, but got"):
            draw_mixup(random, 1, strength)


# Applying


def test_parameters_of_nothing_give_back_the_image(images):
    np.testing.assert_allclose(seen(images, nothing(6)), images, atol=1e-3)
    extremes = np.random.default_rng(0).choice([0.0, 255.0], (4, SIZE, SIZE, 3)).astype(np.float32)
    np.testing.assert_allclose(seen(extremes, nothing(4)), extremes, atol=1e-3)


@pytest.mark.parametrize("size", [32, 33])
def test_dihedral_is_exact_and_has_the_eight_views(size):
    # Against the frozen regime's own views: whole numbers come out as the very same whole numbers.
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3)).astype(np.float32)
    rows = drawn(64, "dihedral", size=size)
    results = moved(np.repeat(image[None], 64, axis=0), rows)
    matches = np.array([[np.array_equal(one, view) for view in symmetries(image)] for one in results])
    assert (matches.sum(axis=1) == 1).all()
    assert matches.any(axis=0).all()
    whole = seen(np.repeat(image[None], 64, axis=0), rows)
    np.testing.assert_array_equal(whole.round(), results)


@pytest.mark.parametrize("policy", AUGMENTING)
def test_images_stay_images(policy):
    random = np.random.default_rng(0)
    extremes = np.stack([np.full((32, 32, 3), value) for value in (0.0, 255.0)] * 8)
    extremes[4:] = random.choice([0.0, 255.0], extremes[4:].shape)
    result = seen(extremes.astype(np.float32), drawn(16, policy, size=32))
    assert result.dtype == np.float32
    assert result.shape == extremes.shape
    assert np.isfinite(result).all()
    assert result.min() >= 0
    assert result.max() <= 255


@pytest.mark.parametrize("policy", CHANGING)
def test_more_strength_changes_more(images, policy):
    # Turned back, an image is compared with what turning alone makes of it.
    base = seen(np.repeat(images, 4, axis=0), drawn(24, "dihedral"))
    changes = [np.abs(seen(np.repeat(images, 4, axis=0), drawn(24, policy, s)) - base).mean() for s in (0.1, 0.4, 1.0)]
    assert 0 < changes[0] < changes[1] < changes[2]


def test_every_image_gets_its_own(images):
    rows = drawn(6, "all")
    together = seen(images, rows)
    for k in range(6):
        np.testing.assert_allclose(seen(images[k : k + 1], rows[k : k + 1])[0], together[k], atol=1e-3)


def test_zoom_and_shift_move_a_ramp_as_they_say():
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    ramp = np.stack([y, x, 0 * x], axis=-1)[None]
    rows = nothing(1)
    rows[0, COLUMNS.rows], rows[0, COLUMNS.columns] = (3.5, 0.8), (30.0, -0.5)
    result = moved(ramp, rows)[0]
    np.testing.assert_allclose(result[..., 0], 3.5 + 0.8 * y, atol=1e-4)
    np.testing.assert_allclose(result[..., 1], 30.0 - 0.5 * x, atol=1e-4)
    rows[0, COLUMNS.transposed] = 1
    np.testing.assert_allclose(moved(ramp, rows)[0], result.transpose(1, 0, 2), atol=1e-6)


def test_what_lies_outside_is_the_image_mirrored():
    image = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3)).astype(np.float32)
    rows = nothing(1, 32)
    rows[0, COLUMNS.rows], rows[0, COLUMNS.columns] = (-4.0, 1.0), (6.0, 1.0)
    padded = np.pad(image[0], ((8, 8), (8, 8), (0, 0)), mode="reflect")
    np.testing.assert_allclose(moved(image, rows)[0], padded[4:36, 14:46], atol=1e-3)


def test_the_window_is_drawn_around_the_middle_and_never_far_off():
    rows = drawn(2000, "zoom")
    for part in (COLUMNS.rows, COLUMNS.columns):
        start, step = rows[:, part].astype(np.float64).T
        middle = start + step * (SIZE - 1) / 2 - (SIZE - 1) / 2
        assert np.abs(middle).max() <= policies.SHIFT * SIZE + 1e-4
        assert abs(middle.mean()) < 0.1 * policies.SHIFT * SIZE
        assert np.abs(step).min() == pytest.approx(1 / policies.ZOOM, rel=0.01)
        assert np.abs(step).max() == pytest.approx(policies.ZOOM, rel=0.01)


def test_stain_jitter_scales_and_shifts_what_was_there():
    # A known image: its stains are known, and so must be those of the result.
    random = np.random.default_rng(0)
    haematoxylin, eosin = random.uniform(0.1, 0.6, (1, 32, 32)), random.uniform(0.1, 0.6, (1, 32, 32))
    image = stained(haematoxylin, eosin, 0.05)
    moves = np.array([[1.0, -0.5, 0.8, -0.4]])
    rows = nothing(1, 32)
    matrix, rows[:, COLUMNS.offset] = module._stains(moves, 1.0)
    rows[:, COLUMNS.matrix] = matrix.reshape(1, 9)
    found = stains_of(seen(image, rows))[0]
    most, shift = policies.STAIN_FACTOR, policies.STAIN_OFFSET
    np.testing.assert_allclose(found[..., 0], most * haematoxylin[0] + 0.8 * shift, atol=2e-3)
    np.testing.assert_allclose(found[..., 1], most**-0.5 * eosin[0] - 0.4 * shift, atol=2e-3)
    np.testing.assert_allclose(found[..., 2], most**0.25 * 0.05, atol=2e-3)


def test_brightness_and_contrast_are_around_the_images_own_mean():
    image = np.random.default_rng(0).uniform(90, 150, (2, 32, 32, 3)).astype(np.float32)
    rows = nothing(2, 32)
    rows[0, COLUMNS.colour] = (1.1, 1.3)
    result = seen(image, rows)
    np.testing.assert_allclose(result[0].mean(axis=(0, 1)), 1.1 * image[0].mean(axis=(0, 1)), rtol=1e-4)
    np.testing.assert_allclose(result[0].std(axis=(0, 1)), 1.1 * 1.3 * image[0].std(axis=(0, 1)), rtol=1e-3)
    np.testing.assert_allclose(result[1], image[1], atol=1e-3)


def test_a_box_is_filled_with_the_images_mean(images):
    rows = nothing(6)
    rows[0, COLUMNS.box] = (3, 5, 10, 7)
    rows[:, COLUMNS.colour] = (0.9, 1.0)  # the mean of what is seen, not of what was given
    result = seen(images, rows)
    inside = np.zeros((SIZE, SIZE), bool)
    inside[3:13, 5:12] = True
    images = 0.9 * images
    mean = images[0].mean(axis=(0, 1))
    np.testing.assert_allclose(result[0][inside], np.broadcast_to(mean, (70, 3)), rtol=1e-4)
    np.testing.assert_allclose(result[0][~inside], images[0][~inside], atol=1e-3)
    np.testing.assert_allclose(result[1:], images[1:], atol=1e-3)


def test_policies_and_strengths_compile_nothing(images):
    # Python code runs only while a program is traced.
    traced = []

    def counted(images, parameters):
        traced.append(1)
        return augment(images, parameters)

    program = backend.compiled(counted)
    for policy in FINETUNE_POLICIES:
        for strength in (0.0, 0.3, 1.0):
            rows = drawn(6, policy, strength)
            result = np.asarray(program(images, rows))
            np.testing.assert_allclose(result, seen(images, rows), atol=1e-2)
    assert len(traced) == 1


_ELSEWHERE = """
import sys
import numpy as np
from bhsearch.models import backend
backend.import_backend()
from bhsearch.models.augmentation.device_transforms import augment, mixup
given = np.load(sys.argv[1])
images = backend.compiled(augment)(given["images"], given["rows"])
mixed = backend.compiled(mixup)(images, given["targets"], given["weights"], given["share"])
np.savez(sys.argv[2], *(np.asarray(part) for part in (images, *mixed)))
print(backend.name())
"""


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs JAX, which is not installed")
def test_jax_makes_the_same_images(images, tmp_path):
    if backend.name() == "jax":
        pytest.skip("runs on JAX already")
    rows, share = drawn(6, "all"), np.full(6, 0.7, np.float32)
    targets, weights = np.array([0, 1, 1, 0, 1, 0], np.float32), np.linspace(0, 1, 6, dtype=np.float32)
    np.savez(tmp_path / "given.npz", images=images, rows=rows, share=share, targets=targets, weights=weights)
    done = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, str(tmp_path / "given.npz"), str(tmp_path / "found.npz")],
        env=os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "jax\n", done.stderr
    expected = augment(images, rows)
    with np.load(tmp_path / "found.npz") as found:
        for theirs, ours in zip(found.values(), (expected, *mixup(expected, targets, weights, share)), strict=True):
            np.testing.assert_allclose(theirs, np.asarray(ours), atol=2e-2)


# Mixup


def test_mixup_mixes_with_the_batch_in_reverse():
    images = np.arange(4, dtype=np.float32)[:, None, None, None] * np.ones((4, 2, 2, 3), np.float32)
    targets, weights = np.array([0, 1, 1, 1], np.float32), np.ones(4, np.float32)
    mixed, labels, kept = (np.asarray(part) for part in mixup(images, targets, weights, np.full(4, 0.75, np.float32)))
    np.testing.assert_allclose(mixed[:, 0, 0, 0], [0.75, 1.25, 1.75, 2.25])
    np.testing.assert_allclose(labels, [0.25, 1, 1, 0.75])
    np.testing.assert_allclose(kept, weights)


def test_a_mixed_loss_is_that_of_both_labels_with_their_own_weights():
    random = np.random.default_rng(0)
    images, logits = np.zeros((6, 2, 2, 3), np.float32), random.normal(size=6)
    targets, weights = np.array([0, 1, 1, 0, 0, 1], np.float32), random.uniform(0, 2, 6).astype(np.float32)
    weights[0] = 0  # a row that only fills the batch

    def loss(target, weight):
        return weight * (np.log1p(np.exp(logits)) - target * logits)

    _, labels, kept = (np.asarray(part) for part in mixup(images, targets, weights, np.full(6, 0.6, np.float32)))
    expected = 0.6 * loss(targets, weights) + 0.4 * loss(targets[::-1], weights[::-1])
    np.testing.assert_allclose(loss(labels, kept), expected, rtol=1e-5, atol=1e-6)
    assert kept.sum() == pytest.approx(weights.sum(), rel=1e-5)


def test_mixup_that_is_off_changes_nothing(images):
    targets, weights = np.array([0, 1, 1, 0, 1, 0], np.float32), np.linspace(0, 3, 6, dtype=np.float32)
    mixed = mixup(images, targets, weights, np.ones(6, np.float32))
    for found, own in zip(mixed, (images, targets, weights), strict=True):
        np.testing.assert_array_equal(np.asarray(found), own)


def test_a_batch_of_no_weight_stays_finite(images):
    _, labels, kept = mixup(images, np.ones(6, np.float32), np.zeros(6, np.float32), np.full(6, 0.5, np.float32))
    np.testing.assert_array_equal(np.asarray(labels), 1)
    np.testing.assert_array_equal(np.asarray(kept), 0)


def test_shares_of_mixup_follow_its_strength():
    shares = {strength: draw_mixup(np.random.default_rng(0), 4000, strength) for strength in (0.0, 0.2, 1.0)}
    assert (shares[0.0] == 1).all()
    for share in shares.values():
        assert share.dtype == np.float32
        assert share.min() >= 0.5
        assert share.max() <= 1
    assert shares[1.0].mean() == pytest.approx(0.75, abs=0.01)  # the larger part of a stick broken at random
    assert shares[0.2].mean() > 0.85
    np.testing.assert_array_equal(shares[1.0], draw_mixup(np.random.default_rng(0), 4000, 1.0))


# The picture


def test_examples_show_every_policy_at_every_strength():
    given = list(tissue(2, 32))
    rows = examples(given, np.random.default_rng(0))
    assert [policy for policy, _ in rows] == list(AUGMENTING)
    for k, (policy, pictures) in enumerate(rows):
        assert len(pictures) == 1 + SHOWN_SAMPLES * len(SHOWN_STRENGTHS)
        assert all(picture.dtype == np.uint8 and picture.shape == (32, 32, 3) for picture in pictures)
        np.testing.assert_array_equal(pictures[0], given[k % 2])
        views = symmetries(given[k % 2].astype(np.float32))
        turned_only = [any(np.array_equal(view, picture) for view in views) for picture in pictures]
        assert all(turned_only) if policy == "dihedral" else not all(turned_only)
