"""The process that draws: what it makes lies beside the trial, and what goes wrong in it is said."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from bhsearch.errors import RunError
from bhsearch.evaluation.bootstrap import bootstrap_scores, group_draws, interval
from bhsearch.evaluation.metrics import trial_metrics
from bhsearch.runtime.cache_eviction import evict
from bhsearch.tracking.upload.outbox import Outbox
from bhsearch.tracking.upload.renderer import RendererProcess, joined_predictions, rendered
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


def test_metrics_and_files_lie_beside_the_trial(outbox):
    renderer = RendererProcess(outbox)
    renderer.ask([0])
    renderer.wait(0)
    renderer.close()
    values, files = rendered(outbox.trial(0))
    predictions = joined_predictions(outbox.study(), outbox.trial(0))
    ends = interval(bootstrap_scores(predictions, group_draws(predictions.group, predictions.stratum), BINARY))
    assert values == pytest.approx(
        {**trial_metrics(predictions, BINARY), "auc_low": ends.low, "auc_high": ends.high}, abs=1e-12, nan_ok=True
    )
    assert {file.name for file in (files / "pictures").iterdir()} >= {"roc.svg", "calibration.svg"}


def test_pixels_that_are_in_use_for_drawing_stay_in_the_cache(outbox):
    root = Path(outbox.study().record["pixels"]["file"]).parents[2]
    renderer = RendererProcess(outbox)
    renderer.ask([0])
    renderer.wait(0)
    evict(root, 0)
    assert (root / "pixels" / "key" / "pixels.u8").exists()
    renderer.close()
    evict(root, 0)
    assert not (root / "pixels" / "key").exists()


def test_a_trial_is_drawn_without_its_images_when_the_cache_has_lost_them(outbox):
    """It may have waited long: then it is better sent without them than never."""
    shutil.rmtree(Path(outbox.study().record["pixels"]["file"]).parents[2])
    renderer = RendererProcess(outbox)
    renderer.ask([0])
    renderer.wait(0)
    renderer.close()
    drawn = {file.stem for file in (rendered(outbox.trial(0))[1] / "pictures").iterdir()}
    assert "roc" in drawn
    assert "right_and_wrong" not in drawn


def test_a_trial_asked_for_twice_is_drawn_once(outbox):
    renderer = RendererProcess(outbox)
    renderer.ask([0])
    renderer.wait(0)
    made = (outbox.folder / "00000" / "values.json").stat().st_mtime_ns
    renderer.ask([0])
    renderer.wait(0)
    renderer.close()
    assert (outbox.folder / "00000" / "values.json").stat().st_mtime_ns == made


def test_what_goes_wrong_is_said(outbox):
    renderer = RendererProcess(outbox)
    renderer.ask([1])
    with pytest.raises(RunError, match=r"Cannot draw the figures of trial 1: .*DataError"):
        renderer.wait(1)
    renderer.close()
