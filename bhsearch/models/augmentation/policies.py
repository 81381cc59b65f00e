"""Augmentation policies: one table of names and parameters for both regimes.

A policy of the frozen regime is a list of fixed views, for which features are computed. A policy of the finetune regime
is a set of transforms, whose parameters are drawn for every image in every epoch, each with a share of the trial's
strength.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

IDENTITY = "identity"
N_VIEWS = 8  # maximum number of views of a policy, including the image itself


@dataclass(frozen=True)
class AugmentationPolicy:
    """Augmentation policy.

    Attributes:
        views: Names of the fixed views, without the image itself, in the order in which trials use them; None if the
            policy is not available in the frozen regime.
        strengths: Share of the trial's strength by name of the transform; None if the policy is not available in the
            finetune regime.
        dihedral: Whether images are randomly rotated and mirrored in the finetune regime.
    """

    views: tuple[str, ...] | None = None
    strengths: Mapping[str, float] | None = field(default_factory=dict)
    dihedral: bool = True


# Parameters of the fixed views. Dihedral: whether to reverse the rows, whether to reverse the columns, and whether to
# transpose afterwards.
DIHEDRAL_VIEWS = ((0, 1, 1), (1, 1, 0), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 0, 0), (1, 1, 1))
# Factors on the amounts of haematoxylin and eosin around 1; the largest changes come first.
STAIN_VIEWS = ((1.25, 0.85), (0.80, 1.15), (1.20, 1.20), (0.85, 0.85), (1.10, 0.70), (0.90, 1.35), (1.00, 1.15))
# Factors on brightness, contrast and saturation.
COLOUR_VIEWS = (
    (1.10, 1.15, 1.10),
    (0.90, 0.90, 0.85),
    (1.05, 0.85, 1.20),
    (0.95, 1.20, 0.90),
    (1.15, 1.00, 0.80),
    (0.85, 1.05, 1.15),
    (1.00, 0.80, 1.00),
)
# Side of the window as a share of the image side, and vertical and horizontal position of the window, from 0 (top or
# left) to 1 (bottom or right).
ZOOM_VIEWS = (
    (0.85, 0.5, 0.5),
    (0.75, 0.0, 0.0),
    (0.75, 1.0, 1.0),
    (0.75, 0.0, 1.0),
    (0.75, 1.0, 0.0),
    (0.65, 0.5, 0.5),
    (0.90, 0.2, 0.8),
)

# Ranges of the random transforms at strength 1, at which images are still plausible micrographs of tissue; chosen by
# inspection of BreakHis images.
STAIN_FACTOR = 1.3  # maximum factor or divisor of the amounts of haematoxylin and eosin
STAIN_OFFSET = 0.05  # maximum change of each amount, in optical density; also tints empty glass
BRIGHTNESS, CONTRAST = 1.15, 1.25  # maximum factors or divisors
ZOOM = 1.25  # maximum factor or divisor; adjacent magnifications of BreakHis differ by a factor of at least 2
SHIFT = 0.1  # maximum shift as a share of the side
BOX = 0.2  # maximum area of the erased box as a share of the image
BOX_ASPECT = 2.0  # maximum aspect ratio of the erased box
_ALL_STRENGTH = 0.7  # share of the strength for each transform of the policy that combines all transforms


def _numbered(name: str) -> tuple[str, ...]:
    return tuple(f"{name}{number}" for number in range(1, N_VIEWS))


POLICIES = {
    "none": AugmentationPolicy(views=(), dihedral=False),
    "dihedral": AugmentationPolicy(views=_numbered("dihedral")),
    "stain": AugmentationPolicy(views=_numbered("stain"), strengths={"stain": 1.0}),
    # Alternates between the views of two other policies, so that cached features can be reused.
    "dihedral-stain": AugmentationPolicy(
        views=("dihedral1", "stain1", "dihedral2", "stain2", "dihedral3", "stain3", "dihedral4"), strengths=None
    ),
    "colour": AugmentationPolicy(views=_numbered("colour"), strengths={"colour": 1.0}),
    "zoom": AugmentationPolicy(views=_numbered("zoom"), strengths={"zoom": 1.0}),
    "erasing": AugmentationPolicy(strengths={"erasing": 1.0}),
    "all": AugmentationPolicy(strengths=dict.fromkeys(("stain", "colour", "zoom", "erasing"), _ALL_STRENGTH)),
}
VIEW_POLICIES = tuple(name for name, policy in POLICIES.items() if policy.views is not None)
FINETUNE_POLICIES = tuple(name for name, policy in POLICIES.items() if policy.strengths is not None)
