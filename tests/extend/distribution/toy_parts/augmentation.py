"""An augmentation policy: lighter and darker images."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_FACTORS = (0.9, 1.1, 0.8)


class Light:
    """Multiplies images by a number; on the device it turns and mirrors them, too."""

    regimes = frozenset({"frozen", "finetune"})
    n_views = len(_FACTORS)

    def view(self, images: Any, k: int) -> Any:
        from keras import ops

        return ops.clip(images * _FACTORS[k - 1], 0.0, 255.0)

    def draw(self, random: np.random.Generator, n: int, strength: float, size: int) -> npt.NDArray[np.float32]:
        from bhsearch.models.augmentation.device_transforms import COLUMNS, draw_augmentation

        parameters = draw_augmentation(random, n, "dihedral", strength, size)
        parameters[:, COLUMNS.colour.start] = 1 + 0.2 * strength * (random.random(n) - 0.5)
        return parameters


POLICY = Light()
