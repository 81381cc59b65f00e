"""The registry of Optuna's samplers. The module does not import Optuna, so that listing the names is fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bhsearch.plugins import Registry

if TYPE_CHECKING:
    from bhsearch.engines.optuna.samplers import Sampler

SAMPLERS: Registry[Sampler] = Registry("bhsearch.samplers", "--sampler")
