"""The networks compute what the papers say, from files of every library, and are networks like all others."""

from __future__ import annotations

import cv2
import keras
import numpy as np
import pytest
from PIL import Image

from bhsearch.errors import BackboneError
from bhsearch.models.backbones.registry import find_backbones
from bhsearch.models.features import openvino_forward
from bhsearch.models.inference_model import ModelPool
from bhsearch.models.openvino import BackgroundConversion
from bhsearch.models.saliency import INPUT_GRADIENT, explain
from bhsearch.models.training.heads import Heads
from tests.models.backbones.encoders.tiny import GRID, PATCH, REGISTERS, SIDE, WIDTH, Tiny, changed, images_of
from tests.tasks.samples import BINARY

# Name -> the encoder, and how its files are written.
FILES = {
    "vit 5": (Tiny(), lambda tiny, to: tiny.write_transformers(to, "vit")),
    "vit 4": (Tiny(), lambda tiny, to: tiny.write_transformers(to, "vit", 4)),
    "vit 4 with a head": (Tiny(), lambda tiny, to: tiny.write_transformers(to, "vit", 4, "vit.")),
    "dinov2 5": (Tiny(scaled=True), lambda tiny, to: tiny.write_transformers(to, "dinov2")),
    "dinov2 4": (Tiny(scaled=True), lambda tiny, to: tiny.write_transformers(to, "dinov2", 4)),
    "dinov2 5 swiglu": (Tiny(gated=True, scaled=True), lambda tiny, to: tiny.write_transformers(to, "dinov2")),
    "dinov2 4 swiglu": (Tiny(gated=True, scaled=True), lambda tiny, to: tiny.write_transformers(to, "dinov2", 4)),
    "dinov2 registers": (
        Tiny(scaled=True, registers=REGISTERS),
        lambda tiny, to: tiny.write_transformers(to, "dinov2_with_registers", 4, "dinov2_with_registers."),
    ),
    "timm": (Tiny(), lambda tiny, to: tiny.write_timm(to)),
    "timm layer scale": (Tiny(scaled=True), lambda tiny, to: tiny.write_timm(to, init_values=1e-5)),
    "timm swiglu": (Tiny(gated=True), lambda tiny, to: tiny.write_timm(to)),
    "timm registers": (
        Tiny(registers=REGISTERS, embedded=1 + REGISTERS),
        lambda tiny, to: tiny.write_timm(to, reg_tokens=REGISTERS),
    ),
    "timm no_embed_class": (
        Tiny(registers=REGISTERS, embedded=0),
        lambda tiny, to: tiny.write_timm(to, reg_tokens=REGISTERS, no_embed_class=True),
    ),
}


def found(folder, pooling: str = ""):
    return find_backbones([f"{folder}@{pooling}" if pooling else str(folder)], None).backbones[0]


def features(backbone, images, size: int = SIDE):
    return np.asarray(backbone.build(size)(images.astype(np.float32), training=False))


@pytest.mark.parametrize("name", FILES)
def test_class_token_and_patches_are_those_of_the_paper(tmp_path, name):
    tiny, write = FILES[name]
    images = images_of()
    expected = tiny.features(images, 1e-6)
    folder = write(tiny, tmp_path / "tiny")
    both = features(found(folder, "cls+mean"), images)
    np.testing.assert_allclose(both, np.concatenate([expected["cls"], expected["mean"]], axis=1), atol=1e-5)
    np.testing.assert_allclose(features(found(folder), images), expected["cls"], atol=1e-5)  # the library's own


def test_an_encoder_of_patches_alone(tmp_path):
    tiny, images = Tiny(class_token=False, embedded=0), images_of()
    folder = tiny.write_timm(tmp_path / "gap", "avg")
    np.testing.assert_allclose(features(found(folder), images), tiny.features(images, 1e-6)["mean"], atol=1e-5)
    with pytest.raises(BackboneError, match="has no class token"):
        found(folder, "cls")


def test_no_pooling_of_timm_is_both(tmp_path):
    tiny, images = Tiny(), images_of()
    expected = tiny.features(images, 1e-6)
    folder = tiny.write_timm(tmp_path / "tiny", "")
    both = np.concatenate([expected["cls"], expected["mean"]], axis=1)
    np.testing.assert_allclose(features(found(folder), images), both, atol=1e-5)


