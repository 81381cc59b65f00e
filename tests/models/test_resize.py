from __future__ import annotations

import numpy as np
import pytest

from bhsearch.errors import SettingsError
from bhsearch.models.resize import MODES, TILE_GRID, grid_of, make_resize, resize_images, resize_weights
from tests.test_layers import loaded_by

SIZE = 32
# Height and width: as BreakHis is, upright, smaller than asked for, one pixel, and much longer than wide.
SHAPES = ((46, 70), (90, 61), (20, 25), (1, 1), (33, 400))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module", params=MODES)
def mode_and_network(request):
    """The first step alone, as it stands in a deployed model."""
    import keras

    images = keras.Input((None, None, 3), dtype="uint8")
    return request.param, keras.Model(images, resize_images(images, request.param, SIZE))


def disc(height, width, radius):
    y, x = np.mgrid[:height, :width]
    inside = (y - height / 2 + 0.5) ** 2 + (x - width / 2 + 0.5) ** 2 < radius**2
    return np.where(inside[..., None], 0, 255).astype(np.uint8).repeat(3, axis=-1)


def extent(image):
    """Height and width of what is dark."""
    dark = image[..., 0] < 128
    return int(dark.any(axis=1).sum()), int(dark.any(axis=0).sum())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_cache_holds_what_the_network_computes_itself(mode_and_network, shape):
    # Equal integers: otherwise the model that is kept would not see what its heads were trained on.
    mode, network = mode_and_network
    image = noise(*shape, 3)
    cached = make_resize(mode, SIZE).apply(image)
    computed = network.predict(image[None], verbose=0)
    assert cached.dtype == np.uint8
    assert cached.shape == make_resize(mode, SIZE).shape
    np.testing.assert_array_equal(computed, cached.astype(np.float32))


def test_an_image_is_resized_the_same_alone_and_in_a_batch(mode_and_network):
    mode, network = mode_and_network
    images = noise(5, 46, 70, 3)
    together = network.predict(images, verbose=0).reshape(5, -1, SIZE, SIZE, 3)
    for image, resized in zip(images, together, strict=True):
        np.testing.assert_array_equal(resized, make_resize(mode, SIZE).apply(image))


@pytest.mark.data
def test_real_images_are_cached_as_the_network_computes_them(mode_and_network, breakhis):
    from bhsearch.data.images.decode import decode

    mode, network = mode_and_network
    for path in sorted(breakhis.rglob("*.png"))[:60:20]:
        image = decode(path)
        np.testing.assert_array_equal(network.predict(image[None], verbose=0), make_resize(mode, SIZE).apply(image))


# Sides of images and of results: up and down, odd and even, one pixel, nearly equal, and integer factors.
_SIDES = (1, 2, 3, 31, 32, 33, 49, 50, 63, 64, 65, 96, 127, 128, 200, 230, 350, 461, 700)
_RESULTS = (32, 33, 48, 50, 64, 97, 128, 224)


@pytest.mark.parametrize("size", _RESULTS)
def test_images_are_resized_as_by_tensorflow(size):
    # Equal, or one grey level apart in at most one value of a thousand, if another version adds up in another order.
    tf = pytest.importorskip("tensorflow")
    random = np.random.default_rng(size)
    resize, n_values, n_different = make_resize("squash", size), 0, 0
    for height, width in random.choice(_SIDES, (25, 2)):
        image = noise(height, width, 3, seed=int(height))
        reference = tf.image.resize(image[None].astype(np.float32), (size, size), method="bilinear", antialias=True)
        difference = np.abs(resize.apply(image).astype(int) - np.rint(reference.numpy()).astype(int))
        assert difference.max() <= 1, (height, width)
        n_values, n_different = n_values + difference.size, n_different + np.count_nonzero(difference)
    assert n_different <= n_values / 1000


def test_weights_of_a_resize_sum_to_one_and_are_symmetric():
    for n_in in _SIDES:
        for n_out in _RESULTS:
            weights = resize_weights(n_in, n_out)
            assert weights.shape == (n_out, n_in)
            np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
            np.testing.assert_allclose(weights, weights[::-1, ::-1], atol=1e-4)


def test_resizing_needs_no_framework():
    code = ("import numpy", "from bhsearch.models.resize import make_resize")
    assert loaded_by(*code, "make_resize('crop', 64).apply(numpy.zeros((50, 40, 3), numpy.uint8))") == set()


