from __future__ import annotations

import errno
import resource

import numpy as np
import pytest

from bhsearch.errors import BackboneError
from bhsearch.models import features as module
from bhsearch.models.augmentation.cached_views import apply_view
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.backbones.keras_applications import REGISTRY
from bhsearch.models.backbones.registry import find_backbones
from bhsearch.models.features import FeatureCache
from bhsearch.models.openvino import BackgroundConversion
from bhsearch.runtime import cache as runtime_cache
from tests.models.conftest import pixels_of, tissue
from tests.studies import cache_of

CPU_EXECUTORS = ("openvino", "keras")


@pytest.fixture(scope="module")
def images():
    return tissue(12, 64)


@pytest.fixture(scope="module", autouse=True)
def _converted(mobilenet, staintex_s, tmp_path_factory):
    """One process converts both backbones of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BHSEARCH_CACHE", cache_of(tmp_path_factory))
        BackgroundConversion([mobilenet, staintex_s], 64).program(mobilenet)


def kept():
    return [entry for entry in runtime_cache.entries() if entry.kind == "features"]


class Watched:
    """A feature cache, and what it computed."""

    def __init__(self, pixels, feature_backend="openvino"):
        self.computed = []
        self.reports = []
        self._cache = FeatureCache(pixels, feature_backend, progress=self._progress)

    def _progress(self, backbone, view):
        self.computed.append((backbone, view))
        return lambda done, total: self.reports.append((done, total))

    def get(self, backbone, view):
        return self._cache.get(backbone, view)


@pytest.mark.parametrize("name", ["mobilenet", "staintex_s"])
def test_both_feature_backends_give_the_same_features(name, images, tmp_path, request):
    backbone = request.getfixturevalue(name)
    pixels = pixels_of(images, tmp_path)
    one, other = (FeatureCache(pixels, feature_backend).get(backbone, "stain1") for feature_backend in CPU_EXECUTORS)
    assert one.dtype == other.dtype == np.float32
    assert one.std(axis=0).max() > 0
    cosine = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert cosine.min() > 0.99999
    np.testing.assert_allclose(one, other, atol=1e-3 * np.abs(other).max())


@pytest.mark.parametrize("feature_backend", CPU_EXECUTORS)
def test_the_cost_of_a_backbone_is_measured_once_and_kept(feature_backend, images, mobilenet, tmp_path):
    pixels = pixels_of(images, tmp_path)
    first = FeatureCache(pixels, feature_backend).cost(mobilenet)
    assert first.milliseconds > 0
    # The converted network folds its normalisation into its kernels: it is a little smaller.
    assert first.megabytes == pytest.approx(4e-6 * mobilenet.build(64).count_params(), rel=0.06)
    again = FeatureCache(pixels, feature_backend)
    assert again.cost(mobilenet) == first
    assert not again._forward, "what is known must not build the network"


@pytest.mark.parametrize("feature_backend", CPU_EXECUTORS)
def test_the_speed_of_a_backbone_is_measured_once_and_without_computing_features(
    feature_backend, images, staintex_s, tmp_path
):
    pixels = pixels_of(images, tmp_path)
    first = FeatureCache(pixels, feature_backend).seconds_per_view(staintex_s)
    assert first > 0
    assert not FeatureCache(pixels, feature_backend).is_cached(staintex_s, module.IDENTITY)
    again = FeatureCache(pixels, feature_backend)
    assert again.seconds_per_view(staintex_s) == first
    assert not again._forward, "what is known must not build the network"
    (tmp_path / "more").mkdir()
    more = pixels_of(np.concatenate([images, images]), tmp_path / "more")
    assert FeatureCache(more, feature_backend).seconds_per_view(staintex_s) == pytest.approx(2 * first)


def test_a_view_is_cached_once_it_was_computed(images, staintex_s, tmp_path):
    features = FeatureCache(pixels_of(images, tmp_path), "keras")
    assert not features.is_cached(staintex_s, "stain1")
    features.get(staintex_s, "stain1")
    assert features.is_cached(staintex_s, "stain1")
    assert not features.is_cached(staintex_s, "stain2")


def test_auto_is_one_of_the_feature_backends(images, tmp_path):
    assert FeatureCache(pixels_of(images, tmp_path), "auto").feature_backend in CPU_EXECUTORS


@pytest.mark.parametrize("feature_backend", CPU_EXECUTORS)
def test_features_are_those_of_the_view_row_by_row(feature_backend, images, staintex_s, tmp_path):
    # In more than one batch, and the last one not full.
    many = np.concatenate([images, images[::-1], tissue(57, 64, seed=1)])
    assert len(many) % module.batch_size(64) != 0
    assert len(many) > module.batch_size(64)
    features = FeatureCache(pixels_of(many, tmp_path), feature_backend).get(staintex_s, "dihedral1")
    expected = staintex_s.build(64).predict(np.asarray(apply_view(many.astype(np.float32), "dihedral1")), verbose=0)
    assert features.shape == expected.shape
    np.testing.assert_allclose(features, expected, atol=2e-3)


def test_the_features_of_tiles_are_averaged(images, staintex_s, tmp_path):
    one_by_one = FeatureCache(pixels_of(images, tmp_path)).get(staintex_s, "stain2")
    in_tiles = FeatureCache(pixels_of(images, tmp_path, n_tiles=6)).get(staintex_s, "stain2")
    assert in_tiles.shape == (2, one_by_one.shape[1])
    np.testing.assert_allclose(in_tiles, one_by_one.reshape(2, 6, -1).mean(axis=1), atol=1e-4)


@pytest.mark.parametrize("feature_backend", CPU_EXECUTORS)
def test_the_features_of_a_row_do_not_depend_on_other_rows(feature_backend, images, staintex_s, mobilenet, tmp_path):
    # Bit for bit: otherwise the pixels of a validation row could reach a training row.
    others = images.copy()
    others[::2] = np.random.default_rng(0).integers(0, 256, others[::2].shape)
    caches = [FeatureCache(pixels_of(each, tmp_path), feature_backend) for each in (images, others)]
    for backbone, view in ((staintex_s, "identity"), (staintex_s, "colour1"), (mobilenet, "identity")):
        one, other = (cache.get(backbone, view) for cache in caches)
        np.testing.assert_array_equal(one[1::2], other[1::2])
        assert (one[::2] != other[::2]).any(axis=1).all()


def test_there_is_one_row_per_image_and_no_other(images, staintex_s, tmp_path):
    # The pixel cache holds development rows only: what it does not hold cannot be computed.
    for n_images in (1, 5):
        assert len(FeatureCache(pixels_of(images[:n_images], tmp_path)).get(staintex_s, "identity")) == n_images


def test_each_view_of_each_backbone_is_computed_once_ever(images, staintex_s, mobilenet, tmp_path):
    pixels = pixels_of(images, tmp_path)
    asked = [(backbone, view) for backbone in (staintex_s, mobilenet) for view in ("identity", "zoom1")]
    first, second = Watched(pixels), Watched(pixels)
    before = [first.get(*each) for each in asked * 2]
    after = [second.get(*each) for each in asked]
    assert first.computed == [(backbone.name, view) for backbone, view in asked]
    assert second.computed == []
    for one, other in zip(before, after * 2, strict=True):
        np.testing.assert_array_equal(one, other)


def test_progress_counts_images_up_to_all_of_them(images, staintex_s, tmp_path):
    cache = Watched(pixels_of(images, tmp_path, n_tiles=6))
    cache.get(staintex_s, "identity")
    done = [done for done, _ in cache.reports]
    assert {total for _, total in cache.reports} == {2}
    assert done == sorted(done)
    assert done[-1] == 2


def test_other_pixels_weights_or_feature_backends_are_computed_anew(images, staintex_s, tmp_path):
    asked = [
        (pixels_of(images, tmp_path), "keras", staintex_s),
        (pixels_of(images[::-1].copy(), tmp_path), "keras", staintex_s),
        (pixels_of(images, tmp_path), "openvino", staintex_s),
        (pixels_of(images, tmp_path), "keras", Backbone("staintex-s", None, "other-filters", "staintex")),
    ]
    for pixels, feature_backend, backbone in asked:
        cache = Watched(pixels, feature_backend)
        cache.get(backbone, "identity")
        assert len(cache.computed) == 1


def test_a_damaged_entry_is_computed_again(images, staintex_s, tmp_path):
    pixels = pixels_of(images, tmp_path)
    right = FeatureCache(pixels).get(staintex_s, "identity").copy()
    [entry] = kept()
    file = runtime_cache.cache_root() / entry.kind / entry.key / "features.npy"
    content = bytearray(file.read_bytes())
    content[-50] ^= 0xFF
    file.write_bytes(content)
    cache = Watched(pixels)
    np.testing.assert_array_equal(cache.get(staintex_s, "identity"), right)
    assert len(cache.computed) == 1


def test_features_that_cannot_be_written_whole_leave_nothing_and_say_why(images, staintex_s, tmp_path):
    # A limit on the size of files stands for the full disk, which the tests cannot have everywhere: what counts is that
    # the error keeps its number, by which a full disk is known. `np.save` straight into a file loses it.
    cache = FeatureCache(pixels_of(images, tmp_path))
    cache.load(staintex_s)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            cache.get(staintex_s, "identity")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert kept() == []
    assert len(cache.get(staintex_s, "identity")) == len(images)


def test_weights_that_do_not_fit_show_before_anything_is_computed(images, random_weights, tmp_path):
    file = tmp_path / REGISTRY["mobilenet-0.5"].weights_file
    file.write_bytes((random_weights / REGISTRY["mobilenet-0.25"].weights_file).read_bytes())
    cache = FeatureCache(pixels_of(images, tmp_path), "keras")
    with pytest.raises(BackboneError, match=r"mobilenet-0\.5"):
        cache.load(find_backbones(["mobilenet-0.5"], tmp_path).backbones[0])
    assert kept() == []


def test_batches_hold_about_as_many_pixels_whatever_their_size():
    sizes = [32, 64, 96, 128, 224, 512, 1024]
    batches = [module.batch_size(size) for size in sizes]
    assert min(batches) == 1
    assert max(batch * size**2 for batch, size in zip(batches, sizes, strict=True)) <= 1024**2
