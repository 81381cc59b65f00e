"""The contract of kinds of backbones, over every one that is installed and whose weights are available."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from bhsearch.errors import BackboneError
from bhsearch.models.backbones.base import KINDS
from bhsearch.models.backbones.registry import find_backbones, is_from_scratch, kind_of

SIZE = 48


def available():
    """A backbone of each kind whose weights need no search: its first name, or the kind's own where it has no list."""
    for name in KINDS:
        kind = KINDS.get(name)
        if not kind.needs_weights or name not in KINDS.built_in:
            yield (kind.names() or (name,))[0]


@pytest.fixture(params=available())
def found(request):
    trainable = is_from_scratch(request.param)
    (backbone,) = find_backbones([request.param], None, trainable=trainable).backbones
    return backbone


def test_a_backbone_is_found_again_by_its_name(found):
    kind = KINDS.get(found.kind)
    assert kind_of(found.name) == found.kind
    assert kind.find(found.name, None) == found
    assert found.digest
    assert pickle.loads(pickle.dumps(found)) == found


def test_the_network_takes_images_and_gives_one_finite_vector_each(found):
    network = found.build(SIZE)
    images = np.random.default_rng(0).uniform(0, 255, (3, SIZE, SIZE, 3)).astype(np.float32)
    features = np.asarray(network(images, training=False))
    assert features.ndim == 2
    assert len(features) == 3
    assert features.shape[1] <= found.most_features
    assert np.isfinite(features).all()
    alone = np.asarray(network(images[:1], training=False))
    np.testing.assert_allclose(alone, features[:1], rtol=1e-4, atol=1e-4)  # no image depends on another


def test_a_backbone_is_described_as_it_is_built(found):
    told, network = found.describe(SIZE), found.build(SIZE)
    assert (told.n_parameters, told.n_features) == (network.count_params(), network.output_shape[-1])
    assert told.sizes
    assert told.preprocessing


def test_two_builds_are_the_same_network(found):
    images = np.random.default_rng(1).uniform(0, 255, (2, SIZE, SIZE, 3)).astype(np.float32)
    networks = [found.build(SIZE) for _ in range(2)]
    weights = [found.initial_weights(network, np.random.default_rng(2)) for network in networks]
    for network, values in zip(networks, weights, strict=True):
        assert [value.shape for value in values] == [tuple(weight.shape) for weight in network.weights]
        network.set_weights(values)
    first, second = (np.asarray(network(images, training=False)) for network in networks)
    np.testing.assert_array_equal(first, second)


def test_sizes_are_stated(found):
    assert found.size_mb >= 0
    assert 0 <= found.model_mb <= max(found.size_mb, 0.05)


def test_what_is_known_without_building_is_stated(found):
    found.check_size(SIZE)
    assert found.licence
    assert KINDS.get(found.kind).title
    assert KINDS.get(found.kind).name_of(found.name) == found.name


def test_a_kind_is_used_only_where_it_can_be(found):
    kind = KINDS.get(found.kind)
    if kind.from_scratch:
        with pytest.raises(BackboneError, match="is trained from scratch"):
            find_backbones([found.name], None, trainable=False)
    if not kind.trainable:
        with pytest.raises(BackboneError, match="cannot be fine-tuned"):
            find_backbones([found.name], None, trainable=True)


@pytest.mark.parametrize("name", KINDS.built_in)
def test_a_built_in_kind_claims_its_names_and_no_others(name):
    kind = KINDS.get(name)
    assert all(kind.claims(each) and kind_of(each) == name for each in kind.names())
    assert not kind.claims("nosuch")
