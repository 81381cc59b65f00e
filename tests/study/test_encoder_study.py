"""Studies of a published encoder, from its folder to a model that loads without bhsearch, in both regimes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bhsearch.lifecycle.registration import RegistrationRequest
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from tests.models.backbones.encoders.tiny import REGISTERS, Tiny
from tests.registered import registered
from tests.studies import Store, optuna_trials, settings, tracked_search
from tests.study.test_study_model import answers_elsewhere

STUDY = "encoder"


@pytest.fixture
def encoder(here: Path) -> str:
    """A folder, named by a relative path as a user would."""
    Tiny(scaled=True, registers=REGISTERS).write_transformers(here / "hub" / "tiny", "dinov2_with_registers")
    return "hub/tiny"


def test_a_frozen_study_becomes_a_registered_model(here: Path, encoder: str):
    names = (encoder, f"{encoder}@cls+mean")
    tracked_search(backbones=names, trials=3, study=STUDY)
    assert {trial.params["backbone"] for trial in optuna_trials(here, STUDY)} == {"tiny", "tiny@cls+mean"}
    store = Store(here)
    assert store.parent().data.params["config/backbones"] == str(names)
    version = registered(RegistrationRequest(trial=0, force=True, reason="a test", export="openvino")).version
    made = StudyContext.build(settings(backbones=names), ProgressReporter())
    files = [str(path) for path in made.development.paths()[:8]]
    by_pyfunc, by_keras = answers_elsewhere(version.uri, files)
    assert by_pyfunc == pytest.approx(by_keras, abs=1e-6)
    assert np.ptp(by_keras) > 1e-4


def test_a_fine_tuned_study(here: Path, encoder: str):
    result = tracked_search(backbones=(encoder,), regime="finetune", trials=3, study=STUDY, folds=2, pruner="none")
    assert [trial.state.name for trial in optuna_trials(here, STUDY)] == ["COMPLETE"] * 3
    assert result.best is not None
    store = Store(here)
    (model, *_) = store.client.search_logged_models([store.parent().info.experiment_id])
    made = StudyContext.build(settings(backbones=(encoder,)), ProgressReporter())
    by_pyfunc, by_keras = answers_elsewhere(model.artifact_location, [str(made.development.paths()[0])])
    assert by_pyfunc == pytest.approx(by_keras, abs=1e-6)
