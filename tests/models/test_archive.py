"""A structure that is filled is the file that Keras would have saved."""

from __future__ import annotations

import json
import time
import zipfile

import keras
import numpy as np
import pytest

from bhsearch.models.archive import ArchiveStructure, marker_arrays

BODY = (np.full((4, 3), 0.5, np.float32), np.arange(3, dtype=np.float32))
SHAPES = ((3, 2), (2,))


def network(head) -> keras.Model:
    images = keras.Input((4,))
    hidden = keras.layers.Dense(3, name="body")(images)
    made = keras.Model(images, keras.layers.Dense(2, name="head")(hidden))
    made.get_layer("body").set_weights(BODY)
    made.get_layer("head").set_weights(head)
    return made


@pytest.fixture(scope="module", params=["constants in the structure", "constants apart"])
def parts(request, tmp_path_factory):
    """A structure that was written and read, and the constants that it lacks."""
    folder = tmp_path_factory.mktemp("structure")
    markers = marker_arrays((shape, np.float32) for shape in SHAPES)
    network(markers).save(folder / "m.keras")
    constants = list(BODY) if request.param == "constants apart" else []
    (folder / "written").mkdir()
    ArchiveStructure.of_file(folder / "m.keras", markers, constants).write(folder / "written")
    return ArchiveStructure.read(folder / "written"), constants


def heads(factor):
    return [factor * np.arange(6, dtype=np.float32).reshape(3, 2), factor * np.array([7, 8], np.float32)]


def test_a_filled_archive_has_the_new_head_and_the_old_body(parts, tmp_path):
    structure, constants = parts
    first = structure.filled([*heads(1), *constants])
    for factor, archive in ((1, first), (2, first.refilled(heads(2))), (1, first.refilled(heads(1)))):
        archive.save(tmp_path / "m.keras")
        loaded = keras.saving.load_model(tmp_path / "m.keras")
        for layer, expected in (("body", BODY), ("head", heads(factor))):
            found = loaded.get_layer(layer).get_weights()
            assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
        assert np.array_equal(loaded(np.eye(4, dtype="float32")), network(heads(factor))(np.eye(4, dtype="float32")))


def test_the_archive_says_when_and_by_which_keras_it_was_saved(parts, tmp_path, monkeypatch):
    structure, constants = parts
    archive = structure.filled([*heads(1), *constants])
    assert archive.keras_version == keras.__version__
    monkeypatch.setattr(time, "strftime", lambda form: form)
    archive.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as content:
        assert content.namelist() == ["metadata.json", "config.json", "model.weights.h5"]
        metadata = json.loads(content.read("metadata.json"))
    assert metadata == {"keras_version": keras.__version__, "date_saved": "%Y-%m-%d@%H:%M:%S"}


def test_constants_apart_are_not_in_the_structure(tmp_path):
    large = np.random.default_rng(0).normal(size=(4, 10_000)).astype(np.float32)
    images = keras.Input((4,))
    made = keras.Model(images, keras.layers.Dense(2, name="head")(keras.layers.Dense(10_000, name="body")(images)))
    markers = marker_arrays([((10_000, 2), np.float32), ((2,), np.float32)])
    made.get_layer("body").set_weights([large, np.zeros(10_000, np.float32)])
    made.get_layer("head").set_weights(markers)
    made.save(tmp_path / "m.keras")
    structure = ArchiveStructure.of_file(tmp_path / "m.keras", markers, [large])
    assert sum(map(len, structure.members.values())) < large.nbytes / 2 + 4 * 10_000
    assert structure.filled([*markers, large]).weights.count(large.tobytes()) == 1


def test_weights_of_another_number_or_shape_are_refused(parts):
    structure, constants = parts
    with pytest.raises(ValueError, match="has the index"):
        structure.filled(heads(1)[:1])
    with pytest.raises(ValueError, match=r"must have the shape \(3, 2\), but got \(2, 3\)"):
        structure.filled([heads(1)[0].T, heads(1)[1], *constants])
    with pytest.raises(ValueError, match=r"must have the shape \(2,\), but got \(3,\)"):
        structure.filled([*heads(1), *constants]).refilled([heads(1)[0], np.zeros(3, np.float32)])


def test_a_weight_that_is_not_in_the_file_once_is_refused(tmp_path):
    network(heads(1)).save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match=r"m\.keras exactly once, but these are not: \[1\]"):
        ArchiveStructure.of_file(tmp_path / "m.keras", [heads(1)[0], np.zeros(2, np.float32)])
