"""Interface of augmentation policies that other packages provide in addition to those in `policies`."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bhsearch.errors import SettingsError
from bhsearch.models.augmentation.policies import POLICIES
from bhsearch.plugins import Registry


class Augmentation(Protocol):
    """Augmentation policy of another package, provided through an entry point in `bhsearch.augmentations`.

    A study that names the policy with `--augmentations` searches it as a further choice of the parameter `policy`. The
    frozen regime uses `view`, and the finetune regime uses `draw`.

    Attributes:
        regimes: Supported regimes: `frozen`, `finetune` or both.
        n_views: Number of views in addition to the image itself, at least 3 for the frozen regime.
    """

    regimes: frozenset[str]
    n_views: int

    def view(self, images: Any, k: int) -> Any:
        """Compute one view of a batch, which must be a deterministic function of the images.

        The method must use `keras.ops`, since the view becomes a part of models with test-time augmentation.

        Args:
            images: float32 RGB in 0..255, possibly symbolic. Shape (batch, size, size, 3).
            k: Number of the view, 1 to `n_views`.

        Returns:
            float32 RGB in 0..255, of the same shape.
        """

    def draw(self, random: np.random.Generator, n: int, strength: float, size: int) -> npt.NDArray[np.float32]:
        """Draw random augmentation parameters for each image of a training step.

        Args:
            random: Random generator.
            n: Number of images.
            strength: Strength of the augmentation, from 0 (only rotation and mirroring) to 1 (the strongest plausible).
            size: Side of the images in pixels.

        Returns:
            Augmentation parameters, see `device_transforms.AugmentationParams`. Shape (n, N_COLUMNS).
        """


AUGMENTATIONS: Registry[Augmentation] = Registry("bhsearch.augmentations", "--augmentations", reserved=POLICIES)


def check_augmentations(names: tuple[str, ...], regime: str) -> None:
    """Check that policies of other packages exist and support a regime.

    Raises:
        UnknownPartError: If no package provides a policy with one of the names.
        SettingsError: If a policy does not support the regime, or cannot be imported.
    """
    for name in names:
        supported = AUGMENTATIONS.get(name).regimes
        if regime not in supported:
            raise SettingsError(
                f"The augmentation policy {name!r} supports only --regime {' and '.join(sorted(supported))}, but the "
                f"regime is {regime}. Remove it from --augmentations, or change --regime."
            )


def plugin_views(policy: str) -> tuple[str, ...] | None:
    """Return the names of a policy's views, without the image itself; None if no package provides the policy."""
    if policy not in AUGMENTATIONS:
        return None
    return tuple(f"{policy}{number}" for number in range(1, AUGMENTATIONS.get(policy).n_views + 1))


def view_key(view: str) -> str:
    """Return the key of a view in the feature cache: the name, and for other packages also the distribution."""
    return f"{view} of {AUGMENTATIONS.source(view[:-1])}" if is_plugin_view(view) else view


def is_plugin_view(view: str) -> bool:
    """Return whether another package provides a view."""
    return AUGMENTATIONS.source(view[:-1]) is not None
