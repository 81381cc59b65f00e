from __future__ import annotations

import hashlib
import shutil
import sys
import zipfile

import numpy as np
import pytest

from bhsearch.errors import BackboneError
from bhsearch.models.backbones import cnn
from bhsearch.models.backbones import keras_applications as module
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.backbones.keras_applications import REGISTRY, scale
from bhsearch.models.backbones.registry import find_backbones
from bhsearch.models.backbones.staintex import SIZES
from tests.models.conftest import tissue

MODULES = {
    "MobileNet": "mobilenet",
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3Small": "mobilenet_v3",
    "MobileNetV3Large": "mobilenet_v3",
    "EfficientNetB0": "efficientnet",
    "EfficientNetV2B0": "efficientnet_v2",
    "DenseNet121": "densenet",
    "DenseNet201": "densenet",
    "ResNet50V2": "resnet_v2",
    "ConvNeXtTiny": "convnext",
    "InceptionV3": "inception_v3",
    "Xception": "xception",
}
AT_LEAST = {  # what the issue asks for
    *("mobilenet-0.25", "mobilenetv2-1.0", "mobilenetv3-small", "efficientnetb0", "efficientnetv2b0", "densenet121"),
    *("densenet201", "resnet50v2", "convnext-tiny", "inceptionv3", "xception"),
}


@pytest.fixture
def keras_home(tmp_path, monkeypatch):
    """An empty Keras cache, and nobody who answers where the weights are downloaded from."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(module, "_HOST", "127.0.0.1")
    (tmp_path / "keras" / "models").mkdir(parents=True)
    return tmp_path / "keras"


@pytest.fixture
def asked(monkeypatch):
    """What Keras would download, by name and address; nothing is fetched or loaded."""
    import keras
    from keras.src.utils import file_utils

    names = []

    def get_file(fname, origin, **options):
        names.append((fname, origin))
        return fname

    monkeypatch.setattr(file_utils, "get_file", get_file)
    monkeypatch.setattr(keras.Model, "load_weights", lambda *arguments, **options: None)
    return names


def random_images(size=64, n_images=2):
    return np.random.default_rng(0).uniform(0, 255, (n_images, size, size, 3)).astype(np.float32)


def seen_by(network, images):
    """What a network says of a few images, without compiling it first."""
    return np.asarray(network(images, training=False))


def own_file(folder, name, outputs=lambda x: x, shape=(None, None, 3)):
    """A network of the user's own: one convolution of random weights, then `outputs`."""
    import keras

    keras.utils.set_random_seed(5)
    images = keras.Input(shape)
    features = keras.layers.Conv2D(6, 5, strides=2)(keras.layers.Rescaling(1 / 255)(images))
    network = keras.Model(images, outputs(features))
    network.save(folder / name)
    return network


# The registry


def test_the_registry_has_what_the_issue_asks_for():
    assert set(REGISTRY) >= AT_LEAST
    assert {facts.builder for facts in REGISTRY.values()} == set(MODULES)
    assert all(facts.source for facts in REGISTRY.values())


def test_licences_are_those_that_keras_documents():
    """By the page "Applications" of Keras 2.3; networks that came later have no stated licence."""
    stated = {
        "MobileNet": "Apache-2.0", "MobileNetV2": "Apache-2.0", "InceptionV3": "Apache-2.0", "Xception": "MIT",
        "DenseNet121": "BSD-3-Clause", "DenseNet201": "BSD-3-Clause", "ResNet50V2": "BSD",
    }  # fmt: skip
    for name, facts in REGISTRY.items():
        expected = stated.get(facts.builder, "unknown")
        assert Backbone(name, None, "", "keras-applications").licence == expected


@pytest.mark.parametrize("name", REGISTRY)
def test_the_facts_are_those_of_kerass_own_network(name, asked):
    import keras

    facts = REGISTRY[name]
    with keras.StatelessScope():  # weights are counted, not drawn: half the time
        network = module._construct(facts, "imagenet", 224)
    [(file, origin)] = asked
    assert facts.weights_file == file
    assert origin.startswith(f"https://{module._HOST}/")
    assert network.output_shape == (None, facts.n_features)
    assert facts.n_parameters == pytest.approx(network.count_params() / 1e6, abs=0.006)
    assert facts.size_mb == pytest.approx(network.count_params() * 4 / 1e6, abs=0.03)


@pytest.mark.parametrize("name", REGISTRY)
def test_the_least_size_is_the_builders_own(name):
    facts = REGISTRY[name]
    with pytest.raises(ValueError, match=r"[Ii]nput size must be at least"):
        module._construct(facts, None, facts.least_size - 1)


