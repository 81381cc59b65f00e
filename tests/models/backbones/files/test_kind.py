"""Encoders in files: features of each format, names and digests, and a sentence for a file that cannot be used."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bhsearch.run
from bhsearch.errors import BackboneError
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.backbones.registry import find_backbones, name_of
from bhsearch.models.openvino import BackgroundConversion, convert
from bhsearch.models.openvino_program import openvino_forward
from tests.conftest import SHARED
from tests.models.backbones.files.small import (
    DEVIATION,
    MEAN,
    SIZE,
    WIDTH,
    features_of,
    images_of,
    state,
    write_onnx,
    write_openvino,
    write_saved_model,
)
from tests.studies import command_here


def found(file) -> Backbone:
    return find_backbones([str(file)], None).backbones[0]


def encoded(backbone: Backbone, images: np.ndarray, size: int = SIZE, here: bool = True) -> np.ndarray:
    """Features by the converted file. Files need no Keras: they can be converted in this process, too."""
    if here:
        convert(backbone, size)
    program = BackgroundConversion([backbone], size).program(backbone)
    assert program is not None
    return openvino_forward(program)([images.astype(np.float32)])


# -- features ----------------------------------------------------------------------------------------------------------


def channels_last(folder):
    return write_onnx(folder, shape=("batch", SIZE, SIZE, 3))


def any_size(folder):
    return state(write_onnx(folder, shape=("batch", 3, "height", "width")), size=SIZE)


def one_image(folder):
    """Exported for one image, without an operation that depends on it."""
    return write_onnx(folder, shape=(1, 3, SIZE, SIZE))


def half(folder):
    """Weights, input and output in half precision."""

    def change(model):
        for weight in model.graph.initializer:
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), weight.name))
        for port in (*model.graph.input, *model.graph.output):
            port.type.tensor_type.elem_type = TensorProto.FLOAT16

    return write_onnx(folder, change)


@pytest.mark.parametrize(
    ("write", "tolerance"),
    [
        (write_onnx, 1e-5),
        (channels_last, 1e-5),
        (any_size, 1e-5),
        (one_image, 1e-5),
        (half, 1e-2),
        (write_openvino, 1e-5),
        (write_saved_model, 1e-5),
    ],
)
def test_features_are_those_of_the_encoder(write, tolerance, tmp_path):
    backbone = found(write(tmp_path / "encoder"))
    images = images_of()
    np.testing.assert_allclose(encoded(backbone, images), features_of(images), rtol=0, atol=tolerance)
    description = backbone.describe(SIZE)
    assert description.n_features == WIDTH == backbone.most_features
    assert description.n_parameters == pytest.approx(3 * 8 * 8 * WIDTH + WIDTH, abs=20)
    assert description.sizes == f"{SIZE} px"


def test_the_scale_is_that_of_mean_and_deviation(tmp_path):
    file = write_onnx(tmp_path)
    state(file, mean=[255 * m for m in MEAN], std=[255 * d for d in DEVIATION], scale=1)
    np.testing.assert_allclose(encoded(found(file), images_of()), features_of(images_of()), rtol=0, atol=1e-5)


@pytest.mark.data
def test_a_published_encoder_has_the_features_of_its_library():
    folder = SHARED / "data" / "encoders" / "onnx"
    if not folder.is_dir():
        pytest.skip("the real test material is not here: ../shared/data/encoders/onnx")
    with np.load(folder / "reference.npz") as arrays:
        images, expected = arrays["images_64"], arrays["cls_64"]
    features = encoded(found(folder / "encoder.onnx"), images, 64, here=False)
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-4)


# -- names and digests -------------------------------------------------------------------------------------------------


def test_a_backbone_has_the_name_of_its_file_or_folder(tmp_path):
    assert found(write_onnx(tmp_path, name="uni.v2")).name == "uni.v2" == name_of("folder/uni.v2.onnx")
    assert found(write_openvino(tmp_path)).name == "small"
    assert found(write_saved_model(tmp_path / "saved")).name == "saved"


@pytest.mark.parametrize("write", [write_onnx, write_openvino, write_saved_model])
def test_the_digest_is_that_of_weights_and_preprocessing(write, tmp_path):
    file = write(tmp_path / "encoder")
    before = found(file).digest
    state(file, licence="mit", size=SIZE)
    assert found(file).digest == before
    state(file, mean=0.5)
    other_mean = found(file).digest
    state(file)
    weights = {".onnx": file, ".xml": file.with_suffix(".bin")}.get(file.suffix)
    if weights is None:
        weights = file / "variables" / "variables.data-00000-of-00001"
    content = weights.read_bytes()
    at = content.find(np.float32(features_weight()).tobytes())
    assert at > 0
    weights.write_bytes(content[:at] + np.float32(0.125).tobytes() + content[at + 4 :])
    if file.is_dir():  # TensorFlow checks the sums of its weights
        return
    assert len({before, other_mean, found(file).digest}) == 3


def features_weight() -> float:
    from tests.models.backbones.files.small import KERNEL

    return float(KERNEL[3, 1, 2, 5])


def test_weights_beside_an_onnx_file_belong_to_it(tmp_path):
    file = write_onnx(tmp_path)
    before = found(file).digest
    onnx.save_model(onnx.load(file), file, save_as_external_data=True, location="weights.bin", size_threshold=0)
    external = found(file)
    np.testing.assert_allclose(encoded(external, images_of()), features_of(images_of()), rtol=0, atol=1e-5)
    content = bytearray((tmp_path / "weights.bin").read_bytes())
    content[0:4] = np.float32(0.5).tobytes()
    (tmp_path / "weights.bin").write_bytes(content)
    assert len({before, external.digest, found(file).digest}) == 3
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(BackboneError, match=r"there is no file .*weights.bin"):
        found(file)


def test_a_file_that_changes_during_a_study_is_not_used(tmp_path):
    file = write_onnx(tmp_path)
    backbone = found(file)
    state(file, mean=0.5)
    with pytest.raises(BackboneError, match="have changed since the study began"):
        backbone.program(SIZE)


def test_the_licence_is_stated_beside_the_file(tmp_path):
    file = write_onnx(tmp_path)
    assert found(file).licence == "unknown"
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    other = found(write_onnx(tmp_path, name="other", change=lambda model: setattr(model, "doc_string", "other")))
    assert other.licence == "mit"
    stated = found(state(write_onnx(tmp_path / "stated"), license="cc-by-nc-4.0", std=0.3))
    assert stated.licence == "cc-by-nc-4.0"


def test_a_folder_may_have_the_preprocessing_of_several_files(tmp_path):
    first, second = write_onnx(tmp_path, name="first"), write_onnx(tmp_path, name="second")
    state(first, mean=0.5).parent.joinpath("preprocessing.json").rename(tmp_path / "second.preprocessing.json")
    state(first)
    np.testing.assert_allclose(encoded(found(first), images_of()), features_of(images_of()), rtol=0, atol=1e-5)
    assert np.abs(encoded(found(second), images_of()) - features_of(images_of())).max() > 0.01


# -- refused -----------------------------------------------------------------------------------------------------------


def two_inputs(model):
    model.graph.input.append(helper.make_tensor_value_info("text", TensorProto.INT64, ("batch", 77)))
    model.graph.node.append(helper.make_node("Cast", ["text"], ["words"], to=TensorProto.FLOAT))
    model.graph.output.append(helper.make_tensor_value_info("words", TensorProto.FLOAT, None))


def two_outputs(model):
    model.graph.output.append(helper.make_tensor_value_info("products", TensorProto.FLOAT, None))


def with_nan(model):
    values = np.array([0, 0, np.nan, 0, 0, 0], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(values, "shift"))
    _after(model, helper.make_node("Add", ["features", "shift"], ["last"]))


def constant(model):
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(model.graph.initializer[0])), "kernel")
    )


def _after(model, *nodes):
    """Replace the result by that of some nodes, which begin with `features` and end with `last`."""
    model.graph.node.extend(nodes)
    model.graph.output[0].name = "last"


def mixes_images(model):
    """Like a batch normalisation that is still training."""
    _after(
        model,
        helper.make_node("ReduceMean", ["features"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["features", "mean"], ["last"]),
    )


def fixed_batch(model):
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, WIDTH]), "sides"))
    _after(model, helper.make_node("Reshape", ["features", "sides"], ["last"]))


def grey(model):
    model.graph.node.insert(0, helper.make_node("Concat", ["pixels"] * 3, ["colours"], axis=1))
    model.graph.node[1].input[0] = "colours"


def integers(model):
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    model.graph.node.insert(0, helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT))
    model.graph.node[1].input[0] = "floats"


@pytest.mark.parametrize(
    ("options", "stated", "sentence"),
    [
        ({"change": two_inputs}, {}, r"must have one input, .* has 2: pixels, text"),
        ({"change": two_outputs}, {}, r"has 2 outputs: features, products. Name the one"),
        ({"change": with_nan}, {}, r"contain NaN or infinite values"),
        ({"change": constant}, {}, r"the same features for different images"),
        ({"change": mixes_images}, {}, r"depend on the other images of its batch"),
        ({"change": fixed_batch}, {}, r"dynamic batch axis"),
        ({"change": integers}, {}, r"must be float32 or float16, but is u8"),
        ({"shape": ("batch", 1, SIZE, SIZE)}, {}, r"OpenVINO cannot read .* (?!Model)\S"),
        ({"pooled": False}, {}, r"must be one vector per image, .* has \(\?, 6, 4, 4\)"),
        ({"opset": 11}, {}, r"has ONNX opset 11, but 13 or newer"),
        ({"shape": ("batch", 3, "height", "width")}, {}, r"takes images of any size, shape \(\?, 3, \?, \?\)"),
        ({"shape": ("batch", "channels", "height", "width")}, {"size": SIZE}, r"layout .* cannot be told"),
        ({"shape": ("batch", SIZE, SIZE, 3)}, {"layout": "NCHW"}, r'which is NHWC. Write "layout": "NHWC"'),
        ({}, {"layout": "NHWC"}, r'which is NCHW. Write "layout": "NCHW"'),
        ({}, {"size": 64}, r"states images of 64 pixels, but the input .* \(\?, 3, 32, 32\)"),
        ({"shape": ("batch", 1, SIZE, SIZE), "change": grey}, {}, r"must take RGB images"),
        ({"shape": ("batch", 3, SIZE, 2 * SIZE)}, {}, r"must take square images"),
        ({}, {"output": "pooled"}, r"states the output 'pooled', but .* has the outputs features"),
        ({}, {"mean": None}, r"has no key 'mean'"),
        ({}, {"std": None}, r"has no key 'std'"),
        ({}, {"std": [0.2, 0, 0.2]}, r"`std` must be above 0"),
        ({}, {"mean": [0.1, 0.2]}, r"'mean' must be a number or three numbers"),
        ({}, {"mean": "grey"}, r"'mean' must be a number or three numbers"),
        ({}, {"layout": "HWC"}, r"`layout` must be NCHW or NHWC, but is 'HWC'"),
        ({}, {"size": [3, 32, 64]}, r"'size' must be the side of square images"),
        ({}, {"image_mean": 0.5}, r"has the unknown key 'image_mean'"),
        ({}, {"scale": 0}, r"`scale` must be above 0"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_a_sentence(options, stated, sentence, tmp_path):
    file = state(write_onnx(tmp_path, **options), **stated)
    with pytest.raises(BackboneError, match=sentence) as error:
        found(file)
    assert "\n" not in str(error.value)


def test_a_study_with_such_a_file_does_not_begin(here, tmp_path):
    file = write_onnx(tmp_path, two_inputs)
    done = command_here(bhsearch.run, "--data", "phantom:cases=24,images=1", "--backbones", str(file), "--trials", "1")
    assert done.returncode == 2
    assert "error: An encoder must have one input" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_of_several_outputs_can_be_named(tmp_path):
    file = state(write_onnx(tmp_path, two_outputs), output="features")
    np.testing.assert_allclose(encoded(found(file), images_of()), features_of(images_of()), rtol=0, atol=1e-5)


def test_a_missing_or_damaged_file_is_named(tmp_path):
    file = write_openvino(tmp_path)
    with pytest.raises(BackboneError, match="There is no file"):
        found(tmp_path / "other.onnx")
    file.with_suffix(".bin").unlink()
    with pytest.raises(BackboneError, match=r"there is no file .*small.bin"):
        found(file)
    (tmp_path / "small.xml").write_text("<net>")
    (tmp_path / "small.bin").write_bytes(b"")
    with pytest.raises(BackboneError, match="OpenVINO cannot read"):
        found(file)
    (tmp_path / "small.onnx").write_bytes(b"no ONNX")
    with pytest.raises(BackboneError, match="is no ONNX file, or is damaged"):
        found(tmp_path / "small.onnx")


@pytest.mark.parametrize("content", ["{", "[1]", "\ud800".encode("utf-16", "surrogatepass").decode("latin-1")])
def test_a_damaged_preprocessing_file_is_refused(content, tmp_path):
    file = write_onnx(tmp_path)
    (tmp_path / "preprocessing.json").write_text(content, encoding="utf-8")
    with pytest.raises(BackboneError, match=r"preprocessing.json (is no valid JSON|must contain a JSON object)"):
        found(file)


def test_a_missing_preprocessing_file_is_explained(tmp_path):
    file = write_onnx(tmp_path)
    (tmp_path / "preprocessing.json").unlink()
    with pytest.raises(BackboneError, match=r'there is no file .*preprocessing.json. Create it .*"mean"'):
        found(file)


def test_other_sizes_and_training_are_refused(tmp_path):
    file = write_onnx(tmp_path)
    with pytest.raises(BackboneError, match=r"requires images of 32 pixels, but --image-size is 224"):
        found(file).check_size(224)
    with pytest.raises(BackboneError, match=r"can be run, but not trained. Leave it out, or use --regime frozen"):
        find_backbones([str(file)], None, trainable=True)


def test_the_extra_is_named_where_it_is_missing(tmp_path):
    """In a process in which the package cannot be found."""
    file = write_onnx(tmp_path)
    code = (
        "import importlib.util, sys; find = importlib.util.find_spec;"
        "importlib.util.find_spec = lambda name, *more: None if name == 'onnx' else find(name, *more);"
        "from bhsearch.models.backbones.registry import find_backbones;"
        f"find_backbones([{json.dumps(str(file))}], None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "needs the package onnx" in done.stderr
    assert "pip install 'bhsearch[onnx]'" in done.stderr
