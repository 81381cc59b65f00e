from __future__ import annotations

import json

import pytest

from bhsearch.models import keras_settings
from bhsearch.models.features import FeatureCache
from bhsearch.models.measured_speeds import MeasuredSpeed, measured_speeds
from bhsearch.runtime import cache
from tests.models.conftest import pixels_of, tissue


def kept(of, milliseconds: float, **changes) -> None:
    """Write an entry as a study writes it."""
    facts = {
        "backbone": of.name,
        "weights": of.digest,
        "images": [1, 224, 224, 3],
        "feature_backend": "openvino",
        "numerics": keras_settings.numerics(),
        **changes,
    }
    content = json.dumps({"milliseconds": milliseconds})
    cache.get_or_create("speeds", facts, lambda folder: (folder / "speed.json").write_text(content))


def test_what_a_study_measured_is_found(staintex_s, tmp_path):
    pixels = pixels_of(tissue(3, 48), tmp_path)
    seconds = FeatureCache(pixels, "openvino").seconds_per_view(staintex_s)
    (speed,) = measured_speeds(staintex_s)
    assert (speed.size, speed.n_tiles, speed.feature_backend) == (48, 1, "openvino")
    assert speed.images_per_second == pytest.approx(3 / seconds)


def test_speeds_are_those_of_this_backbone_and_setting_by_size(staintex_s):
    kept(staintex_s, 40)
    kept(staintex_s, 10, images=[1, 96, 96, 3])
    kept(staintex_s, 240, images=[6, 224, 224, 3])
    kept(staintex_s, 1, backbone="staintex-l")
    kept(staintex_s, 2, weights="other weights")
    kept(staintex_s, 3, numerics={"backend": "another"})
    kept(staintex_s, 4, pixels="changed images")
    assert measured_speeds(staintex_s) == (
        MeasuredSpeed(96, 1, "openvino", "f32", 100.0),
        MeasuredSpeed(224, 1, "openvino", "f32", 25.0),
        MeasuredSpeed(224, 6, "openvino", "f32", pytest.approx(1000 / 240)),
    )


def test_an_empty_cache_and_damaged_entries_give_no_speed(staintex_s):
    assert measured_speeds(staintex_s) == ()
    kept(staintex_s, 0)
    kept(staintex_s, 40, images=[])
    (cache.cache_root() / "speeds" / "0").mkdir()
    assert measured_speeds(staintex_s) == ()