@pytest.mark.parametrize("name", [name for name, facts in REGISTRY.items() if facts.scaling != "efficientnet"])
def test_images_are_scaled_as_keras_applications_scales_them(name):
    import keras

    facts = REGISTRY[name]
    images = random_images()
    expected = getattr(keras.applications, MODULES[facts.builder]).preprocess_input(images.copy())
    np.testing.assert_allclose(np.asarray(scale(images, facts.scaling)), expected, atol=1e-5)


def test_efficientnet_sees_what_it_was_trained_on(tmp_path, asked, monkeypatch):
    # Keras puts one more division into the network where it fetches the weights itself, and leaves it out where it is
    # given them as a file: so the whole networks are compared, not the preprocessing alone.
    import keras

    facts = REGISTRY["efficientnetb0"]
    keras.utils.set_random_seed(1)
    kerass_own = module._construct(facts, "imagenet", 32)
    normalisation = next(layer for layer in kerass_own.layers if isinstance(layer, keras.layers.Normalization))
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normalisation.set_weights([mean, deviation, np.int64(1)])  # as in the published file
    normalisation.finalize_state()
    kerass_own.save(tmp_path / facts.weights_file)
    monkeypatch.undo()
    ours = find_backbones(["efficientnetb0"], tmp_path).backbones[0].build(32)
    images = random_images(32, 4)
    expected = seen_by(kerass_own, images)
    np.testing.assert_allclose(seen_by(ours, images), expected, atol=1e-3 * np.abs(expected).max())


def test_a_network_is_kerass_own_on_scaled_images(mobilenet, random_weights):
    import keras

    file = random_weights / REGISTRY["mobilenet-0.25"].weights_file
    reference = keras.applications.MobileNet(
        alpha=0.25, include_top=False, weights=str(file), input_shape=(64, 64, 3), pooling="avg"
    )
    images = random_images()
    expected = seen_by(reference, keras.applications.mobilenet.preprocess_input(images.copy()))
    ours = mobilenet.build(64)
    assert expected.std() > 0
    np.testing.assert_allclose(seen_by(ours, images), expected, rtol=1e-4, atol=1e-5 * expected.std())
    assert ours.trainable_weights == []


def test_images_that_are_too_small_for_a_network_are_refused(tmp_path):
    (tmp_path / REGISTRY["xception"].weights_file).write_bytes(b"never opened")
    (backbone,) = find_backbones(["xception"], tmp_path).backbones
    backbone.check_size(71)
    for refuse in (backbone.check_size, backbone.build):
        with pytest.raises(BackboneError, match=r"xception requires images of at least 71 pixels.*70"):
            refuse(70)
    assert backbone.licence == "MIT"


# Where weights come from


def test_weights_come_from_the_folder_first_and_then_from_kerass_cache(tmp_path, keras_home):
    file = REGISTRY["mobilenet-0.5"].weights_file
    (keras_home / "models" / file).write_bytes(b"from the cache")
    given = tmp_path / "given"
    given.mkdir()
    assert find_backbones(["mobilenet-0.5"], given).backbones[0].file == keras_home / "models" / file
    (given / file).write_bytes(b"given")
    backbone = find_backbones(["mobilenet-0.5"], given).backbones[0]
    assert backbone.file == given / file
    assert backbone.digest == hashlib.sha256(b"given").hexdigest()[:24]
    assert backbone.size_mb == pytest.approx(5e-6)
    assert find_backbones(["mobilenet-0.5"], None).backbones[0].digest != backbone.digest


def test_a_backbone_asked_for_by_name_that_cannot_be_had_is_an_error(tmp_path, keras_home):
    with pytest.raises(BackboneError) as caught:
        find_backbones(["staintex-s", "mobilenet-0.5"], tmp_path)
    message = str(caught.value)
    for told in (
        "mobilenet-0.5",
        REGISTRY["mobilenet-0.5"].weights_file,
        str(tmp_path),
        str(keras_home / "models"),
        "--weights-dir",
    ):
        assert told in message


def test_an_unknown_name_lists_the_known():
    with pytest.raises(BackboneError) as caught:
        find_backbones(["resnet9000"], None)
    assert "resnet9000" in str(caught.value)
    assert all(name in str(caught.value) for name in [*SIZES, *REGISTRY])


def test_a_weights_folder_that_is_none_is_an_error(tmp_path):
    with pytest.raises(BackboneError, match=r"--weights-dir.*nowhere"):
        find_backbones(["staintex-s"], tmp_path / "nowhere")


