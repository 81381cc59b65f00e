"""Style of a synthetic case: stain, cut and texture, which do not depend on the label, and properties of nuclei.

Stain, cut and texture vary enough to recognise each case. The label changes the distributions of only three traits of
the nuclei: density, size and variation. The distributions of the two classes overlap. At difficulty 0.5, the highest
possible AUC, if the three traits are measured without error, is about 0.97.

Source: ours. Absorption vectors start from Ruifrok and Johnston, "Quantification of histochemical staining by color
deconvolution", Anal. Quant. Cytol. Histol. 23(4), 2001.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bhsearch.data.arrays import Floats

_HAEMATOXYLIN = (0.650, 0.704, 0.286)  # absorption in red, green, blue
_EOSIN = (0.110, 0.940, 0.290)  # pinker than in the paper, as in BreakHis images
_FULL_SEPARATION = 5.6  # difference between the classes' mean atypia at difficulty 0, in standard deviations


@dataclass(frozen=True, eq=False)
class Style:
    """Properties that all images of a case share. Lengths are in pixels, angles in radians.

    Attributes:
        haematoxylin: Absorption of one unit of haematoxylin in red, green and blue. Shape (3,).
        eosin: Absorption of one unit of eosin in red, green and blue. Shape (3,).
        white: Colour of bare glass, 0 to 255. Shape (3,).
        blur: Standard deviation of the lens blur.
        noise: Standard deviation of the sensor noise, in grey levels.
        vignette: Relative loss of light in the corners of the image.
        fibre_angle: Direction of the fibres in the stroma.
        fibre_width: Distance between neighbouring fibres.
        fibre_waviness: Lateral amplitude of the fibres.
        fibre_contrast: Difference in eosin between fibres and gaps, as a share of the mean eosin in the stroma.
        cleft: Share of the stroma that consists of clefts, 0 to 1.
        background: Amount of haematoxylin in stroma and cytoplasm, which is higher in thick or old sections.
        fat: Mean share of fat in the image, 0 to 1.
        glands: Mean number of glands in an image.
        gland_radius: Mean radius of a gland.
        lumen: Radius of the lumen as a share of the radius of the gland.
        nest_scale: Size of cell nests.
        lymphocytes: Mean number of lymphocyte clusters in an image.
        fibroblasts: Mean number of spindle nuclei in the stroma of an image.
        cover: Share of the stroma covered by cell nests, 0 to 1. Depends on the label.
        spacing: Distance between neighbouring nuclei. Depends on the label.
        radius: Mean radius of a nucleus. Depends on the label.
        pleomorphism: Variation of size, shape and chromatin between nuclei. Depends on the label.
    """

    haematoxylin: Floats
    eosin: Floats
    white: Floats
    blur: float
    noise: float
    vignette: float
    fibre_angle: float
    fibre_width: float
    fibre_waviness: float
    fibre_contrast: float
    cleft: float
    background: float
    fat: float
    glands: float
    gland_radius: float
    lumen: float
    nest_scale: float
    lymphocytes: float
    fibroblasts: float
    cover: float
    spacing: float
    radius: float
    pleomorphism: float


def case_style(rng: np.random.Generator, label: int, difficulty: float) -> Style:
    """Draw the style of a case.

    Args:
        rng: Random generator of the case. The drawn random numbers do not depend on the label.
        label: 0 benign, 1 malignant.
        difficulty: Difficulty from 0 (classes almost separable) to 1 (no dependence on the label).
    """
    atypia = (label - 0.5) * _FULL_SEPARATION * (1.0 - difficulty) + rng.normal()
    # Each trait is the atypia of the case plus independent noise, so that, for example, some tumours are monomorphous.
    dense, large, varied = atypia + 0.7 * rng.normal(size=3)
    return Style(
        haematoxylin=_absorption(rng, _HAEMATOXYLIN, rng.uniform(0.65, 1.45)),
        eosin=_absorption(rng, _EOSIN, rng.uniform(0.35, 1.0)),
        white=rng.uniform(222, 250) * (1.0 + np.array((-0.02, 0.0, 0.01)) + rng.uniform(-0.05, 0.02, 3)),
        blur=rng.uniform(0.45, 0.95),
        noise=rng.uniform(1.0, 4.5),
        vignette=rng.uniform(0.0, 0.15),
        fibre_angle=rng.uniform(0, np.pi),
        fibre_width=rng.uniform(3.5, 9.0),
        fibre_waviness=rng.uniform(4.0, 18.0),
        fibre_contrast=rng.uniform(0.25, 0.8),
        cleft=rng.uniform(0.0, 0.22),
        background=rng.uniform(0.04, 0.22),
        fat=max(0.0, rng.uniform(-0.25, 0.35)),
        glands=rng.uniform(0.3, 3.2),
        gland_radius=rng.uniform(20, 34),
        lumen=rng.uniform(0.25, 0.65),
        nest_scale=rng.uniform(18, 45),
        lymphocytes=max(0.0, rng.uniform(-0.8, 1.6)),
        fibroblasts=rng.uniform(8, 32),
        cover=float(np.clip(rng.uniform(0.15, 0.55) + 0.01 * dense, 0.06, 0.75)),
        spacing=float(np.clip(10.6 * np.exp(-0.05 * dense), 8.0, 14.0)),
        radius=float(np.clip(3.7 * np.exp(0.075 * large), 2.7, 5.6)),
        pleomorphism=float(np.clip(0.16 * np.exp(0.26 * varied), 0.05, 0.5)),
    )


def _absorption(rng: np.random.Generator, vector: tuple[float, float, float], strength: float) -> Floats:
    turned = np.maximum(np.array(vector) + rng.normal(size=3) * (0.06, 0.05, 0.07), 0.02)
    return np.asarray(strength * turned / np.sqrt((turned**2).sum()))
