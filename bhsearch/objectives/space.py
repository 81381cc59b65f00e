"""The space: one table that the engines, the README and the tests read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bhsearch.models.augmentation.policies import FINETUNE_POLICIES, VIEW_POLICIES
from bhsearch.models.backbones import cnn
from bhsearch.models.training.train_step import DEPTHS

Params = dict[str, Any]


@dataclass(frozen=True)
class Parameter:
    """One row of the space. Exactly one of `choices` and the range from `low` to `high` is given.

    Attributes:
        name: As it is sampled, logged and plotted.
        meaning: For people.
        start: A sound value to begin with.
        choices: The values of a categorical parameter.
        low: Least value of a range.
        high: Greatest value of a range, included.
        log: Whether the range is sampled on a logarithmic scale.
        whole: Whether the range holds whole numbers only.
    """

    name: str
    meaning: str
    start: Any
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a value is in the space."""
        if self.choices:
            return value in self.choices
        return self.low <= value <= self.high and (not self.whole or value == int(value))

    def __str__(self) -> str:
        if self.choices:
            return ", ".join(map(str, self.choices))
        return f"{self.low:g} to {self.high:g}{' (log)' if self.log else ''}"


_FROZEN = (
    Parameter("backbone", "network that gives the features", "", ("",)),
    Parameter("policy", "augmentation: which variants of an image are trained on", "none", VIEW_POLICIES),
    Parameter("views", "how many variants, the image itself included", 2, (2, 4)),
    Parameter("tta", "test-time augmentation: average over the variants", False, (False, True)),
    Parameter("standardise", "features scaled by the fold's own training rows", True, (True, False)),
    Parameter("hidden_units", "units of the hidden layer; 0 is a linear head", 0, (0, 16, 64)),
    Parameter("dropout", "share of units left out in a step", 0.0, low=0.0, high=0.6),
    Parameter("optimizer", "both with decoupled weight decay", "adamw", ("adamw", "sgd")),
    Parameter("learning_rate", "of the first step", 0.01, low=1e-3, high=1e-1, log=True),
    Parameter("schedule", "of the learning rate", "cosine", ("cosine", "constant")),
    Parameter(
        "weight_decay", "times the learning rate, off the kernel in each step", 0.1, low=1e-4, high=3.0, log=True
    ),
    Parameter("label_smoothing", "share of the label given to the other class", 0.0, low=0.0, high=0.2),
    Parameter("class_balance", "whether each class has half of a fold's training weight", True, (False, True)),
    Parameter("epochs", "passes over the training rows", 20, low=5, high=60, log=True, whole=True),
)


_FINETUNE = (
    Parameter("backbone", "network that is trained", "", ("",)),
    Parameter("image_size", "side in pixels that the network sees", 0, (0,)),
    Parameter("depth", "part of the layers that is trained, from the top", "all", tuple(DEPTHS)),
    Parameter("learning_rate", "peak, of the head", 1e-3, low=1e-5, high=1e-2, log=True),
    Parameter("layer_decay", "factor on it from each tenth of the layers to the next lower", 0.8, low=0.5, high=1.0),
    Parameter(
        "weight_decay", "times the learning rate, off the kernels in each step", 0.01, low=1e-4, high=1.0, log=True
    ),
    Parameter("optimizer", "both with decoupled weight decay", "adamw", ("adamw", "sgd")),
    Parameter("schedule", "of the learning rate", "cosine", ("cosine", "constant")),
    Parameter("warmup", "share of the steps in which it rises", 0.1, low=0.0, high=0.3),
    Parameter("batch", "images in a step", 16, (16, 32)),
    Parameter("label_smoothing", "share of the label given to the other class", 0.0, low=0.0, high=0.2),
    Parameter("dropout", "share of features left out in a step", 0.0, low=0.0, high=0.6),
    Parameter("policy", "augmentation of the images", "dihedral", FINETUNE_POLICIES),
    Parameter("strength", "of the augmentation", 0.5, low=0.0, high=1.0),
    Parameter("mixup", "0 for none, 1 for shares drawn evenly", 0.0, low=0.0, high=1.0),
    Parameter("epochs", "passes over the training rows", 6, low=2, high=16, log=True, whole=True),
    Parameter("tta", "test-time augmentation: average over four dihedral views", False, (False, True)),
)
# A network that starts from nothing needs larger steps, all layers alike, and longer.
_FROM_NOTHING = {"learning_rate": 5e-3, "layer_decay": 1.0, "epochs": 16}


def finetune_space(backbones: Sequence[str], image_sizes: Sequence[int]) -> tuple[Parameter, ...]:
    """The flat space of the finetune regime.

    Args:
        backbones: Those that can be had.
        image_sizes: Sides in pixels, the one to begin with first.
    """
    first, second, *rest = _FINETUNE
    sizes = tuple(image_sizes)
    return (replace(first, choices=tuple(backbones)), replace(second, start=sizes[0], choices=sizes), *rest)


def frozen_space(backbones: Sequence[str]) -> tuple[Parameter, ...]:
    """The flat space of the frozen regime, for the backbones that can be had."""
    first, *rest = _FROZEN
    return (replace(first, choices=tuple(backbones)), *rest)


_IDENTITY = ("name", "choices", "low", "high", "log", "whole")  # a description or a start value is none of it


def space_digest(space: Iterable[Parameter]) -> str:
    """Digest of the names, choices, ranges and scales of a space: what must agree when a study is resumed."""
    return digest_of_rows(asdict(parameter) for parameter in space)


def digest_of_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """The same for a space whose parameters are given as mappings, further keys ignored."""
    values = [[row[key] for key in _IDENTITY] for row in rows]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:24]


def starting_point(space: Sequence[Parameter], backbone: str) -> Params:
    """A sound point for a backbone: of the frozen regime, a plain linear head."""
    point = {parameter.name: parameter.start for parameter in space} | {"backbone": backbone}
    return point | (_FROM_NOTHING if backbone == cnn.NAME else {})


def markdown_table(space: Sequence[Parameter]) -> str:
    """The space as the README shows it."""
    rows = [f"| `{row.name}` | {row} | {'each' if row.start == '' else row.start} | {row.meaning} |" for row in space]
    return "\n".join(["| parameter | values | first | what it is |", "| --- | --- | --- | --- |", *rows])
