"""The parts of features on a few images; `experiments/benchmarks/feature-speed.md` has three encoders on real ones."""

from __future__ import annotations

import json

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from tests.experiments.test_experiments import load

SMALL = ["--data", "phantom:cases=20,images=2", "--backbones", "staintex-s", "--image-size", "48", "--images", "12"]


@pytest.fixture(scope="module")
def speed():
    return load("feature_speed")


def test_every_part_is_measured_by_wall_clock_and_processors(speed, capsys):
    speed.main([*SMALL, "--measure"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["n_images"] == 12
    assert {"decode", "resize", "view stain1", "staintex-s, features of identity"} <= set(found["seconds"])
    assert all(wall > 0 and processors >= 0 for wall, processors in found["seconds"].values())
    operations, n_bytes = found["work"]["staintex-s"]
    # Two stains at half of 48 px, and the 15-pixel filters at every second pixel of what they fit into: 5 x 5 places.
    assert operations >= 2 * 2 * 5**2 * 12 * 15**2
    assert n_bytes >= 8 * 48**2 * 3


@pytest.mark.slow
def test_a_version_is_measured_in_a_process_of_its_own_with_an_empty_cache(speed, capsys):
    rounds = speed.main([*SMALL, "--rounds", "1", "--before", str(speed.ROOT)])
    assert {side: len(found) for side, found in rounds.items()} == {speed.BEFORE: 1, speed.AFTER: 1}
    for [parts] in rounds.values():
        assert parts.seconds["convert 1 networks"][0] > 0.1, "nothing may be cached"
    printed = capsys.readouterr().out
    assert "ratio, processors" in printed
    assert "share of the peak" in printed


def test_ratios_are_of_the_same_round(speed):
    """A ratio of medians would hide that the machine was slower in one of the rounds."""
    rounds = {
        side: [speed.Parts({"decode": pair}, 1) for pair in pairs]
        for side, pairs in {speed.BEFORE: [(2.0, 1.0), (8.0, 4.0)], speed.AFTER: [(1.0, 1.0), (2.0, 2.0)]}.items()
    }
    assert speed.ratios(rounds, "decode", 0) == [2.0, 4.0]
    assert speed.ratios(rounds, "decode", 1) == [1.0, 2.0]
    assert "| 3.00 | 1.50 |" in speed.parts_table(rounds)


def test_operations_are_counted_for_one_image(speed, tmp_path):
    x = ops.parameter(openvino.PartialShape([-1, 8, 8, 3]), np.float32)
    first = ops.transpose(x, ops.constant(np.array([0, 3, 1, 2])))
    kernel = ops.constant(np.ones((4, 3, 3, 3), np.float32))
    maps = ops.convolution(first, kernel, [1, 1], [1, 1], [1, 1], [1, 1])
    depthwise = ops.constant(np.ones((4, 1, 1, 3, 3), np.float32))
    grouped = ops.group_convolution(maps, depthwise, [2, 2], [1, 1], [1, 1], [1, 1])
    features = ops.matmul(
        ops.reduce_mean(grouped, np.array([2, 3])), ops.constant(np.ones((4, 5), np.float32)), False, False
    )
    openvino.save_model(openvino.Model([features], [x]), tmp_path / "model.xml")
    operations, n_bytes = speed.work_of(tmp_path / "model.xml")
    assert operations == 2 * (8 * 8 * 4 * 27 + 4 * 4 * 4 * 9 + 5 * 4)
    assert n_bytes == 8 * (8 * 8 * 3 + 8 * 8 * 4 + 4 * 4 * 4 + 5)
