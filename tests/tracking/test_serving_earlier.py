"""A model that was registered by an earlier version of bhsearch keeps its loader, its threshold and its predictions."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.studies import import_mlflow

# Registered at the last commit before the modules were moved: a linear head on `staintex-s`, trained on the phantom.
FOLDER = Path(__file__).parent / "registered_at_5e3fe7b"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_model_registered_before_the_modules_moved_predicts_what_it_predicted_then():
    mlflow = import_mlflow()
    files = sorted(FOLDER.glob("*.png"))
    frame = pd.DataFrame({"image": [file.read_bytes() for file in files]})
    found = mlflow.pyfunc.load_model(str(FOLDER / "model")).predict(frame)
    expected = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
    assert found["probability"].tolist() == pytest.approx(expected["probability"], abs=1e-6)
    assert found["label"].tolist() == expected["label"]
    assert set(expected["label"]) == {"benign", "malignant"}
