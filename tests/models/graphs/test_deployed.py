"""Deployed graphs: the same probabilities as NumPy and the pixel cache, on OpenVINO and on ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from scipy.special import expit, logit

from bhsearch.errors import RunError
from bhsearch.models.augmentation.cached_views import apply_view, views_of
from bhsearch.models.augmentation.policies import IDENTITY
from bhsearch.models.backbones.registry import find_backbones
from bhsearch.models.calibrated import calibrated, image_outputs, load_network, predict_images
from bhsearch.models.deployed_parts import with_features
from bhsearch.models.graphs.deployed import calibrate, deployed_graph
from bhsearch.models.graphs.network import GraphNetwork
from bhsearch.models.graphs.standalone import OpenvinoModel
from bhsearch.models.openvino_export import export_openvino
from bhsearch.models.resize import grid_of, make_resize
from bhsearch.models.saliency import OCCLUSION, explain
from bhsearch.models.training.heads import Heads
from tests.models.backbones.files.small import SIZE, WIDTH, features_of, write_onnx, write_openvino, write_saved_model
from tests.models.conftest import tissue
from tests.tasks.samples import BINARY

SLOPE, OFFSET = 1.5, -0.2
ONE = (IDENTITY,)
FORMATS = {"onnx": write_onnx, "openvino": write_openvino, "saved-model": write_saved_model}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    return {name: find_backbones([str(write(folder / name))], None).backbones[0] for name, write in FORMATS.items()}


@pytest.fixture(scope="module")
def images():
    """Larger and smaller than the encoder's, and of other aspect ratios."""
    return [*tissue(2, 96, density=0.1), tissue(1, 120, density=0.5, seed=1)[0][:80], tissue(1, 48)[0][:20, :30]]


def heads_of(linear: bool) -> Heads:
    random = np.random.default_rng(5)
    n_hidden = 1 if linear else 4
    kernel, top = random.normal(0, 1, (WIDTH, 3, n_hidden)), random.normal(0, 1, (3, n_hidden))
    top = np.ones_like(top) if linear else top
    rows = (kernel, random.normal(0, 1, (3, n_hidden)), top, random.normal(0, 1, 3))
    return Heads(*(row.astype(np.float32) for row in rows), linear)


def expected(image, mode, views, heads):
    """P(malignant) and features of one image, by NumPy."""
    tiles = make_resize(mode, SIZE).apply(image).astype(np.float32)
    rows = [features_of(np.asarray(apply_view(tiles, view))).mean(axis=0) for view in views]
    found = []
    for row in rows:
        hidden = np.einsum("f,fmh->mh", row, heads.kernel) + heads.bias
        hidden = hidden if heads.linear else np.maximum(hidden, 0)
        found.append(expit((hidden * heads.output_weights).sum(axis=1) + heads.output_bias).mean())
    return np.mean(found), rows[0]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("mode", "views", "linear"),
    [
        ("crop", ONE, True),
        ("squash", ONE, False),
        ("tiles", ONE, True),
        ("crop", views_of("dihedral", 8), False),
        ("tiles", views_of("stain", 3), True),
        ("squash", views_of("colour", 3), True),
        ("crop", views_of("zoom", 4), False),
    ],
)
def test_a_graph_has_the_probabilities_of_its_parts(kind, mode, views, linear, encoders, images, tmp_path):
    heads = heads_of(linear)
    raw = GraphNetwork(deployed_graph(encoders[kind], mode, views, heads, BINARY.link))
    whole = calibrated(raw, SLOPE, OFFSET)
    file = tmp_path / f"model{whole.graph.suffix}"
    whole.write(file)
    n_tiles = int(np.prod(grid_of(mode)))
    outputs = list(image_outputs(with_features(load_network(file)), images, n_tiles))
    for image, before, after in zip(images, predict_images(raw, images), outputs, strict=True):
        probability, features = expected(image, mode, views, heads)
        # 1e-3 and not less, since rounding puts some resized pixels on the next grey level.
        assert before == after.uncalibrated == pytest.approx(probability, abs=1e-3)
        assert after.probability == pytest.approx(expit(SLOPE * logit(before) + OFFSET), abs=1e-6)
        np.testing.assert_allclose(after.features, features, rtol=0, atol=2e-3)
    batch = np.stack(images[:2])
    if kind == "onnx":
        onnx.checker.check_model(file, full_check=True)
        (there,) = onnxruntime.InferenceSession(file).run(None, {"image": batch})
    else:
        file.rename(tmp_path / "model.xml")
        there = OpenvinoModel(tmp_path).predict(batch)
    assert there.shape == (2, 1)
    np.testing.assert_allclose(there[:, 0], [each.probability for each in outputs[:2]], rtol=0, atol=1e-4)


