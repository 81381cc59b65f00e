"""Nothing that is decided before the opening depends on the sealed images: not on a bit of their pixels or labels."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bhsearch.data.images.decode import decode
from bhsearch.data.open_data import open_data
from bhsearch.evaluation.calibration import operating_point
from bhsearch.evaluation.selection.bbc_cv import corrected_score
from bhsearch.study import runner
from bhsearch.study.context import StudyContext
from bhsearch.tracking.upload.outbox import Outbox
from bhsearch.tracking.upload.trial_files import joined_predictions
from tests.studies import NobodyLogs, cache_with_networks, search
from tests.tasks.samples import BINARY


def noised(prepared: StudyContext) -> StudyContext:
    """With split and fingerprint made, the test's pixels on disk and its labels in the index become noise."""
    random = np.random.default_rng(0)
    test = prepared.split.test
    for path in prepared.index.select(test).paths():
        Image.fromarray(random.integers(0, 256, (60, 60, 3), np.uint8)).save(path)
    table = prepared.index.table.copy()
    table.loc[test, "label"] = random.permutation(1 - table.loc[test, "label"].to_numpy())
    table.loc[test, "pixels_digest"] = [f"noise {k}" for k in range(int(test.sum()))]
    return replace(prepared, index=replace(prepared.index, table=table))


def study_in(folder: Path, monkeypatch: pytest.MonkeyPatch, change) -> tuple:
    """Search in a folder with a cache and a storage of its own; everything that is decided before an opening.

    The trials stay in the outbox: what MLflow keeps of them is not changed on the way.
    """
    shutil.copytree(open_data("phantom:cases=24,images=2").root, folder / "images")
    real = StudyContext.build
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("BHSEARCH_CACHE", cache_with_networks(folder / "cache"))  # nothing of the other study is found
        patch.setattr(runner, "UploaderProcess", NobodyLogs)
        patch.setattr(StudyContext, "build", lambda *args: change(real(*args)))
        result = search(data=str(folder / "images"), trials=2, folds=2, tracking=True, seed=1)
        (place,) = (folder / "outbox").iterdir()
        outbox = Outbox(place)
        predictions = {number: joined_predictions(outbox.study(), outbox.trial(number)) for number in outbox.waiting()}
    trials = [(trial.number, trial.state, trial.params, trial.value) for trial in result.records]
    ranking = [(row.trial.number, row.low, row.high, row.tied) for row in result.ranking]
    return trials, ranking, predictions, operating_point(predictions[result.best.trial.number], BINARY)


def test_noise_in_the_test_changes_no_result_threshold_or_calibration(tmp_path, monkeypatch):
    found = {}
    for name, change in (("as they are", lambda prepared: prepared), ("noise", noised)):
        (tmp_path / name).mkdir()
        found[name] = study_in(tmp_path / name, monkeypatch, change)
    one, other = found.values()
    assert sorted(one[2]) == [0, 1]
    assert one[0] == other[0]
    assert one[1] == other[1]
    assert one[3] == other[3]
    for number, kept in one[2].items():
        assert kept.probability.tobytes() == other[2][number].probability.tobytes()
    assert corrected_score(list(one[2].values()), BINARY) == corrected_score(list(other[2].values()), BINARY)
    shapes = {name: {decode(file).shape for file in (tmp_path / name / "images").rglob("*.png")} for name in found}
    assert shapes["noise"] == shapes["as they are"] | {(60, 60, 3)}  # the noise was really there
