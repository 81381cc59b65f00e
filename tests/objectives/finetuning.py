"""Helpers of the tests of the finetune regime: a small data set and an objective on it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bhsearch.data.dataset import Dataset
from bhsearch.data.images.pixel_cache import pixel_cache
from bhsearch.data.load_dataset import load_dataset
from bhsearch.data.splits import make_split
from bhsearch.data.synthetic.phantom import phantom_dataset
from bhsearch.models import backend
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.features import FeatureCache
from bhsearch.models.resize import make_resize
from bhsearch.objectives.finetune import DevelopmentRows, FinetuneObjective
from bhsearch.objectives.frozen import FrozenObjective
from bhsearch.objectives.space import Params, finetune_space, frozen_space, starting_point
from tests.tasks.samples import BINARY

SIZE, N_FOLDS = 32, 2
PHANTOM = "phantom:cases=12,images=2"
CHANGES = {"depth": "all", "epochs": 2, "policy": "all", "mixup": 0.4, "dropout": 0.2, "label_smoothing": 0.1}


def point(backbone: Backbone, **changes: Any) -> Params:
    start = starting_point(finetune_space((backbone.name,), (SIZE,)), backbone.name)
    return start | CHANGES | {"learning_rate": 2e-3} | changes


class Data:
    """The phantom's files, with one division that stays whatever happens to them."""

    def __init__(self) -> None:
        self.root = phantom_dataset(PHANTOM).root
        self.index = load_dataset(self.root, layout="breakhis")
        self.split = make_split(self.index, n_folds=N_FOLDS)
        self.rows = self.split.development
        self.fold = self.split.folds[:, self.rows]
        self.group = self.split.groups[self.rows]
        self.label = self.index.labels[self.rows]

    def objective(self, backbone: Backbone, dataset: Dataset | None = None, label: Any = None, heads: Any = None):
        """Return an objective with its frozen heads; its messages are collected in `said`."""
        backend.import_backend()
        dataset = self.index if dataset is None else dataset
        label = self.label if label is None else label
        pixels = pixel_cache(dataset.select(self.rows), make_resize("crop", SIZE))
        by_name = {backbone.name: backbone}
        space = frozen_space((backbone.name,))

        def frozen(size: int) -> FrozenObjective:
            return FrozenObjective(FeatureCache(pixels, "keras"), by_name, label, self.fold, self.group, 0, task=BINARY)

        said: list[str] = []
        objective = FinetuneObjective(
            {SIZE: pixels},
            frozen,
            heads or (lambda name: starting_point(space, name)),
            by_name,
            DevelopmentRows(label, self.fold, self.group),
            0,
            "float32",
            said.append,
            task=BINARY,
        )
        objective.said = said
        return objective

    def with_noise(self, rows: np.ndarray, folder: Path) -> Dataset:
        """The same files, with the pixels of some images replaced."""
        shutil.copytree(self.root, folder)
        random = np.random.default_rng(1)
        for path in self.index.column("path")[self.rows][rows]:
            Image.fromarray(random.integers(0, 256, (160, 240, 3), np.uint8)).save(folder / path)
        return load_dataset(folder, layout="breakhis")
