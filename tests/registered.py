"""One store with a study and a history of registered versions, made once for all tests that look at it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bhsearch.lifecycle.register import register
from bhsearch.lifecycle.registration import RegistrationRequest, RegistrationResult
from bhsearch.study.events import ProgressReporter
from tests.shared import copy_database, made_once
from tests.studies import cache_of, import_mlflow, tracked_search, working_in

# Stain and texture separate the classes of this phantom; the mean colour, which differs from case to case, does not.
DATA = "phantom:cases=120,images=1,difficulty=0.2"
NAME = "phantom-cases120-images1-difficulty0_2"
FEW = "phantom:cases=35,images=1,difficulty=0.2"  # 3 benign and 4 malignant cases sealed
GOOD, WEAK = 0, 1
FEW_PRINTED, FEW_FRESH, FEW_TESTED = 0, 1, 2  # the first is the best
WHY = "a champion to be beaten"


@dataclass(frozen=True)
class History:
    """A store, and what registering gave, in order.

    Attributes:
        folder: Where study and store are.
        weak: The weak trial, made champion by force.
        good: The good trial.
        again: The good trial of a study that is the same once more.
        worse: The weak trial of that study.
        few: A trial of a study that seals seven cases; its other trials are not registered.
    """

    folder: Path
    weak: RegistrationResult
    good: RegistrationResult
    again: RegistrationResult
    worse: RegistrationResult
    few: RegistrationResult

    @property
    def client(self) -> Any:
        mlflow = import_mlflow()
        return mlflow.MlflowClient(f"sqlite:///{self.folder}/mlflow.db")


_own: list[History] = []


def registered(request: RegistrationRequest) -> RegistrationResult:
    """What registering gave; the sealed cases must have been opened for it."""
    result = register(request, ProgressReporter())
    assert isinstance(result, RegistrationResult)
    return result


def colour_backbone(folder: Path) -> Path:
    """A backbone of the user's own that sees the mean colour and nothing else."""
    import keras
    from keras import layers

    images = keras.Input((48, 48, 3))
    keras.Model(images, layers.GlobalAveragePooling2D()(images)).save(folder / "colour.keras")
    return folder / "colour.keras"


def work_in(folder: Path, cache: str, patch: pytest.MonkeyPatch) -> None:
    """The folder as working directory, with its own store."""
    patch.setenv("BHSEARCH_CACHE", cache)
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    patch.chdir(folder)


def history_of_versions(tmp_path_factory: pytest.TempPathFactory) -> History:
    """The history, made once for a run, in databases of this process, which its tests may change."""
    if not _own:
        cache = cache_of(tmp_path_factory)
        made = made_once(tmp_path_factory, "registered", lambda folder: _make(folder, cache))
        own = tmp_path_factory.mktemp("registered")
        for name in ("mlflow.db", "optuna.db"):  # artifacts are found by absolute paths, and stay where they are
            copy_database(made.folder / name, own / name)
        _own.append(replace(made, folder=own))
    return _own[0]


def _make(folder: Path, cache: str) -> History:
    mlflow = import_mlflow()
    with working_in(folder, cache):
        backbones = ("staintex-s", str(colour_backbone(folder)))
        tracked_search(data=DATA, backbones=backbones, trials=2, study="good-and-weak")
        tracked_search(data=DATA, backbones=backbones, trials=2, study="twin")
        tracked_search(data=FEW, trials=3, study="few", folds=2)
        wanted = [
            RegistrationRequest("good-and-weak", WEAK, force=True, reason=WHY),
            RegistrationRequest("good-and-weak"),
            RegistrationRequest("twin", GOOD),
            RegistrationRequest("twin", WEAK),
            RegistrationRequest("few", FEW_TESTED),
        ]
        mlflow.set_experiment("another")  # as a notebook may have done; what is registered goes where it belongs
        return History(folder, *(registered(request) for request in wanted))
