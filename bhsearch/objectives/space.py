"""The search spaces of both regimes: parameters with their ranges and default values.

Engines, documentation and tests all read the tables in this module.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bhsearch.errors import SettingsError
from bhsearch.models import backend
from bhsearch.models.augmentation.cached_views import views_of
from bhsearch.models.augmentation.policies import FINETUNE_POLICIES, VIEW_POLICIES
from bhsearch.models.backbones.registry import is_from_scratch
from bhsearch.models.training.train_step import DEPTHS

Params = dict[str, Any]


@dataclass(frozen=True)
class Parameter:
    """A parameter of the search space: categorical with `choices`, or numerical with a range from `low` to `high`.

    Attributes:
        name: Name in parameter sets, logs and figures.
        meaning: Description for users.
        start: Default value, which is part of the starting point; see `starting_point`.
        choices: Values of a categorical parameter; empty for a numerical one.
        low: Lower end of the range, included.
        high: Upper end of the range, included.
        log: Whether the range is sampled on a logarithmic scale.
        whole: Whether the range contains integers only.
        step: Distance of the values of the range, counted from `low`; 0 for a continuous range.
    """

    name: str
    meaning: str
    start: Any
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    step: float = 0.0

    @property
    def values(self) -> tuple[float, ...]:
        """The values of a range with a step, in ascending order."""
        return tuple(self.low + self.step * n for n in range(round((self.high - self.low) / self.step) + 1))

    def holds(self, value: Any) -> bool:
        """Return whether a value is one of the choices or in the range of the parameter."""
        if self.choices:
            return value in self.choices
        if self.step:
            return value in self.values
        return self.low <= value <= self.high and (not self.whole or value == int(value))

    def __str__(self) -> str:
        if self.choices:
            return ", ".join(map(str, self.choices))
        scale = " (log)" if self.log else f" in steps of {self.step:g}" if self.step else ""
        return f"{self.low:g} to {self.high:g}{scale}"


# Powers of 2 as steps, so that all values are exact in floating point.
LOG10_PENALTY = Parameter(
    "log10_penalty", "log10 of the L2 penalty of a linear head's weights, 1 / C; a hidden layer has a tenth of it", 1.0,
    low=-1.0, high=3.5, step=0.5,
)  # fmt: skip
# Unlike a linear head, a network with a hidden layer shrinks to nothing at a finite penalty, often between 10^2.5 and
# 10^3. With a tenth of the penalty, nearly the whole range is of use to both.
HIDDEN_PENALTY = 0.1
# Choices of the parameter `backbone` that stand for several backbones, by their largest number (`--combine`): the
# pairs of three backbones, then all three. What they stand for is decided during the study; see `objectives.joint`.
JOINT_BACKBONES: dict[int, tuple[str, ...]] = {
    0: (),
    2: ("joint-1", "joint-2", "joint-3"),
    3: ("joint-1", "joint-2", "joint-3", "joint-4"),
}
JOINT_NAMES = frozenset(JOINT_BACKBONES[3])
BATCH_SIZES, _GPU_BATCH_SIZES = (16, 32), (32, 64)  # smaller batches leave most of a GPU idle
MICRO_BATCHES = 4  # number of parts that a batch is split into if it does not fit into memory
_FROZEN = (
    Parameter("backbone", "network that computes the features", "", ("",)),
    Parameter("policy", "augmentation policy: the views of an image that heads are trained on", "none", VIEW_POLICIES),
    Parameter("views", "number of views, the image itself included", 2, (2, 4)),
    Parameter("tta", "test-time augmentation: average over the views", False, (False, True)),
    Parameter("hidden_units", "units of the hidden layer; 0 for a linear head", 0, (0, 16, 64)),
    LOG10_PENALTY,
)


_OF_VIEWS = ("policy", "views", "tta")
LINEAR = "linear"  # value of `--heads`
_FINETUNE = (
    Parameter("backbone", "network that is trained", "", ("",)),
    Parameter("image_size", "side of the network's input in pixels", 0, (0,)),
    Parameter("depth", "layers that are trained: all, or the upper half", "all", tuple(DEPTHS)),
    Parameter("learning_rate", "peak learning rate, of the head", 1e-3, low=1e-5, high=1e-2, log=True),
    Parameter(
        "layer_decay", "factor on the learning rate per tenth of the layers, from the top down", 0.8, low=0.5, high=1.0
    ),
    Parameter("weight_decay", "decoupled weight decay of the kernels", 0.01, low=1e-4, high=1.0, log=True),
    Parameter("optimizer", "AdamW, or SGD with Nesterov momentum", "adamw", ("adamw", "sgd")),
    Parameter("schedule", "schedule of the learning rate", "cosine", ("cosine", "constant")),
    Parameter("warmup", "share of the steps in which the learning rate rises", 0.1, low=0.0, high=0.3),
    Parameter("batch", "images per step", BATCH_SIZES[0], BATCH_SIZES),
    Parameter("label_smoothing", "label smoothing", 0.0, low=0.0, high=0.2),
    Parameter("dropout", "dropout rate of the features", 0.0, low=0.0, high=0.6),
    Parameter("policy", "augmentation policy", "dihedral", FINETUNE_POLICIES),
    Parameter("strength", "strength of the augmentation", 0.5, low=0.0, high=1.0),
    Parameter("mixup", "alpha of mixup's Beta distribution; 0 disables mixup", 0.0, low=0.0, high=1.0),
    Parameter("epochs", "passes over the training rows", 6, low=2, high=16, log=True, whole=True),
    Parameter("tta", "test-time augmentation: average over four dihedral views", False, (False, True)),
)
# A network trained from scratch needs a larger learning rate, equal in all layers, and more epochs.
_FROM_SCRATCH = {"learning_rate": 5e-3, "layer_decay": 1.0, "epochs": 16}


def finetune_space(
    backbones: Sequence[str],
    image_sizes: Sequence[int],
    policies: Sequence[str] = (),
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> tuple[Parameter, ...]:
    """Return the search space of the finetune regime.

    Args:
        backbones: Choices of the parameter `backbone`.
        image_sizes: Choices of the parameter `image_size`, in pixels, the default first.
        policies: Names of additional augmentation policies, from plugins.
        batch_sizes: Choices of the parameter `batch`, in images, the default first.
    """
    sizes = {"image_size": tuple(image_sizes), "batch": tuple(batch_sizes)}
    first, *rest = _FINETUNE
    rest = [_with_choices(row, sizes[row.name]) if row.name in sizes else row for row in rest]
    return (replace(first, choices=tuple(backbones)), *_with_policies(rest, policies))


def frozen_space(
    backbones: Sequence[str],
    policies: Sequence[str] = (),
    *,
    heads: str = "all",
    has_views: bool = True,
    combine: int = 0,
) -> tuple[Parameter, ...]:
    """Return the search space of the frozen regime.

    Args:
        backbones: Choices of the parameter `backbone`, other than the joint backbones.
        policies: Names of additional augmentation policies, from plugins.
        heads: `linear` for linear heads only, otherwise `all`.
        has_views: Whether images have augmented views, which vectors do not have.
        combine: Value of `--combine`, a key of `JOINT_BACKBONES`.
    """
    first, *rest = (row for row in _FROZEN if has_views or row.name not in _OF_VIEWS)
    if heads == LINEAR:
        rest = [replace(row, choices=(0,)) if row.name == "hidden_units" else row for row in rest]
    return (replace(first, choices=(*backbones, *JOINT_BACKBONES[combine])), *_with_policies(rest, policies))


def default_batch_sizes() -> tuple[int, ...]:
    """Return the default choices of the parameter `batch` on this machine, without importing a framework."""
    return _GPU_BATCH_SIZES if backend.gpu_files() else BATCH_SIZES


def check_batch_sizes(sizes: Sequence[int]) -> None:
    """Check the choices of the parameter `batch`.

    Raises:
        SettingsError: If a size is not a positive multiple of `MICRO_BATCHES`, or is repeated.
    """
    wrong = [size for size in sizes if size < 1 or size % MICRO_BATCHES]
    if wrong:
        raise SettingsError(
            f"--batch-sizes must be positive multiples of {MICRO_BATCHES}, but got {', '.join(map(str, wrong))}. A "
            f"batch that does not fit into memory is split into {MICRO_BATCHES} equal parts."
        )
    if len(set(sizes)) < len(sizes):
        raise SettingsError(f"--batch-sizes must differ from each other, but got {', '.join(map(str, sizes))}.")


def views_in(params: Params) -> tuple[str, ...]:
    """Return the views of a parameter set of a frozen space, the image itself first; only that one for vectors."""
    return views_of(params["policy"], params["views"]) if "policy" in params else views_of("none", 1)


def _with_choices(parameter: Parameter, choices: tuple[Any, ...]) -> Parameter:
    """Return a parameter with other choices, of which the first is the default."""
    return replace(parameter, start=choices[0], choices=choices)


def _with_policies(space: Sequence[Parameter], policies: Sequence[str]) -> tuple[Parameter, ...]:
    return tuple(replace(row, choices=(*row.choices, *policies)) if row.name == "policy" else row for row in space)


_IDENTITY = ("name", "choices", "low", "high", "log", "whole", "step")  # attributes that the digest includes


def space_digest(space: Iterable[Parameter]) -> str:
    """Return a digest of a search space, to detect a changed space when a study is resumed."""
    return digest_of_rows(asdict(parameter) for parameter in space)


def digest_of_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the digest of a space whose parameters are mappings, such as from JSON; see `space_digest`.

    Keys that are not in the digest are ignored.
    """
    values = [[row[key] for key in _IDENTITY] for row in rows]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:24]


