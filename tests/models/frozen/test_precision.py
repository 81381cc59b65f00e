"""Features in bf16: refused where the processor has none, kept apart from those in f32, and close to them."""

from __future__ import annotations

import numpy as np
import openvino
import pytest

from bhsearch.errors import BackboneError, SettingsError
from bhsearch.models import openvino_program
from bhsearch.models.features import FeatureCache
from bhsearch.models.frozen import precision as module
from bhsearch.models.frozen.precision import BF16, F32, precision_facts, require_precision, supports_bf16
from bhsearch.runtime import cache as runtime_cache
from tests.models.conftest import pixels_of, tissue

with_bf16 = pytest.mark.skipif(not supports_bf16(), reason="the processor has no bf16")


@pytest.fixture(scope="module")
def images():
    return tissue(12, 64)


def in_precision(precision, backbone, pixels):
    features = FeatureCache(pixels, "openvino")
    features.precisions[backbone.name] = precision
    return features


def test_bf16_is_what_openvino_reports():
    assert supports_bf16() == ("BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def test_bf16_is_refused_where_the_processor_has_none(images, mobilenet, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "supports_bf16", lambda: False)
    require_precision(F32)
    with pytest.raises(SettingsError, match=r"requires a processor for which OpenVINO reports BF16, but .+ has none"):
        require_precision(BF16)
    with pytest.raises(SettingsError, match="--feature-precision f32"):
        in_precision(BF16, mobilenet, pixels_of(images, tmp_path)).get(mobilenet, "identity")


@with_bf16
def test_features_in_bf16_are_close_to_those_in_f32_and_kept_apart(images, mobilenet, tmp_path):
    pixels = pixels_of(images, tmp_path)
    one, other = (in_precision(precision, mobilenet, pixels) for precision in (F32, BF16))
    single, lower = one.get(mobilenet, "stain1"), other.get(mobilenet, "stain1")
    assert single.dtype == lower.dtype == np.float32
    assert (single != lower).any()
    cosine = (single * lower).sum(axis=1) / np.linalg.norm(single, axis=1) / np.linalg.norm(lower, axis=1)
    assert cosine.min() > 0.999
    assert sum(entry.kind == "features" for entry in runtime_cache.entries()) == 2
    other.precisions[mobilenet.name] = F32
    np.testing.assert_array_equal(other.get(mobilenet, "stain1"), single)


@with_bf16
def test_speeds_and_lengths_are_measured_for_each_precision(images, mobilenet, tmp_path, monkeypatch):
    monkeypatch.setattr(openvino_program, "LENGTHS", (1, 2))
    pixels = pixels_of(images, tmp_path)
    for precision in (F32, BF16):
        assert in_precision(precision, mobilenet, pixels).seconds_per_view(mobilenet) > 0
    kept = [facts.get("precision") for _, facts in runtime_cache.facts_of_entries("speeds")]
    assert sorted(map(str, kept)) == ["None", BF16]


def test_features_in_f32_have_the_key_of_earlier_versions():
    assert precision_facts(F32) == {}


@with_bf16
def test_a_network_that_openvino_cannot_run_has_no_features_in_bf16(images, staintex_s, tmp_path, monkeypatch):
    from bhsearch.models import backend

    features = in_precision(BF16, staintex_s, pixels_of(images, tmp_path))
    monkeypatch.setattr("bhsearch.models.openvino.BackgroundConversion._found", lambda *_: None)
    monkeypatch.setattr(backend, "name", lambda: "jax")
    with pytest.raises(BackboneError, match="'staintex-s' cannot be converted to OpenVINO"):
        features.get(staintex_s, "identity")


def test_features_of_some_rows_are_those_of_the_whole(images, mobilenet, tmp_path):
    whole = in_precision(F32, mobilenet, pixels_of(images, tmp_path))
    rows = np.isin(np.arange(12), [1, 2, 5, 11])
    part = whole.of_rows(rows, {mobilenet.name: F32})
    np.testing.assert_allclose(part.get(mobilenet, "identity"), whole.get(mobilenet, "identity")[rows], rtol=1e-5)
    assert whole.of_rows(np.ones(12, bool), {}).pixels_key == whole.pixels_key, "all rows are those of the study"
    assert part.pixels_key not in (whole.pixels_key, whole.of_rows(~rows, {}).pixels_key)


@with_bf16
def test_the_cost_of_a_model_is_in_f32_in_which_it_will_compute(images, mobilenet, tmp_path):
    pixels = pixels_of(images, tmp_path)
    lower = in_precision(BF16, mobilenet, pixels)
    in_f32 = in_precision(F32, mobilenet, pixels).seconds_per_view(mobilenet)
    assert lower.cost(mobilenet).milliseconds == pytest.approx(1000 * in_f32 / len(images))
