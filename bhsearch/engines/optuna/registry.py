"""Optuna's samplers by name. Imports no Optuna, so that the names can be listed quickly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bhsearch.plugins import Registry

if TYPE_CHECKING:
    from bhsearch.engines.optuna.samplers import Sampler

SAMPLERS: Registry[Sampler] = Registry("bhsearch.samplers", "--sampler")
