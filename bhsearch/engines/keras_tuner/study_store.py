"""KerasTuner as an implementation of `StudyStore`: studies in a folder of the working directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bhsearch.engines.base import Capabilities, Engine, StoredStudy
from bhsearch.engines.keras_tuner import journal as studies
from bhsearch.engines.keras_tuner.engine import SAMPLERS, KerasTunerEngine
from bhsearch.objectives.space import Parameter, Params
from bhsearch.plugins import PluginSource


@dataclass(frozen=True)
class KerasTunerStoredStudy:
    """A study of KerasTuner in its folder; see `StoredStudy`."""

    study: studies.KerasTunerStudy

    def metadata(self) -> dict[str, Any]:
        """Return the metadata that the study was created with."""
        return studies.metadata_of(self.study)

    def save_settings(self, settings: dict[str, Any]) -> None:
        """Store the settings of the last command that opened the study."""
        studies.save_settings(self.study, settings)

    def load_settings(self) -> dict[str, Any]:
        """Return the most recently stored settings."""
        return studies.load_settings(self.study)

    def completed_trials(self) -> list[tuple[float, Params]]:
        """Return the score and the parameters of every complete trial."""
        return studies.completed_trials(self.study)

    def add_backbones(self, metadata: dict[str, Any], backbones: Sequence[str]) -> StoredStudy:
        """Extend the choices of the parameter `backbone`; see `StoredStudy.add_backbones`."""
        return KerasTunerStoredStudy(studies.add_backbones(self.study, metadata, backbones))

    def engine(
        self,
        space: Sequence[Parameter],
        sampler: str,
        seed: int,
        pruner: str = "none",  # noqa: ARG002  # KerasTuner has no pruner
        steps_per_fold: int = 1,  # noqa: ARG002
    ) -> Engine:
        """Open the study for trials; see `StoredStudy.engine`."""
        return KerasTunerEngine(self.study, space, sampler, seed)


class KerasTunerStore:
    """The engine `keras-tuner`, which stores studies in the folder `keras_tuner` of the working directory.

    All methods ignore the argument `storage`; see `StudyStore`.
    """

    name = "keras-tuner"
    title = "KerasTuner"
    capabilities = Capabilities(
        prunes=False,
        parallel=False,
        uses_database=False,
        paced=("hyperband",),
        advice={
            "workers": "KerasTuner's oracle runs in a single process. For more workers, use --engine optuna.",
            "pruner": "To train bad networks for fewer epochs, use --regime finetune --sampler hyperband.",
            "storage": f"KerasTuner's studies are stored in the folder {studies.DIRECTORY} of the working directory.",
        },
    )

    def samplers(self) -> tuple[str, ...]:
        """Return the names of the oracles, the default first."""
        return SAMPLERS

    def sampler_source(self, name: str) -> PluginSource | None:  # noqa: ARG002
        """Return None: all oracles are built in."""
        return None

    def check(self, storage: str) -> None:
        """Do nothing: every storage is accepted, because the argument is ignored."""

    def location(self, storage: str) -> str:  # noqa: ARG002
        """Return the name of the folder that contains the studies."""
        return f"{studies.DIRECTORY}/"

    def lock_key(self, storage: str) -> str:  # noqa: ARG002
        """Return the name of the folder and the working directory as one string."""
        return f"{studies.DIRECTORY} of {Path.cwd()}"

    def open(self, storage: str, name: str, metadata: dict[str, Any]) -> StoredStudy:  # noqa: ARG002
        """Open a study; create it if it does not exist; see `StudyStore.open`."""
        return KerasTunerStoredStudy(studies.open_study(studies.DIRECTORY, name, metadata))

    def find(self, storage: str, name: str, patient: bool = False) -> StoredStudy:  # noqa: ARG002
        """Open an existing study; see `StudyStore.find`."""
        return KerasTunerStoredStudy(studies.find_study(studies.DIRECTORY, name))

    def names(self, storage: str) -> list[str]:  # noqa: ARG002
        """Return the names of all studies."""
        return studies.names(studies.DIRECTORY)

    def discard_if_new(self, storage: str) -> None:
        """Do nothing: the folder is created together with its first study."""


STORE = KerasTunerStore()
