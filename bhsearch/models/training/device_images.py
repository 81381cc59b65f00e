"""The images of a training on the device: all of them where they fit, else those that the next steps need."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.images.pixel_cache import PixelCache

_STEPS_STREAMED = 16  # whose images are sent at once


class DevicePixels:
    """Resized images as uint8, where the network is.

    Args:
        pixels: From the pixel cache, one tile an image.
        most_bytes: What may lie on the device for good.
    """

    def __init__(self, pixels: PixelCache, most_bytes: int) -> None:
        from keras import ops

        self._pixels = pixels
        self.n_bytes = int(np.prod(pixels.shape))
        self.resident = self.n_bytes <= most_bytes
        self.steps_per_call = 1 << 30 if self.resident else _STEPS_STREAMED
        self._all = ops.convert_to_tensor(pixels.read(0, pixels.shape[0])[:, 0]) if self.resident else None

    def of(self, rows: npt.NDArray[Any]) -> tuple[Any, npt.NDArray[np.int32]]:
        """Images that hold some rows, and where these lie in them.

        Args:
            rows: Shape (n_steps, batch).

        Returns:
            uint8 images, (n, size, size, 3), and places of the same shape as `rows`.
        """
        if self._all is not None:
            return self._all, rows.astype(np.int32)
        images = self._pixels.rows(rows.ravel())[:, 0]
        return images, np.arange(rows.size, dtype=np.int32).reshape(rows.shape)