@pytest.mark.parametrize("shape", [(120, 180), (180, 120)])
def test_crop_keeps_a_circle_a_circle_and_squash_does_not(shape):
    image = disc(*shape, radius=40)
    height, width = extent(make_resize("crop", 60).apply(image)[0])
    assert abs(height - width) <= 1
    assert height == pytest.approx(40, abs=2)
    short, long = sorted(extent(make_resize("squash", 60).apply(image)[0]))
    assert short == pytest.approx(80 / 3, abs=2)
    assert long == pytest.approx(40, abs=2)


def test_crop_cuts_both_sides_alike():
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, :20], image[:, 60:] = 255, 255
    assert make_resize("crop", 40).apply(image).max() == 0


def test_squash_keeps_the_whole_image():
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, :20] = 255
    resized = make_resize("squash", 40).apply(image)[0]
    assert (resized[:, :9] == 255).all()
    assert (resized[:, 11:] == 0).all()


def test_tiles_are_the_pieces_of_the_image_row_by_row():
    rows, columns = TILE_GRID
    values = np.arange(1, rows * columns + 1, dtype=np.uint8) * 30
    image = np.kron(values.reshape(TILE_GRID), np.ones((64, 64), np.uint8))[..., None].repeat(3, axis=-1)
    tiles = make_resize("tiles", SIZE).apply(image)
    assert tiles.shape == (rows * columns, SIZE, SIZE, 3)
    for tile, value in zip(tiles, values, strict=True):
        assert (tile[2:-2, 2:-2] == value).all()  # antialiasing mixes the borders


def test_tiles_together_are_the_image():
    rows, columns = TILE_GRID
    image = noise(rows * SIZE, columns * SIZE, 3)  # needs no resizing, so that nothing but the cutting counts
    tiles = make_resize("tiles", SIZE).apply(image)
    for row in range(rows):
        for column in range(columns):
            piece = image[row * SIZE : (row + 1) * SIZE, column * SIZE : (column + 1) * SIZE]
            np.testing.assert_array_equal(tiles[row * columns + column], piece)


def test_tiles_keep_a_circle_a_circle():
    rows, columns = TILE_GRID
    tiles = make_resize("tiles", SIZE).apply(disc(200, 500, radius=80))
    whole = tiles.reshape(rows, columns, SIZE, SIZE, 3).transpose(0, 2, 1, 3, 4).reshape(rows * SIZE, columns * SIZE, 3)
    height, width = extent(whole)
    assert abs(height - width) <= 1


def test_only_tiles_have_more_than_one_piece():
    assert [grid_of(mode) for mode in MODES] == [(1, 1), (1, 1), TILE_GRID]


def test_resized_pixels_are_whole_numbers_of_a_byte():
    for image in (noise(1, 50, 77, 3), disc(50, 77, 12)[None]):
        resized = np.asarray(resize_images(image, "crop", SIZE))
        assert resized.dtype == np.float32
        assert resized.min() >= 0
        assert resized.max() <= 255
        np.testing.assert_array_equal(resized, resized.round())


def test_shrinking_averages_rather_than_picks():
    # Fine lines must become grey, not appear or vanish with the rows that happen to be picked.
    image = np.zeros((256, 256, 3), np.uint8)
    image[::8] = 255
    resized = make_resize("crop", SIZE).apply(image)[0].astype(float)
    assert abs(resized[4:-4] - 255 / 8).max() < 4


def test_an_image_of_the_right_size_is_left_alone():
    image = noise(SIZE, SIZE, 3)
    for mode in ("crop", "squash"):
        np.testing.assert_array_equal(make_resize(mode, SIZE).apply(image)[0], image)


def test_a_resize_is_named_by_all_that_it_depends_on():
    names = {make_resize(mode, size).name for mode in MODES for size in (32, 96)}
    assert len(names) == 2 * len(MODES)


def test_an_unknown_mode_lists_the_known():
    with pytest.raises(SettingsError, match=r"crop, squash, tiles.*'stretch'"):
        make_resize("stretch", 96)


@pytest.mark.parametrize("size", [31, 0, -1, 1025])
def test_a_size_out_of_range_is_refused(size):
    with pytest.raises(SettingsError, match=f"32 to 1024.*{size}"):
        make_resize("crop", size)


@pytest.mark.parametrize("size", [32, 1024])
def test_the_ends_of_the_range_are_in_it(size):
    assert make_resize("crop", size).shape == (1, size, size, 3)