def test_auto_takes_what_can_be_had_and_says_why_not_the_rest(random_weights, keras_home):
    found = find_backbones(["auto"], random_weights)
    assert [backbone.name for backbone in found.backbones] == [*SIZES, "mobilenet-0.25"]
    reasons = dict(found.left_out)
    assert set(reasons) == set(REGISTRY) - {"mobilenet-0.25"}
    for name, reason in reasons.items():
        small = REGISTRY[name].size_mb <= module.AUTO_DOWNLOAD_MB
        assert ("no internet connection" if small else "more than 25 MB") in reason, name


def test_auto_asks_for_the_network_once_and_not_once_a_backbone(keras_home):
    asked = []
    sys.addaudithook(lambda event, arguments: asked.append(event) if watching and event == "socket.connect" else None)
    watching = True
    try:
        find_backbones(["auto"], None)
    finally:
        watching = False
    assert len(asked) == 1


def test_nobody_is_asked_for_what_is_there(random_weights, keras_home):
    asked = []
    sys.addaudithook(lambda event, arguments: asked.append(event) if watching and event.startswith("socket.") else None)
    watching = True
    try:
        find_backbones(["staintex-l", "mobilenet-0.25"], random_weights)
    finally:
        watching = False
    assert asked == []


def test_what_is_named_beside_auto_is_had_once(random_weights, keras_home):
    found = find_backbones(["staintex-l", "auto", "mobilenet-0.25", "staintex-l"], random_weights)
    assert [backbone.name for backbone in found.backbones] == ["staintex-l", "staintex-s", "mobilenet-0.25"]


def test_where_networks_are_trained_auto_has_the_cnn_and_no_fixed_filters(random_weights, keras_home):
    found = find_backbones(["auto"], random_weights, trainable=True)
    assert [backbone.name for backbone in found.backbones] == ["cnn", "mobilenet-0.25"]
    reasons = dict(found.left_out)
    assert set(reasons) == set(REGISTRY) - {"mobilenet-0.25"} | set(SIZES)
    assert all("nothing to train" in reasons[name] for name in SIZES)


def test_the_cnn_is_found_by_name_where_networks_are_trained():
    import keras

    [backbone] = find_backbones(["cnn"], None, trainable=True).backbones
    assert backbone == Backbone("cnn", None, cnn.DIGEST, "cnn")
    network = backbone.build(32)
    assert network.output_shape == (None, 128)
    assert network.trainable_weights
    assert {type(layer) for layer in network.layers} >= {keras.layers.Conv2D, keras.layers.BatchNormalization}
    assert backbone.size_mb == pytest.approx(4e-6 * network.count_params())


def test_the_cnn_is_not_to_be_had_frozen():
    with pytest.raises(BackboneError, match=r"'cnn' is trained from scratch.*--regime finetune"):
        find_backbones(["cnn"], None)
    with pytest.raises(BackboneError) as caught:
        find_backbones(["nosuch"], None)
    assert "cnn" not in str(caught.value)


@pytest.mark.parametrize("name", SIZES)
def test_fixed_filters_cannot_be_trained(name):
    with pytest.raises(BackboneError, match=rf"backbone '{name}' cannot be fine-tuned .*nothing to train"):
        find_backbones([name], None, trainable=True)
    with pytest.raises(BackboneError) as caught:
        find_backbones(["nosuch"], None, trainable=True)
    assert name not in str(caught.value)
    assert "cnn, " in str(caught.value)


def test_finding_builds_nothing(tmp_path, keras_home):
    # Whether the weights fit shows when the network is built: finding must not cost the import of a framework.
    (tmp_path / REGISTRY["densenet201"].weights_file).write_bytes(b"no weights")
    assert find_backbones(["densenet201"], tmp_path).backbones[0].name == "densenet201"


@pytest.mark.parametrize("kind", ["another width", "another network", "garbage", "empty", "cut short"])
def test_weights_that_do_not_fit_are_an_error_that_names_the_file(tmp_path, random_weights, kind):
    name = {"another width": "mobilenet-0.5", "another network": "mobilenetv2-0.35"}.get(kind, "mobilenet-0.25")
    file = tmp_path / REGISTRY[name].weights_file
    shutil.copy(random_weights / REGISTRY["mobilenet-0.25"].weights_file, file)
    content = {"garbage": b"garbage" * 1000, "empty": b"", "cut short": file.read_bytes()[:100_000]}.get(kind)
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BackboneError) as caught:
        find_backbones([name], tmp_path).backbones[0].build(64)
    assert name in str(caught.value)
    assert str(file) in str(caught.value)


