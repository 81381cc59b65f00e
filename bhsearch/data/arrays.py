"""Array types that several modules share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Folds = npt.NDArray[np.int8]  # fold numbers or labels per image
Floats = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]  # RGB images, 0 to 255, channels last
