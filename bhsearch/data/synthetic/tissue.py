"""Draw synthetic breast tissue stained with haematoxylin and eosin.

The model is a slide under a microscope. Each pixel has an amount of two dyes. A dye attenuates light by
`exp(-amount * absorption)` in each colour channel (Beer-Lambert law). The light is then blurred by the lens and
recorded with noise. Haematoxylin is in the nuclei, and eosin is in fibres, cytoplasm and secretions; fat, lumina and
clefts are bare glass.

All arithmetic is in float64 and in a fixed order, so that the 8-bit images are equal on all machines.

Source: ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import ndimage

if TYPE_CHECKING:
    from bhsearch.data.arrays import Floats
    from bhsearch.data.synthetic.tissue_style import Style

HEIGHT, WIDTH = 160, 240  # pixels; a typical nucleus has a diameter of 8 pixels

_MARGIN = 12  # maximum distance of centres of nuclei from the image, and maximum extent of a nucleus, in pixels
_TILE = 256  # side of the periodic noise tiles in pixels


@dataclass(frozen=True, eq=False)
class Nuclei:
    """Positions, shapes and dye amounts of nuclei. Every array has shape (n_nuclei,); lengths are in pixels.

    Attributes:
        y: Row of the centre, which may be outside the image.
        x: Column of the centre, which may be outside the image.
        long: Half length of the long axis.
        short: Half length of the short axis.
        angle: Direction of the long axis, in radians from the x axis.
        dark: Amount of haematoxylin, about 1.
    """

    y: Floats
    x: Floats
    long: Floats
    short: Floats
    angle: Floats
    dark: Floats


def draw_tissue(style: Style, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draw one image of a case.

    Args:
        style: Style of the case.
        rng: Random generator of the image.

    Returns:
        RGB image. Shape (HEIGHT, WIDTH, 3).
    """
    y, x = _grid()
    # Round structures are drawn in warped coordinates, so that their outlines are irregular.
    warp_y, warp_x = 7.0 * _smooth(rng, 34.0), 7.0 * _smooth(rng, 34.0)
    glands = _gland_shapes(style, rng)
    inside, lumen = _gland_maps(glands, y + warp_y, x + warp_x)
    fat, membrane = _fat(style, rng, y + warp_y, x + warp_x)
    fat, membrane = fat * (1 - inside), membrane * (1 - inside)
    field = _smooth(rng, style.nest_scale)
    cover = float(np.clip(style.cover + 0.06 * rng.normal(), 0.02, 0.85))
    nests = _top_share(field, cover, 0.25) * (1 - inside) * (1 - fat)

    nuclei = _join(
        _nest_nuclei(style, rng, nests),
        _gland_nuclei(style, rng, glands, warp_y, warp_x),
        _stroma_nuclei(style, rng, (1 - nests) * (1 - inside) * (1 - fat)),
    )
    chromatin = _chromatin(nuclei, _grain(rng), min(1.0, 2.2 * style.pleomorphism))

    cells = np.maximum(nests, inside)
    stroma, cleft = _stroma(style, rng, y, x)
    glass = np.maximum(np.maximum(lumen, cleft * (1 - cells)), fat)
    cytoplasm = 0.50 + 0.10 * _smooth(rng, 9.0)
    eosin = (cells * cytoplasm + (1 - cells) * stroma) * (1 - glass) + 0.55 * membrane + _secretion(rng, lumen)
    haematoxylin = (style.background * (0.7 + 0.9 * cells)) * (1 - glass) + chromatin * (1 - lumen)
    return _photograph(style, rng, haematoxylin, np.maximum(eosin * (1 - 0.6 * np.minimum(chromatin, 1)), 0.0))


@cache
def _grid() -> tuple[Floats, Floats]:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    return y, x


@cache
def _tiles() -> tuple[Floats, Floats]:
    """Return two periodic noise tiles of unit variance: fine grain for chromatin, and coarser noise for fibres."""
    rng = np.random.default_rng(20)
    tiles = (ndimage.gaussian_filter(rng.normal(size=(_TILE, _TILE)), sigma, mode="wrap") for sigma in (0.9, 1.0))
    fine, coarse = (tile / tile.std() for tile in tiles)
    return fine, coarse