# A network of the user's own


def test_a_network_of_ones_own_gives_its_features(tmp_path):
    import keras

    theirs = own_file(tmp_path, "my features 1.0.keras", keras.layers.GlobalMaxPooling2D())
    backbone = find_backbones([str(tmp_path / "my features 1.0.keras")], None).backbones[0]
    assert backbone.name == "my features 1.0"
    network = backbone.build(64)
    assert network.output_shape == (None, 6)
    assert network.trainable_weights == []
    images = random_images()
    np.testing.assert_allclose(seen_by(network, images), seen_by(theirs, images), rtol=1e-5)


def test_a_map_of_features_is_averaged(tmp_path):
    theirs = own_file(tmp_path, "map.keras")
    network = find_backbones([str(tmp_path / "map.keras")], None).backbones[0].build(64)
    images = random_images()
    expected = seen_by(theirs, images).mean(axis=(1, 2))
    np.testing.assert_allclose(seen_by(network, images), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["staintex-s", "efficientnetb0", "cnn"])
def test_a_network_of_ones_own_may_be_called_like_a_known_one(tmp_path, name):
    # It must be the one in the file, not the fixed filters nor weights for Keras's architecture.
    own_file(tmp_path, f"{name}.keras")
    assert find_backbones([str(tmp_path / f"{name}.keras")], None).backbones[0].build(64).output_shape == (None, 6)


def test_two_backbones_of_one_name_are_an_error(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        with zipfile.ZipFile(tmp_path / folder / "mine.keras", "w") as archive:
            archive.writestr("config.json", folder)
    with pytest.raises(BackboneError, match=r"Two different backbones have the name 'mine'"):
        find_backbones([str(tmp_path / folder / "mine.keras") for folder in ("a", "b")], None)


def test_a_file_of_ones_own_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(BackboneError, match=r"no Keras model file .*mine\.keras"):
        find_backbones([str(tmp_path / "mine.keras")], None)


def test_a_file_that_is_no_archive_is_refused_before_anything_is_built(tmp_path):
    (tmp_path / "mine.keras").write_bytes(bytes(range(256)))
    with pytest.raises(BackboneError, match=r"mine\.keras' is no \.keras archive, or is damaged"):
        find_backbones([str(tmp_path / "mine.keras")], None)


def test_a_network_with_layers_that_nobody_else_has_is_refused(tmp_path):
    import keras

    class Mine(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    own_file(tmp_path, "mine.keras", Mine())
    with pytest.raises(BackboneError, match=r"Cannot use .*mine\.keras as a backbone: .*Mine"):
        find_backbones([str(tmp_path / "mine.keras")], None).backbones[0].build(64)


@pytest.mark.parametrize("kind", ["garbage", "another size", "two outputs", "one number", "grey"])
def test_a_file_that_is_no_backbone_is_refused(tmp_path, kind):
    import keras

    file = tmp_path / "mine.keras"
    if kind == "garbage":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("config.json", "garbage")
    elif kind == "two outputs":
        own_file(tmp_path, file.name, lambda x: [x, x])
    elif kind == "one number":
        own_file(tmp_path, file.name, lambda x: keras.ops.mean(x, axis=(1, 2, 3)))
    else:
        own_file(tmp_path, file.name, shape=(None, None, 1) if kind == "grey" else (96, 96, 3))
    with pytest.raises(
        BackboneError,
        match=r"Cannot use .*mine\.keras as a backbone: .+ maps RGB images in 0\.\.255, shape \(batch, 64, 64, 3\)",
    ):
        find_backbones([str(file)], None).backbones[0].build(64)


# The real weights


@pytest.mark.data
@pytest.mark.parametrize("name", ["mobilenet-0.25", "mobilenetv2-0.35"])
def test_real_weights_see_scaled_images_and_tell_them_apart(name, weights_dir):
    import keras

    facts = REGISTRY[name]
    backbone = find_backbones([name], weights_dir).backbones[0]
    assert backbone == Backbone(name, weights_dir / facts.weights_file, backbone.digest, "keras-applications")
    network = backbone.build(96)
    inner = next(layer for layer in network.layers if isinstance(layer, keras.Model))
    images = tissue(3, 96).astype(np.float32)
    scaled = getattr(keras.applications, MODULES[facts.builder]).preprocess_input(images.copy())
    features = seen_by(network, images)
    np.testing.assert_allclose(features, seen_by(inner, scaled), atol=1e-4)
    assert (features.std(axis=0) > 0).mean() > 0.1
