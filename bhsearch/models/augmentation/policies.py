"""Augmentation policies: one table of names and parameters for both regimes.

The frozen regime computes features of fixed views, so a policy lists its views. The finetune regime draws parameters
for every image in every epoch, so a policy lists its transforms and the share of the trial's strength of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

IDENTITY = "identity"
N_VIEWS = 8  # views of a policy, the image itself included


@dataclass(frozen=True)
class AugmentationPolicy:
    """One augmentation policy.

    Attributes:
        views: Names of the fixed views after the image itself, in the order in which a trial uses them; None if the
            frozen regime does not offer the policy.
        strengths: Share of the trial's strength per transform that is drawn on the device; None if the finetune regime
            does not offer the policy.
        dihedral: Whether images are rotated and mirrored at random on the device.
    """

    views: tuple[str, ...] | None = None
    strengths: Mapping[str, float] | None = field(default_factory=dict)
    dihedral: bool = True


# Parameters of the fixed views. Dihedral: whether to mirror the rows, to mirror the columns, and then to transpose.
DIHEDRAL_VIEWS = ((0, 1, 1), (1, 1, 0), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 0, 0), (1, 1, 1))
# Factors on the amounts of haematoxylin and eosin: a small design around 1, far corners first.
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
# Share of the side that is kept, and the position of the window (0: top or left, 1: bottom or right).
ZOOM_VIEWS = (
    (0.85, 0.5, 0.5),
    (0.75, 0.0, 0.0),
    (0.75, 1.0, 1.0),
    (0.75, 0.0, 1.0),
    (0.75, 1.0, 0.0),
    (0.65, 0.5, 0.5),
    (0.90, 0.2, 0.8),
)

# Ranges on the device at strength 1, the strongest that still looks like tissue under some microscope; chosen by
# inspecting BreakHis images.
STAIN_FACTOR = 1.3  # on the amounts of haematoxylin and eosin, up or down
STAIN_OFFSET = 0.05  # added to each amount, in optical density; it also tints empty glass
BRIGHTNESS, CONTRAST = 1.15, 1.25  # factors, up or down
ZOOM = 1.25  # up or down: the next magnification of BreakHis is a factor of 2 away
SHIFT = 0.1  # share of the side
BOX = 0.2  # area of the erased box as a share of the image
BOX_ASPECT = 2.0
_ALL_STRENGTH = 0.7  # of the strength, where all transforms are combined


def _numbered(name: str) -> tuple[str, ...]:
    return tuple(f"{name}{number}" for number in range(1, N_VIEWS))


POLICIES = {
    "none": AugmentationPolicy(views=(), dihedral=False),
    "dihedral": AugmentationPolicy(views=_numbered("dihedral")),
    "stain": AugmentationPolicy(views=_numbered("stain"), strengths={"stain": 1.0}),
    # Alternates between the views of two other policies, whose features may be in the cache already.
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
