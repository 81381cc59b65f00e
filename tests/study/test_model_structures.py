"""Workers leave in the cache what the uploader needs to write the models without Keras."""

from __future__ import annotations

import numpy as np
import pytest

from bhsearch.errors import BackboneError
from bhsearch.models import backend
from bhsearch.models.augmentation.policies import IDENTITY
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.structures import ArchivePool, StructureBuilder
from bhsearch.study import runner
from bhsearch.tracking.upload.outbox import Outbox
from tests.studies import NobodyLogs, cache_with_networks, search


def refuse(architecture):
    raise AssertionError("a structure is not in the cache")


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """A function that makes a study whose trials stay in the outbox, with an empty cache of structures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BHSEARCH_CACHE", cache_with_networks(tmp_path / "cache"))
    monkeypatch.setattr(runner, "UploaderProcess", NobodyLogs)
    backend.import_backend()

    def run(**changes) -> Outbox:
        search(tracking=True, **changes)
        (folder,) = (tmp_path / "outbox").iterdir()
        return Outbox(folder)

    return run


def test_the_structure_of_every_trial_is_in_the_cache(searched):
    box = searched(trials=3)
    study = box.study().record
    pool = ArchivePool("sigmoid", refuse)
    for number in box.waiting():
        trial = box.trial(number)
        backbone = Backbone.from_record(study["backbones"][trial.record["params"]["backbone"]])
        resize, size = study["settings"]["resize"], study["settings"]["image_size"]
        archive = pool.get(backbone, resize, size, trial.record["model"], trial.arrays)
        kernel = np.ascontiguousarray(trial.arrays["kernel"])
        assert archive.weights.count(kernel.tobytes()) == 1
    with pytest.raises(AssertionError, match="not in the cache"):
        pool.get(backbone, resize, size + 1, trial.record["model"], trial.arrays)


def test_a_study_that_keeps_no_models_builds_none(searched, tmp_path):
    searched(trials=1, keep_models="none")
    assert not (tmp_path / "cache" / "archives").exists()


def test_a_structure_that_cannot_be_built_fails_no_trial(searched, monkeypatch):
    """The uploader tries again, and says why it cannot be built."""

    def fail(self, architecture):
        assert architecture.views[0] == IDENTITY
        raise BackboneError("no weights")

    monkeypatch.setattr(StructureBuilder, "__call__", fail)
    box = searched(trials=2)
    assert [box.trial(number).record["state"] for number in box.waiting()] == ["COMPLETE"] * 2
