"""A study whose data are read with every option there is: whatever opens the data again reads them the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bhsearch.config import portable
from bhsearch.errors import SettingsError
from bhsearch.lifecycle import reproduce
from bhsearch.lifecycle.build_report import gather
from bhsearch.lifecycle.restore import restore_study, settings_of
from bhsearch.study.events import ProgressReporter
from tests.studies import Store, settings, tracked_search

MAPPED = ("benign=normal, old", "malignant=IDC(+)", "malignant=cancer")


@pytest.fixture
def study(here):
    """A study of one trial on a manifest that no default can read."""
    from bhsearch.tracking import reader

    (here / "images").mkdir()
    lines = ["path;label;case;fold"]
    for at in range(40):
        pixels = np.random.default_rng(at).integers(0, 256, (48, 48, 3), np.uint8)
        Image.fromarray(pixels).save(here / "images" / f"{at}.png")
        label = ("normal, old", ("IDC(+)", "Cancer")[at % 4 // 2])[at % 2]
        lines.append(f"{at}.png;{label};c{at // 2 * 2 + at % 2};{at % 5}")
    (here / "list.csv").write_text("\n".join(lines), encoding="utf-8")
    options = {"class_map": MAPPED, "ignore_columns": ("fold",), "image_root": "images"}
    tracked_search(trials=1, folds=2, data="list.csv", **options)
    return reader.find_study(Store(here).client)


def test_every_command_reads_the_data_as_the_study_did(study):
    kept = settings_of(study.settings)
    assert (kept.class_map, kept.ignore_columns, kept.image_root) == (MAPPED, ("fold",), "images")
    opened = restore_study(study, ProgressReporter())
    assert opened.index.fingerprint == study.tags["bhsearch.data_fingerprint"]
    assert opened.index.labels.tolist().count(1) == 20
    assert reproduce.reproduce(study.trials[0].run_id, ProgressReporter()).largest < 1e-5
    assert gather(Store(Path.cwd()).client, study, ProgressReporter()).images
    with pytest.raises(SettingsError, match="shell variable, check that it is set"):
        restore_study(study, ProgressReporter(), "")


def test_options_of_the_reader_survive_the_way_to_a_worker():
    from bhsearch.config import load_settings

    made = settings(class_map=MAPPED, ignore_columns=("fold",), image_root="images", weights_dir=None)
    kept = load_settings(None, portable(made))
    assert (kept.class_map, kept.ignore_columns, kept.image_root) == (MAPPED, ("fold",), "images")
