"""The interface of augmentation policies that other packages add to those of `policies`."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bhsearch.errors import SettingsError
from bhsearch.models.augmentation.policies import POLICIES
from bhsearch.plugins import Registry


class Augmentation(Protocol):
    """An augmentation policy of another package, offered by an entry point in `bhsearch.augmentations`.

    It adds a choice to the parameter `policy` of studies that name it with `--augmentations`. `view` is used in the
    frozen regime, `draw` in the finetune regime.

    Attributes:
        regimes: Regimes that the policy supports: `frozen`, `finetune` or both.
        n_views: Number of views besides the image itself, at least 3 for the frozen regime.
    """

    regimes: frozenset[str]
    n_views: int

    def view(self, images: Any, k: int) -> Any:
        """Return one view of a batch: always the same function of the images.

        It is written with `keras.ops`, since it becomes a part of models that use test-time augmentation.

        Args:
            images: float32 RGB in 0..255, possibly symbolic. Shape (batch, size, size, 3).
            k: Number of the view, 1 to `n_views`.

        Returns:
            float32 RGB in 0..255, of the same shape.
        """

    def draw(self, random: np.random.Generator, n: int, strength: float, size: int) -> npt.NDArray[np.float32]:
        """Draw what happens to each image of a training step.

        Args:
            random: Source of random numbers.
            n: Number of images.
            strength: 0 (nothing but turning and mirroring) to 1 (the strongest that is plausible).
            size: Side of the images in pixels.

        Returns:
            Parameters of the transform on the device, see `on_device.AugmentationParams`. Shape (n, N_COLUMNS).
        """


AUGMENTATIONS: Registry[Augmentation] = Registry("bhsearch.augmentations", "--augmentations", reserved=POLICIES)


def check_augmentations(names: tuple[str, ...], regime: str) -> None:
    """Refuse policies that are unknown or do not support a regime.

    Raises:
        UnknownPartError: If no package has a policy of this name.
        SettingsError: If it does not support the regime, or cannot be imported.
    """
    for name in names:
        supported = AUGMENTATIONS.get(name).regimes
        if regime not in supported:
            raise SettingsError(
                f"--augmentations must name policies of --regime {regime}, but {name!r} supports "
                f"{' and '.join(sorted(supported))} only."
            )


def plugin_views(policy: str) -> tuple[str, ...] | None:
    """Return the names of a policy's views after the image itself; None if no package has the policy."""
    if policy not in AUGMENTATIONS:
        return None
    return tuple(f"{policy}{number}" for number in range(1, AUGMENTATIONS.get(policy).n_views + 1))


def view_key(view: str) -> str:
    """Return what identifies a view in the feature cache: its name, and the distribution of a plugin's."""
    source = AUGMENTATIONS.source(view[:-1])
    return view if source is None else f"{view} of {source}"
