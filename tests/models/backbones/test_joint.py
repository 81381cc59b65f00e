"""A joint backbone is its members side by side: as a network, in cost, licence, record and cached features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bhsearch.errors import BackboneError
from bhsearch.models import backend
from bhsearch.models.backbones.base import KINDS, Backbone
from bhsearch.models.backbones.joint import with_joined
from bhsearch.models.backbones.registry import find_backbones

SIZE = 32


@pytest.fixture(scope="module")
def singles() -> dict[str, Backbone]:
    backend.import_backend()
    return {backbone.name: backbone for backbone in find_backbones(("staintex-s", "staintex-l"), None).backbones}


@pytest.fixture(scope="module")
def joint(singles) -> Backbone:
    return with_joined(singles, {"joint-1": ["staintex-l", "staintex-s"]})["joint-1"]


def test_the_features_are_those_of_the_members_side_by_side(singles, joint):
    images = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.float32)
    apart = [singles[name].build(SIZE).predict(images, verbose=0) for name in ("staintex-l", "staintex-s")]
    network = joint.build(SIZE)
    np.testing.assert_allclose(network.predict(images, verbose=0), np.hstack(apart), rtol=1e-5, atol=1e-6)
    assert joint.describe(SIZE).n_features == network.output_shape[-1]
    assert joint.describe(SIZE).n_parameters == network.count_params()


def test_two_networks_with_the_same_layer_names_fit_into_one(singles):
    twice = Backbone.join("joint-1", [singles["staintex-s"], singles["staintex-s"]])
    assert twice.build(SIZE).output_shape[-1] == 2 * singles["staintex-s"].build(SIZE).output_shape[-1]


def test_sizes_are_sums(singles, joint):
    for size in ("size_mb", "model_mb", "most_features"):
        assert getattr(joint, size) == pytest.approx(sum(getattr(single, size) for single in singles.values()))


def test_a_record_restores_members(joint):
    assert Backbone.from_record(joint.to_record()) == joint


def test_members_their_weights_and_their_order_are_its_identity(singles, joint):
    small, large = singles["staintex-s"], singles["staintex-l"]
    others = [(small, large), (large, replace(small, digest="other"))]
    digests = {joint.digest, *(Backbone.join("joint-1", other).digest for other in others)}
    assert len(digests) == 3


def test_only_keras_networks_can_be_joined(singles):
    file = Backbone("file", Path("file.onnx"), "digest", "onnx-file")
    for members in ([singles["staintex-s"], file], [singles["staintex-s"]]):
        with pytest.raises(BackboneError, match="must join two or more Keras networks"):
            Backbone.join("joint-1", members)


def test_nobody_can_name_one():
    assert KINDS.get("joint").find_all(None).backbones == ()
    with pytest.raises(BackboneError, match="must be one of"):
        find_backbones(("joint-1",), None)
