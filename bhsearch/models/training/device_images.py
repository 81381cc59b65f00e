"""Training images on the device: all images if they fit into memory, otherwise the images of the next steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bhsearch.data.images.pixel_cache import PixelCache

_STEPS_STREAMED = 16  # number of steps whose images are transferred together


class DevicePixels:
    """Resized images as uint8 on the network's device.

    Args:
        pixels: Pixel cache with one tile per image.
        max_resident_bytes: Maximum total size of the images for keeping all of them on the device.
    """

    def __init__(self, pixels: PixelCache, max_resident_bytes: int) -> None:
        from keras import ops

        self._pixels = pixels
        self.n_bytes = int(np.prod(pixels.shape))
        self.resident = self.n_bytes <= max_resident_bytes
        self.steps_per_call = 1 << 30 if self.resident else _STEPS_STREAMED
        self._all = ops.convert_to_tensor(pixels.read(0, pixels.shape[0])[:, 0]) if self.resident else None

    def of(self, rows: npt.NDArray[Any]) -> tuple[Any, npt.NDArray[np.int32]]:
        """Return an array of images that includes the given rows, and the position of each row in the array.

        Args:
            rows: Rows of the data set. Shape (n_steps, batch).

        Returns:
            uint8 images, shape (n, size, size, 3), and positions with the same shape as `rows`.
        """
        if self._all is not None:
            return self._all, rows.astype(np.int32)
        images = self._pixels.rows(rows.ravel())[:, 0]
        return images, np.arange(rows.size, dtype=np.int32).reshape(rows.shape)
