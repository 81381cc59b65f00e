"""An archive with exchanged heads is the file that Keras itself would have saved."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from bhsearch.models.inference_model import KerasArchive


def network() -> keras.Model:
    images = keras.Input((4,))
    hidden = keras.layers.Dense(3, name="body")(images)
    return keras.Model(images, keras.layers.Dense(2, name="head")(hidden))


def test_a_filled_archive_loads_with_the_new_head_and_the_old_body(tmp_path) -> None:
    model = network()
    body = model.get_layer("body").get_weights()
    kernel, bias = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([7, 8], np.float32)
    archive = KerasArchive(model, ["head"])
    for factor in (1, 2):  # what was filled first must not shine through
        archive.filled([factor * kernel, factor * bias]).save(tmp_path / "m.keras")
        loaded = keras.saving.load_model(tmp_path / "m.keras")
        assert np.array_equal(loaded.get_layer("head").get_weights()[0], factor * kernel)
        assert np.array_equal(loaded.get_layer("head").get_weights()[1], factor * bias)
        for kept, found in zip(body, loaded.get_layer("body").get_weights(), strict=True):
            assert np.array_equal(kept, found)


def test_weights_of_another_number_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        KerasArchive(network(), ["head"]).filled([np.zeros((3, 2), np.float32)])
