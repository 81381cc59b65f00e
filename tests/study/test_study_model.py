"""Any logged model, loaded by a process that knows nothing of bhsearch, is the mean of its fold heads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bhsearch.data.dataset import Dataset
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from tests.studies import Store, import_mlflow, optuna_trials, settings, started, tracked_search
from tests.tasks.samples import BINARY

Answers = tuple[list[float], list[float]]
LOAD = """
import json, sys, warnings
warnings.simplefilter("ignore")
import mlflow, numpy as np
from PIL import Image
uri, *files = sys.argv[1:]
images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
by_pyfunc = mlflow.pyfunc.load_model(uri).predict(images)
by_keras = mlflow.keras.load_model(uri).predict(images, verbose=0)
loaded = sorted(name for name in sys.modules if name.split(".")[0] == "bhsearch")
print("\\n" + json.dumps([np.ravel(by_pyfunc).tolist(), np.ravel(by_keras).tolist(), loaded]))
"""


def mean_of_heads(index: Dataset, params: dict, feature_backend: str) -> np.ndarray:
    """The mean of the fold heads' probabilities on every development image, from the heads themselves."""
    from bhsearch.data.images.pixel_cache import pixel_cache
    from bhsearch.models import backend
    from bhsearch.models.features import FeatureCache
    from bhsearch.models.resize import make_resize
    from bhsearch.objectives.frozen import FrozenObjective

    made = StudyContext.build(settings(feature_backend=feature_backend), ProgressReporter())
    template = made.images
    backend.import_backend()
    features = FeatureCache(pixel_cache(made.development, make_resize("crop", 48)), feature_backend)
    objective = FrozenObjective(features, made.backbones, template.label, template.fold, template.group, 0, task=BINARY)
    outcome = objective(params)
    by_view = [
        1 / (1 + np.exp(-outcome.heads.logits(features.get(made.backbones[params["backbone"]], view))))
        for view in outcome.model["views"]
    ]
    return np.mean(by_view, axis=(0, 2))


def answers_elsewhere(uri: str, files: list[str]) -> Answers:
    """What the model gives in a process that never imports bhsearch: by MLflow, and by Keras."""
    with started(Path.cwd(), "-c", LOAD, uri, *files) as process:
        output, _ = process.communicate()
        assert process.returncode == 0, output
    by_pyfunc, by_keras, loaded = json.loads(output.splitlines()[-1])
    assert loaded == []
    return by_pyfunc, by_keras


def answers_here(uri: str, files: list[str]) -> Answers:
    """The same in this process, where the frameworks need not be imported again."""
    mlflow = import_mlflow()
    images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    by_pyfunc = mlflow.pyfunc.load_model(uri).predict(images)
    by_keras = mlflow.keras.load_model(uri).predict(images, verbose=0)
    return np.ravel(by_pyfunc).tolist(), np.ravel(by_keras).tolist()


def assert_model_is_the_mean_of_its_heads(
    folder: Path, number: int, feature_backend: str, tolerance: float, load: Callable[[str, list[str]], Answers]
) -> None:
    store = Store(folder)
    run_ = store.children()[number]
    (model,) = [
        model
        for model in store.client.search_logged_models([run_.info.experiment_id])
        if model.source_run_id == run_.info.run_id
    ]
    made = StudyContext.build(settings(feature_backend=feature_backend), ProgressReporter())
    files = [str(path) for path in made.development.paths()]
    by_pyfunc, by_keras = load(model.artifact_location, files)
    params = optuna_trials(folder)[number].params
    expected = mean_of_heads(made.index, params, feature_backend)
    assert by_pyfunc == pytest.approx(expected, abs=tolerance)
    assert by_keras == pytest.approx(expected, abs=tolerance)
    assert np.ptp(expected) > 0.01  # a constant would agree with anything


def test_a_logged_model_loads_anywhere_and_is_the_mean_of_its_fold_heads(finished):
    """Features by OpenVINO, the model by Keras, from the original files: nothing of bhsearch is imported."""
    best = max(finished.trials(), key=lambda trial: trial.value).number
    assert_model_is_the_mean_of_its_heads(finished.folder, best, "openvino", 1e-3, answers_elsewhere)


def test_a_model_whose_features_keras_computed_agrees_to_1e_5(here):
    tracked_search(trials=1, feature_backend="keras")
    assert_model_is_the_mean_of_its_heads(here, 0, "keras", 1e-5, answers_here)
