"""Metrics and files of a trial: what is computed from the outbox alone, and what goes wrong is said."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bhsearch.errors import RunError
from bhsearch.evaluation.bootstrap import bootstrap_scores, group_draws, interval
from bhsearch.evaluation.metrics import trial_metrics
from bhsearch.runtime.cache_eviction import evict
from bhsearch.tracking.upload.outbox import Outbox
from bhsearch.tracking.upload.trial_files import joined_predictions, write_trial_files
from tests.evaluation.simulated import simulate
from tests.tasks.samples import BINARY

CURVES = {"auc": [0.6, 0.7], "loss": [0.7, 0.6], "training_loss": [0.7, 0.5]}


@pytest.fixture
def outbox(tmp_path):
    """Two trials of a simulated study; the second one's predictions are of another number of images."""
    predictions = simulate()
    n_images = len(predictions)
    pixels = tmp_path / "cache" / "pixels" / "key" / "pixels.u8"
    pixels.parent.mkdir(parents=True)
    np.zeros((n_images, 1, 8, 8, 3), np.uint8).tofile(pixels)
    box = Outbox(tmp_path / "outbox" / "uid")
    names = ("label", "fold", "group", "stratum")
    arrays = {name: getattr(predictions, name) for name in names}
    arrays |= {name: getattr(predictions, name).astype(str) for name in ("path", "case", "subtype", "magnification")}
    box.put_study(
        {
            "pixels": {"file": str(pixels), "shape": [n_images, 1, 8, 8, 3]},
            "note": "",
            "augmented": False,
            "settings": {},
        },
        arrays,
    )
    for number, probability in enumerate((predictions.probability, predictions.probability[:, :3])):
        box.put(number, {"number": number, "state": "COMPLETE", "curves": CURVES}, {"probability": probability})
        box.release(number)
    return box


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "files"
    made.mkdir()
    return made


def pictures(folder: Path) -> set[str]:
    return {file.name for file in (folder / "pictures").iterdir()}


def test_metrics_are_those_of_the_predictions_and_every_file_is_there(outbox, folder):
    values = write_trial_files(folder, outbox.study(), outbox.trial(0))
    predictions = joined_predictions(outbox.study(), outbox.trial(0))
    ends = interval(bootstrap_scores(predictions, group_draws(predictions.group, predictions.stratum), BINARY))
    assert values == pytest.approx(
        {**trial_metrics(predictions, BINARY), "auc_low": ends.low, "auc_high": ends.high}, abs=1e-12, nan_ok=True
    )
    names = ("learning_curves", "roc", "precision_recall", "calibration", "confusion_matrix", "right_and_wrong")
    assert pictures(folder) == {f"{name}.svg" for name in names}


SEARCH = """
import sys, tempfile
from pathlib import Path
from bhsearch.tracking.upload.outbox import Outbox
from bhsearch.tracking.upload.trial_files import write_trial_files
outbox, root = Outbox(Path(sys.argv[1]), make=False), Path(sys.argv[2])
write_trial_files(Path(tempfile.mkdtemp(dir=root)), outbox.study(), outbox.trial(0))
print("matplotlib" in sys.modules, flush=True)
sys.stdin.read()
"""


def test_pixels_that_a_process_uses_stay_in_the_cache_and_it_loads_no_matplotlib(outbox, tmp_path):
    root = Path(outbox.study().record["pixels"]["file"]).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", SEARCH, str(outbox.folder), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "False\n"
        evict(root, 0)
        assert (root / "pixels" / "key" / "pixels.u8").exists()
        process.communicate()
    evict(root, 0)
    assert not (root / "pixels" / "key").exists()


def test_a_trial_is_drawn_without_its_images_when_the_cache_has_lost_them(outbox, folder):
    """It may have waited long: then it is better sent without them than never."""
    shutil.rmtree(Path(outbox.study().record["pixels"]["file"]).parents[2])
    write_trial_files(folder, outbox.study(), outbox.trial(0))
    assert "roc.svg" in pictures(folder)
    assert "right_and_wrong.svg" not in pictures(folder)


def test_what_goes_wrong_is_said(outbox, folder):
    with pytest.raises(RunError, match=r"Cannot write the files of trial 1: .*DataError"):
        write_trial_files(folder, outbox.study(), outbox.trial(1))