def starting_point(space: Sequence[Parameter], backbone: str) -> Params:
    """Return the default parameter set of a backbone, called its starting point; for frozen spaces, a linear head."""
    point = {parameter.name: parameter.start for parameter in space} | {"backbone": backbone}
    changed = _FROM_SCRATCH if is_from_scratch(backbone) else {}
    return point | {name: value for name, value in changed.items() if name in point}


def starting_points(space: Sequence[Parameter], backbone: str) -> list[Params]:
    """Return the parameter sets of a backbone that a search begins with, the starting point first.

    In frozen spaces, the second one has a small hidden layer. A search that has only seen linear heads rarely tries
    another head of a good backbone.
    """
    point = starting_point(space, backbone)
    has_hidden = any(row.name == "hidden_units" and len(row.choices) > 1 for row in space)
    return [point, point | {"hidden_units": 16}] if has_hidden else [point]


def effective(params: Params) -> Params:
    """Return a parameter set without the parameters that have no effect: with the policy `none` there is one view."""
    if params.get("policy") == "none" and "views" in params:
        return {name: value for name, value in params.items() if name not in ("views", "tta")}
    return params


def markdown_table(space: Sequence[Parameter]) -> str:
    """Return a space as a Markdown table with the columns parameter, values, default and description."""
    rows = [f"| `{row.name}` | {row} | {'each' if row.start == '' else row.start} | {row.meaning} |" for row in space]
    return "\n".join(["| parameter | values | default | description |", "| --- | --- | --- | --- |", *rows])