def test_a_norm_after_pooling_is_applied_to_the_mean(tmp_path):
    """timm's `fc_norm`: the mean of the tokens is normalised, not each token."""
    tiny, images = Tiny(), images_of()
    mean = features(found(tiny.write_timm(tmp_path / "pooled", "avg", norm="fc_norm")), images)
    for row in (mean - tiny.tensors["norm.bias"]) / tiny.tensors["norm.weight"]:
        assert row.mean() == pytest.approx(0, abs=1e-5)
        assert row.std() == pytest.approx(1, abs=1e-4)
    tokenwise = features(found(tiny.write_timm(tmp_path / "tokens", "avg")), images)
    assert np.abs(mean - tokenwise).max() > 1e-2


@pytest.mark.parametrize("library", ["transformers", "timm"])
def test_another_size_is_that_of_an_encoder_with_resampled_positions(tmp_path, library):
    """transformers resamples like OpenCV, timm like Pillow."""
    side, images = 6, images_of(2, 6 * PATCH)
    small, large = Tiny(), Tiny()
    grid = small.tensors["positions"][0, 1:].reshape(GRID, GRID, WIDTH)
    if library == "timm":
        planes = [Image.fromarray(grid[..., k]).resize((side, side), Image.Resampling.BICUBIC) for k in range(WIDTH)]
        larger = np.stack(planes, axis=-1)
    else:
        larger = np.stack(
            [cv2.resize(grid[..., k], (side, side), interpolation=cv2.INTER_CUBIC) for k in range(WIDTH)], axis=-1
        )
    own = small.tensors["positions"][:, :1]
    large.tensors["positions"] = np.concatenate([own, larger.reshape(1, side**2, WIDTH)], axis=1)
    folders = []
    for name, tiny, pixels in (("small", small, SIDE), ("large", large, side * PATCH)):
        if library == "timm":
            folders.append(tiny.write_timm(tmp_path / name, img_size=pixels))
        else:
            folders.append(tiny.write_transformers(tmp_path / name, "vit"))
            changed(folders[-1], image_size=pixels)
    one, other = (features(found(folder, "cls+mean"), images, side * PATCH) for folder in folders)
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_size_that_is_no_multiple_of_the_patch_is_refused(tmp_path):
    backbone = found(Tiny().write_transformers(tmp_path / "tiny", "vit"))
    with pytest.raises(BackboneError, match=r"multiple of its patches of 8 pixels.*--image-size 32 or 40"):
        backbone.build(35)


def test_openvino_gives_the_same_features(tmp_path):
    images = images_of(5)
    seen = images.astype(np.float32)
    files = {name: FILES[name] for name in ("dinov2 registers", "timm swiglu")}
    backbones = [found(write(tiny, tmp_path / name), "cls+mean") for name, (tiny, write) in files.items()]
    conversion = BackgroundConversion(backbones, SIDE)
    for backbone in backbones:
        program = conversion.program(backbone)
        assert program is not None, backbone.name
        expected = features(backbone, images)
        found_there = openvino_forward(program)([seen[:2], seen[2:]])
        np.testing.assert_allclose(found_there, expected, atol=1e-5, err_msg=backbone.name)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_deployed_model_is_explained_and_loads_without_bhsearch(tmp_path, elsewhere, pooling):
    backbone = found(Tiny().write_transformers(tmp_path / "tiny", "vit"), pooling)
    random = np.random.default_rng(0)
    arrays = [random.normal(0, 0.5, shape).astype(np.float32) for shape in ((WIDTH, 2, 1), (2, 1), (2, 1), (2,))]
    network = ModelPool(BINARY.link).get(backbone, "squash", SIDE, ("identity",), Heads(*arrays, True))
    images = images_of(3, SIDE + 9)
    expected = np.asarray(network(images, training=False))
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(elsewhere.predict(network, images), expected, atol=1e-6)
    (map_,) = explain(network, images[:1], "squash")
    assert map_.method == INPUT_GRADIENT
    assert map_.heat.shape == (SIDE, SIDE)
    assert map_.heat.max() == 1.0


def test_all_layers_are_of_keras(tmp_path):
    network = found(FILES["dinov2 registers"][1](FILES["dinov2 registers"][0], tmp_path / "tiny")).build(SIDE)
    assert {type(layer).__module__.partition(".")[0] for layer in network.layers} == {"keras"}
    assert not network.trainable_variables
    assert keras.Model.from_config(network.get_config()).output_shape == network.output_shape