def test_calibration_leaves_the_graph_before_it_unchanged(encoders, images):
    raw = GraphNetwork(deployed_graph(encoders["onnx"], "crop", ONE, heads_of(True), BINARY.link))
    before = list(predict_images(raw, images))
    calibrated(raw, SLOPE, OFFSET)
    assert list(predict_images(raw, images)) == before


def test_extreme_probabilities_stay_finite_when_calibrated(encoders, images):
    heads = heads_of(True)
    sure = Heads(heads.kernel * 1000, heads.bias, heads.output_weights, heads.output_bias, True)
    network = calibrated(GraphNetwork(deployed_graph(encoders["openvino"], "crop", ONE, sure, BINARY.link)), 2, 0)
    assert np.isfinite(list(predict_images(network, images))).all()


@pytest.mark.parametrize(("slope", "offset"), [(0.0, 0.0), (-1.0, 0.0), (np.nan, 0.0), (1.0, np.inf)])
def test_a_calibration_that_orders_images_otherwise_is_refused(slope, offset, encoders):
    graph = deployed_graph(encoders["onnx"], "crop", ONE, heads_of(True), BINARY.link)
    with pytest.raises(ValueError, match="finite offset must hold"):
        calibrate(graph, slope, offset)


def test_another_link_is_refused(encoders):
    with pytest.raises(RunError, match="link softmax"):
        deployed_graph(encoders["onnx"], "crop", ONE, heads_of(True), "softmax")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_graph_is_exported_to_openvino(kind, encoders, images, tmp_path):
    network = GraphNetwork(deployed_graph(encoders[kind], "crop", ONE, heads_of(True), BINARY.link))
    assert export_openvino(network, tmp_path, images) < 1e-5
    there = GraphNetwork.load(tmp_path / "model.xml")
    assert list(predict_images(there, images)) == pytest.approx(list(predict_images(network, images)), abs=1e-5)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_damaged_file_is_an_error_with_its_name(suffix, tmp_path):
    (tmp_path / f"model{suffix}").write_bytes(b"damaged")
    with pytest.raises(RunError, match=f"Cannot load the model .*model{suffix}"):
        load_network(tmp_path / f"model{suffix}")


def test_the_heat_map_shows_the_cells_that_the_prediction_depends_on(encoders):
    """A dark square on white is the only thing to see."""
    image = np.full((64, 64, 3), 255, np.uint8)
    image[16:24, 40:48] = 0
    heads = heads_of(True)
    network = GraphNetwork(deployed_graph(encoders["onnx"], "crop", ONE, heads, BINARY.link))
    (probability,) = predict_images(network, [image])
    (plain,) = predict_images(network, [np.full((64, 64, 3), image.mean().round(), np.uint8)])
    # The threshold is put so that the square speaks for the predicted class.
    covered = image.copy()
    covered[16:24, 40:48] = image.mean(axis=(0, 1)).round()
    (without,) = predict_images(network, [covered])
    (seen,) = explain(network, [image], "crop", 0.0 if probability > without else 1.0)
    assert seen.method == OCCLUSION
    assert seen.probability == pytest.approx(probability, abs=1e-6)
    assert seen.heat.shape == (8, 8)
    assert seen.heat[2, 5] == seen.heat.max() == 1.0
    np.testing.assert_array_equal(seen.seen, image)
    assert plain != probability