@cache
def _spline(n_pixels: int, n_knots: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Compute cubic B-spline interpolation weights along one axis.

    Returns:
        First of the four knots of each pixel, shape (n_pixels,), and weights of the knots, shape (4, n_pixels).
    """
    at = np.linspace(1.0, n_knots - 2.0, n_pixels)
    first = np.clip(np.floor(at).astype(np.int64) - 1, 0, n_knots - 4)
    t = np.abs(at - (first + np.arange(4)[:, None]))
    return first, np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.maximum(2 - t, 0) ** 3 / 6)


def _smooth(rng: np.random.Generator, scale: float) -> Floats:
    """Return smooth noise of about unit variance with features of about `scale` pixels. Shape (HEIGHT, WIDTH)."""
    rows, columns = int(HEIGHT / scale) + 4, int(WIDTH / scale) + 4
    knots = rng.normal(size=(rows, columns)) * 2.0  # spline interpolation halves the standard deviation
    (row, down), (column, right) = _spline(HEIGHT, rows), _spline(WIDTH, columns)
    bands = sum(right[tap] * knots[:, column + tap] for tap in range(4))
    field, part = np.zeros((HEIGHT, WIDTH)), np.empty((HEIGHT, WIDTH))
    for tap in range(4):
        np.take(bands, row + tap, axis=0, out=part, mode="clip")
        part *= down[tap][:, None]
        field += part
    return field


def _grain(rng: np.random.Generator) -> Floats:
    """Return chromatin grain of unit variance. Shape (HEIGHT, WIDTH)."""
    fine, _ = _tiles()
    rows = (np.arange(HEIGHT) + rng.integers(_TILE)) % _TILE
    columns = (np.arange(WIDTH) + rng.integers(_TILE)) % _TILE
    return np.asarray(fine[rows[:, None], columns[None, :]])


def _step(value: Floats) -> Floats:
    """Compute a smooth step function, which is 0 below -1 and 1 above 1."""
    t = 0.5 * value
    t += 0.5
    np.clip(t, 0.0, 1.0, out=t)
    ramp = 3.0 - 2.0 * t
    ramp *= t
    ramp *= t
    return np.asarray(ramp)


def _stroma(style: Style, rng: np.random.Generator, y: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Return the eosin of wavy collagen fibres, about 1, and a mask of clefts, 0 to 1. Shape (HEIGHT, WIDTH) each."""
    _, tile = _tiles()
    angle = style.fibre_angle + 0.25 * rng.normal()
    swing = style.fibre_waviness * _smooth(rng, 48.0) + 0.25 * style.fibre_waviness * _smooth(rng, 16.0)
    across = (y * np.cos(angle) - x * np.sin(angle) + swing) / style.fibre_width
    along = (y * np.sin(angle) + x * np.cos(angle) + swing) / (9.0 * style.fibre_width)
    start = rng.uniform(0, _TILE, 2)
    # The noise has bumps about 3 pixels apart; it is stretched along the fibres and compressed across them.
    fibres = _sample(tile, 2.5 * across + start[0], 2.5 * along + start[1])
    bands = _sample(tile, 0.8 * across + start[1], 0.8 * along + start[0])
    eosin = 0.85 + 0.12 * _smooth(rng, 40.0) + style.fibre_contrast * (0.26 * fibres + 0.16 * bands)
    torn = bands + 0.5 * fibres - 2.6 + 7.0 * style.cleft
    return np.maximum(eosin, 0.1), _step(2.2 * torn)


def _sample(tile: Floats, y: Floats, x: Floats) -> Floats:
    """Interpolate a periodic tile bilinearly at given coordinates."""
    return np.asarray(ndimage.map_coordinates(tile, (y, x), order=1, mode="grid-wrap"))


def _top_share(field: Floats, share: float, softness: float) -> Floats:
    """Return a mask, with soft edges, of the share of pixels with the highest values of a field."""
    # For a smooth field, the quantile can be estimated from a sixteenth of the pixels.
    shore = np.quantile(field[2::4, 2::4], 1.0 - share)
    return _step((field - shore) / softness)


def _fat(style: Style, rng: np.random.Generator, y: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Return masks of fat tissue, and of the membranes of its honeycomb of cells. Shape (HEIGHT, WIDTH) each."""
    field = _smooth(rng, 60.0)
    share = style.fat * (1.0 + 0.5 * rng.normal())
    wide = rng.uniform(20, 28)
    if share < 0.01:
        return np.zeros_like(field), np.zeros_like(field)
    fat = _top_share(field, min(share, 0.7), 0.12)
    # The centres of a honeycomb's cells are a hexagonal lattice, which consists of two rectangular lattices. A membrane
    # is at equal distances from the nearest points of both lattices, or midway between neighbours in one lattice.
    high = wide * np.sqrt(3.0)
    y, x = y + 0.4 * wide * field, x - 0.4 * wide * field
    one_x, two_x = _fold(x, wide), _fold(x + wide / 2, wide)
    one = np.sqrt(_fold(y, high) ** 2 + one_x**2)
    two = np.sqrt(_fold(y + high / 2, high) ** 2 + two_x**2)
    beside = np.where(one < two, np.abs(two_x), np.abs(one_x))
    return fat, fat * np.maximum(_step((1.2 - np.abs(one - two)) / 0.8), _step((0.8 - beside) / 0.6))


def _fold(value: Floats, period: float) -> Floats:
    """Return the signed distance to the nearest multiple of `period`."""
    return np.asarray(value - period * np.round(value / period))


def _gland_shapes(style: Style, rng: np.random.Generator) -> Floats:
    """Draw glands: centre y, centre x, long radius, short radius, angle and lumen share. Shape (n_glands, 6)."""
    n = min(int(rng.poisson(style.glands)), 6)
    radius = style.gland_radius * np.exp(0.25 * rng.normal(size=n))
    columns = (
        rng.uniform(-5, HEIGHT + 5, n),
        rng.uniform(-5, WIDTH + 5, n),
        radius * rng.uniform(1.0, 1.5, n),
        radius,
        rng.uniform(0, np.pi, n),
        np.clip(style.lumen + 0.08 * rng.normal(size=n), 0.1, 0.75),
    )
    return np.stack(columns, axis=1)


def _gland_maps(glands: Floats, y: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Return masks of glands and of their lumina, 0 to 1. Shape (HEIGHT, WIDTH) each."""
    inside, lumen = np.zeros_like(y), np.zeros_like(y)
    for centre_y, centre_x, long, short, angle, share in glands.tolist():
        reach = 1.2 * long + 25.0  # includes four standard deviations of the warp
        rows = slice(max(0, int(centre_y - reach)), max(0, int(centre_y + reach)))
        columns = slice(max(0, int(centre_x - reach)), max(0, int(centre_x + reach)))
        dy, dx = y[rows, columns] - centre_y, x[rows, columns] - centre_x
        along = dy * (np.sin(angle) / long) + dx * (np.cos(angle) / long)
        across = dy * (np.cos(angle) / short) - dx * (np.sin(angle) / short)
        rho = np.sqrt(along * along + across * across)
        inside[rows, columns] = np.maximum(inside[rows, columns], _step((1.08 - rho) * (short / 1.5)))
        lumen[rows, columns] = np.maximum(lumen[rows, columns], _step((share - rho) * (short / 1.5)))
    return inside, lumen


def _secretion(rng: np.random.Generator, lumen: Floats) -> Floats:
    """Return the eosin of secretion in parts of the lumina, 0 to 0.5. Shape (HEIGHT, WIDTH)."""
    amount = max(0.0, rng.uniform(-0.4, 0.5))
    return np.asarray(lumen * amount * _step(_smooth(rng, 14.0) / 0.5))


def _shaped(style: Style, rng: np.random.Generator, y: Floats, x: Floats, angle: Floats) -> Nuclei:
    """Draw epithelial nuclei at given positions; their variation in size, shape and darkness is the pleomorphism."""
    n, spread = len(y), style.pleomorphism
    # Correct for the mean of the log-normal distribution, so that the mean radius does not depend on the spread.
    radius = style.radius * np.exp(spread * rng.normal(size=n) - spread**2 / 2)
    stretch = np.exp(0.10 + np.abs(0.10 + 0.7 * spread * rng.normal(size=n)) / 2)
    dark = np.clip(1.0 + 0.8 * spread * rng.normal(size=n), 0.45, 1.8)
    radius = np.clip(radius, 2.0, 8.0)
    turned = angle + (0.25 + spread) * rng.normal(size=n)
    return Nuclei(y, x, np.minimum(radius * stretch, 10.5), radius / stretch, turned, dark)


def _nest_nuclei(style: Style, rng: np.random.Generator, nests: Floats) -> Nuclei:
    """Draw the nuclei of solid nests on a jittered hexagonal lattice, which makes them dense with little overlap."""
    step_y = style.spacing * np.sqrt(0.75)
    rows = np.arange(-_MARGIN, HEIGHT + _MARGIN, step_y)
    columns = np.arange(-_MARGIN, WIDTH + _MARGIN, style.spacing)
    y = np.repeat(rows, len(columns))
    x = (columns[None, :] + style.spacing / 2 * (np.arange(len(rows)) % 2)[:, None]).ravel()
    y = y + 0.22 * style.spacing * rng.normal(size=len(y))
    x = x + 0.22 * style.spacing * rng.normal(size=len(x))
    keep = rng.uniform(size=len(y)) < 0.92 * _at(nests, y, x)
    return _shaped(style, rng, y[keep], x[keep], rng.uniform(0, np.pi, int(keep.sum())))


def _gland_nuclei(style: Style, rng: np.random.Generator, glands: Floats, warp_y: Floats, warp_x: Floats) -> Nuclei:
    """Draw the nuclei of glands in rings around the lumen."""
    places: list[Floats] = [np.zeros((0, 3))]
    for centre_y, centre_x, long, short, angle, share in glands.tolist():
        n_rings = max(1, round((1 - share) * short / (1.05 * style.spacing)))
        for rho in 1 - (np.arange(n_rings) + 0.45) * (1 - share) / n_rings:
            n = max(3, int(np.pi * (long + short) * rho / (0.92 * style.spacing)))
            turn = (np.arange(n) + 0.2 * rng.normal(size=n)) * (2 * np.pi / n) + rng.uniform(0, 6)
            u, v = long * rho * np.cos(turn), short * rho * np.sin(turn)
            y = centre_y + u * np.sin(angle) + v * np.cos(angle)
            x = centre_x + u * np.cos(angle) - v * np.sin(angle)
            places.append(np.stack((y, x, turn + angle), axis=1))
    y, x, outward = np.concatenate(places).T
    y, x = y - _at(warp_y, y, x) + 0.6 * rng.normal(size=len(y)), x - _at(warp_x, y, x) + 0.6 * rng.normal(size=len(x))
    return _shaped(style, rng, y, x, outward)


def _stroma_nuclei(style: Style, rng: np.random.Generator, stroma: Floats) -> Nuclei:
    """Draw spindle-shaped nuclei along fibres, and clusters of small dark lymphocytes, independent of the label."""
    n = int(rng.poisson(style.fibroblasts))
    y, x = rng.uniform(-4, HEIGHT + 4, n), rng.uniform(-4, WIDTH + 4, n)
    angle = style.fibre_angle + 0.3 * rng.normal(size=n)
    spindles = Nuclei(y, x, rng.uniform(3.5, 6.5, n), rng.uniform(1.1, 1.7, n), angle, rng.uniform(0.7, 1.1, n))
    n_clusters = int(rng.poisson(style.lymphocytes))
    size = rng.integers(8, 40, n_clusters)
    centre_y = np.repeat(rng.uniform(0, HEIGHT, n_clusters), size)
    centre_x = np.repeat(rng.uniform(0, WIDTH, n_clusters), size)
    n = len(centre_y)
    y, x = centre_y + 13 * rng.normal(size=n), centre_x + 13 * rng.normal(size=n)
    radius = rng.uniform(2.0, 2.6, n)
    round_ones = Nuclei(y, x, 1.05 * radius, radius, rng.uniform(0, np.pi, n), rng.uniform(1.1, 1.4, n))
    both = _join(spindles, round_ones)
    keep = rng.uniform(size=len(both.y)) < _at(stroma, both.y, both.x)
    return Nuclei(*(column[keep] for column in _columns(both)))


def _columns(nuclei: Nuclei) -> tuple[Floats, ...]:
    return nuclei.y, nuclei.x, nuclei.long, nuclei.short, nuclei.angle, nuclei.dark


def _join(*parts: Nuclei) -> Nuclei:
    """Concatenate nuclei, without those that are too far outside the image to be visible."""
    y, x, *rest = (np.concatenate(column) for column in zip(*map(_columns, parts), strict=True))
    near = (y > -_MARGIN) & (y < HEIGHT + _MARGIN - 1) & (x > -_MARGIN) & (x < WIDTH + _MARGIN - 1)
    return Nuclei(y[near], x[near], *(column[near] for column in rest))


def _at(field: Floats, y: Floats, x: Floats) -> Floats:
    """Return the values of a field at given positions; positions outside have the value of the nearest pixel."""
    row = np.clip(np.round(y), 0, HEIGHT - 1).astype(np.int64)
    column = np.clip(np.round(x), 0, WIDTH - 1).astype(np.int64)
    return field[row, column]


def _chromatin(nuclei: Nuclei, grain: Floats, coarseness: float) -> Floats:
    """Compute the haematoxylin of nuclei, drawn as soft-edged ellipses with a darker rim and clumps.

    Args:
        nuclei: Nuclei to draw.
        grain: Noise of unit variance. Shape (HEIGHT, WIDTH).
        coarseness: Strength of the clumps, 0 to 1.

    Returns:
        Amount of haematoxylin, about 1 in a nucleus. Shape (HEIGHT, WIDTH).
    """
    pad = 2 * _MARGIN  # centres are up to one margin outside the image, and nuclei extend up to another margin
    canvas = np.zeros((HEIGHT + 2 * pad, WIDTH + 2 * pad))
    reach = np.ceil(nuclei.long).astype(np.int64) + 1
    for half in np.unique(reach).tolist():  # process nuclei by size, so that patches are small
        some = reach == half
        row, column = np.floor(nuclei.y[some]).astype(np.int64), np.floor(nuclei.x[some]).astype(np.int64)
        patches = _ellipses(nuclei, some, half)
        for top, left, patch in zip((row - half + pad).tolist(), (column - half + pad).tolist(), patches, strict=True):
            view = canvas[top : top + 2 * half + 2, left : left + 2 * half + 2]
            np.maximum(view, patch, out=view)
    return np.asarray(canvas[pad:-pad, pad:-pad] * np.maximum(1.0 + 0.45 * coarseness * grain, 0.2))


def _ellipses(nuclei: Nuclei, some: npt.NDArray[np.bool_], half: int) -> Floats:
    """Draw selected nuclei on patches around their centres. Shape (n_some, 2 * half + 2, 2 * half + 2)."""
    offset = np.arange(-half, half + 2, dtype=np.float64)
    y, x, long, short, angle, dark = (column[some][:, None, None] for column in _columns(nuclei))
    dy, dx = offset[None, :, None] - (y - np.floor(y)), offset[None, None, :] - (x - np.floor(x))
    sine, cosine = np.sin(angle), np.cos(angle)
    rho2 = (dy * (sine / long) + dx * (cosine / long)) ** 2 + (dy * (cosine / short) - dx * (sine / short)) ** 2
    # Near the edge, (1 - rho^2) * short / 2 is the distance to the edge in pixels.
    inside = _step((1.0 - rho2) * (short / 1.6))
    return np.asarray(dark * inside * (0.72 + 0.28 * np.minimum(rho2, 1.0)))


def _photograph(style: Style, rng: np.random.Generator, haematoxylin: Floats, eosin: Floats) -> npt.NDArray[np.uint8]:
    """Compute the RGB image from amounts of dye, with effects of lamp, lens and sensor. Shape (HEIGHT, WIDTH, 3)."""
    y, x = _grid()
    off_centre = (y / (HEIGHT - 1) - 0.5) ** 2 + (x / (WIDTH - 1) - 0.5) ** 2
    lamp = rng.uniform(0.96, 1.02) * (1.0 - 2.0 * style.vignette * off_centre)
    grey = style.noise * rng.normal(size=(HEIGHT, WIDTH))
    image = np.empty((3, HEIGHT, WIDTH))
    for channel, light in enumerate(image):
        np.multiply(haematoxylin, -style.haematoxylin[channel], out=light)
        light -= eosin * style.eosin[channel]
        np.exp(light, out=light)
        ndimage.gaussian_filter(light, style.blur, output=light, mode="nearest", truncate=2.5)
        light *= style.white[channel] * lamp
        light += grey
    np.clip(np.rint(image, out=image), 0, 255, out=image)
    return np.ascontiguousarray(image.astype(np.uint8).transpose(1, 2, 0))
