"""Memory, speed and features of a small encoder with random weights; `large-encoders.md` has those of large ones."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from bhsearch.models.backbones.registry import find_backbones
from bhsearch.models.frozen.precision import supports_bf16
from tests.experiments.test_experiments import load

SIZE, WIDTH, N_BLOCKS = 64, 48, 2


@pytest.fixture(scope="module")
def large():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "feature_speed", load("feature_speed"))
        yield load("large_encoders")


@pytest.fixture
def folder(large, tmp_path):
    return large.write_vit(tmp_path / "tiny-random", WIDTH, N_BLOCKS, 3, SIZE)


def test_an_encoder_is_written_as_published_ones_are(folder):
    (backbone,) = find_backbones([str(folder)], None).backbones
    per_block = 12 * WIDTH**2 + 13 * WIDTH
    outside = WIDTH * 3 * 16**2 + WIDTH + WIDTH + WIDTH * (1 + (SIZE // 16) ** 2) + 2 * WIDTH
    assert backbone.describe(SIZE).n_parameters == N_BLOCKS * per_block + outside
    assert backbone.describe(SIZE).n_features == WIDTH


@pytest.mark.slow
def test_conversion_and_inference_are_measured_in_processes_of_their_own(large, folder, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("BHSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(large, "machine", lambda: large.sys.modules["feature_speed"].Machine(1e11, 2e11, 1e10))
    words = ["--encoders", str(folder), "--data", "phantom:cases=20,images=2", "--images", "12"]
    (found,) = large.main([*words, "--image-size", str(SIZE)])
    printed = capsys.readouterr().out
    assert found.n_images == 12
    assert 5e7 < found.convert_memory.own < 4e9
    # At least the matrix products of the blocks: 12 width^2 weights for each of 17 tokens.
    assert found.operations > 2 * N_BLOCKS * 17 * 12 * WIDTH**2
    assert [each.precision for each in found.inferences] == (["f32", "bf16"] if supports_bf16() else ["f32"])
    for each in found.inferences:
        assert each.features.shape == (12, WIDTH)
        assert np.ptp(each.features, axis=0).min() > 0
        assert 5e7 < each.memory.own < 4e9
        assert large.cosines(found.inferences[0].features, each.features).min() > 0.999
    assert ("not supported here" in printed) is not supports_bf16()


def test_a_processor_without_bf16_is_named(large):
    memory = large.Memory(10**9, 10**9)
    only = large.Inference("f32", (2.0, 4.0), 1.0, memory, np.ones((8, 2), np.float32))
    text = large.tables([large.Measured("vit", 1e9, 8, 1.0, memory, [only])], 1e10, None)
    assert "in bfloat16, it is not supported here" in text
    assert "| vit | bf16 | | not supported here |" in text
    assert "| 4.00 | 2.00 | 20% |" in text
