"""A small classification problem with folds, as a study hands it to the training of heads."""

from __future__ import annotations

import numpy as np

N_FEATURES, N_FOLDS = 7, 3


class Problem:
    """Features of two views, labels and folds.

    Args:
        n_images: More than a batch, unless told otherwise.
        n_features: Number of features.
        balanced: Whether each class has half of a fold model's training weight.
        seed: Seed of the features and labels.
    """

    def __init__(self, n_images=150, n_features=N_FEATURES, *, balanced=True, seed=0):
        random = np.random.default_rng(seed)
        self.views = random.normal(3.0, 2.0, (2, n_images, n_features)).astype(np.float32)
        self.labels = (self.views[0, :, 0] + random.normal(0, 1, n_images) > 3.0).astype(np.int8)
        self.fold = np.arange(n_images) % N_FOLDS
        self.groups = random.uniform(0.2, 1.0, n_images)  # images of a large group weigh less
        self.balanced = balanced

    @property
    def held_out(self):
        rows = [np.flatnonzero(self.fold == k) for k in range(N_FOLDS)]
        return np.stack([np.resize(r, max(map(len, rows))) for r in rows])

    @property
    def weights(self):
        weights = np.where(self.fold[:, None] == np.arange(N_FOLDS), 0.0, self.groups[:, None])
        if not self.balanced:
            return weights
        classes = [weights * (self.labels == value)[:, None] for value in (0, 1)]
        return sum(part / part.sum(axis=0) for part in classes)
