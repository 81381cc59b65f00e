"""Archives filled without Keras predict what the networks predict that Keras builds, saves and loads."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from bhsearch.errors import RunError
from bhsearch.models.augmentation.cached_views import views_of
from bhsearch.models.augmentation.policies import IDENTITY
from bhsearch.models.backbones.registry import find_backbones
from bhsearch.models.calibrated import calibrated, load_network
from bhsearch.models.inference_model import ModelPool, arrays_of, ensemble, members_of
from bhsearch.models.structures import Architecture, ArchivePool, StructureBuilder, build_here, weights_of
from bhsearch.models.training.heads import Heads
from bhsearch.runtime import cache
from tests.models.conftest import tissue
from tests.models.test_inference_model import trained_members
from tests.tasks.samples import BINARY

SIZE = 48
LINK = BINARY.link
# Backbone, resize, views, hidden units.
CASES = {
    "linear": ("staintex_s", "crop", (IDENTITY,), 0),
    "one hidden unit": ("staintex_s", "squash", (IDENTITY,), 1),
    "hidden and views": ("staintex_s", "crop", views_of("dihedral-stain", 4), 3),
    "tiles and views": ("staintex_s", "tiles", views_of("zoom", 3), 3),
    "large": ("mobilenet", "crop", (IDENTITY,), 0),
    "a file": ("own_network", "crop", views_of("dihedral", 2), 2),
}


@pytest.fixture(scope="module")
def images():
    return tissue(3, 70, density=0.2)[:, :60]


@pytest.fixture
def case(request):
    fixture, mode, views, hidden = CASES[request.param]
    return request.getfixturevalue(fixture), mode, views, hidden


def make_heads(n_features, hidden, seed=0):
    """Heads of three fold models, and the record of their model."""
    random = np.random.default_rng(seed)
    shapes = ((n_features, 3, max(hidden, 1)), (3, max(hidden, 1)), (3, max(hidden, 1)), (3,))
    kernel, *rest = (random.normal(0, 1, shape).astype(np.float32) for shape in shapes)
    return Heads(kernel / 1000, *rest, linear=hidden == 0)


def described(heads, views):
    return {"kind": "heads", "views": list(views), "linear": heads.linear}


def predicted(model, images, folder):
    """Predictions of an archive or a network from its file; without tracing, which takes seconds for each."""
    file = folder / f"{type(model).__name__}.keras"
    model.save(file)
    return np.asarray(load_network(file)(images, training=False))


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_a_filled_archive_predicts_what_a_saved_network_predicts(case, images, tmp_path):
    backbone, mode, views, hidden = case
    pool, builder = ModelPool(LINK), StructureBuilder(LINK)
    archives = ArchivePool(LINK, builder)
    n_features = pool.backbone(backbone, SIZE).output_shape[-1]
    found = []
    for seed in (0, 1, 0):  # the second fills the archive of the first
        heads = make_heads(n_features, hidden, seed)
        archive = archives.get(backbone, mode, SIZE, described(heads, views), heads.to_arrays())
        found.append(predicted(archive, images, tmp_path))
        if len(found) < 3:
            network = pool.get(backbone, mode, SIZE, views, heads)
            assert np.array_equal(found[-1], predicted(network, images, tmp_path))
    assert np.array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[1])


def test_a_filled_archive_is_calibrated_as_a_saved_network(staintex_s, images, tmp_path):
    pool, archives = ModelPool(LINK), ArchivePool(LINK, StructureBuilder(LINK))
    heads = make_heads(pool.backbone(staintex_s, SIZE).output_shape[-1], 2)
    archive = archives.get(staintex_s, "crop", SIZE, described(heads, [IDENTITY]), heads.to_arrays())
    archive.save(tmp_path / "m.keras")
    pool.get(staintex_s, "crop", SIZE, (IDENTITY,), heads).save(tmp_path / "saved.keras")
    one, other = (calibrated(load_network(tmp_path / f"{name}.keras"), 1.3, -0.2) for name in ("m", "saved"))
    assert np.array_equal(one.predict_on_batch(images), other.predict_on_batch(images))


@pytest.mark.parametrize(
    ("name", "n_views"),
    [("cnn_program", 1), ("own_program", 2), pytest.param("mobilenet_program", 2, marks=pytest.mark.slow)],
)
def test_networks_that_were_trained_are_filled_in_as_a_whole(name, n_views, images, tmp_path, request):
    program = request.getfixturevalue(name)
    backbone, size, hidden = program.spec.backbone, program.spec.size, program.spec.hidden_units
    views = views_of("dihedral", n_views) if n_views > 1 else (IDENTITY,)
    model = {"kind": "networks", "views": list(views), "image_size": size, "n_members": 2, "hidden_units": hidden}
    arrays = arrays_of(list(trained_members(program, 2)))
    archive = ArchivePool(LINK, StructureBuilder(LINK)).get(backbone, "crop", 0, model, arrays)
    members = members_of(arrays, 2)
    expected = predicted(ensemble(backbone, "crop", size, views, hidden, members, LINK), images, tmp_path)
    assert np.array_equal(predicted(archive, images, tmp_path), expected)
    other = arrays | {key: value * 2 for key, value in arrays.items() if "_head0" in key}
    changed = ArchivePool(LINK, StructureBuilder(LINK)).get(backbone, "crop", 0, model, other)
    assert not np.array_equal(predicted(changed, images, tmp_path), expected)


def test_a_structure_that_is_not_in_the_cache_is_built(staintex_s, images, tmp_path):
    heads = make_heads(ModelPool(LINK).backbone(staintex_s, SIZE).output_shape[-1], 2)
    request = (staintex_s, "crop", SIZE, described(heads, views_of("stain", 2)), heads.to_arrays())
    built = ArchivePool(LINK).get(*request)
    here = ArchivePool(LINK, StructureBuilder(LINK))

    def refuse(architecture):
        raise AssertionError("it is in the cache")

    assert np.array_equal(
        predicted(built, images, tmp_path), predicted(ArchivePool(LINK, refuse).get(*request), images, tmp_path)
    )
    for entry in (cache.cache_root() / "archives").iterdir():  # the cache may be deleted at any time
        if entry.is_dir():
            for file in entry.iterdir():
                file.unlink()
            entry.rmdir()
    with pytest.raises(AssertionError, match="in the cache"):
        ArchivePool(LINK, refuse).get(*request)
    assert np.array_equal(predicted(built, images, tmp_path), predicted(here.get(*request), images, tmp_path))


def test_a_backbone_that_cannot_be_built_is_said_in_one_sentence(own_network, tmp_path):
    (tmp_path / "own.keras").write_bytes(b"no network")
    heads = make_heads(4, 0)
    broken = replace(own_network, file=tmp_path / "own.keras", digest="broken")
    architecture = Architecture.of(broken, "crop", SIZE, described(heads, [IDENTITY]), heads.to_arrays(), LINK)
    with pytest.raises(RunError, match=f"The model of backbone '{own_network.name}' cannot be built: ") as caught:
        build_here(architecture)
    assert "\n" not in str(caught.value)


def test_weights_are_in_the_order_of_the_layers():
    heads = make_heads(5, 2)
    kernel, bias, output_weights, output_bias = weights_of(described(heads, [IDENTITY]), heads.to_arrays())
    assert (kernel.shape, bias.shape) == ((5, 6), (6,))
    assert np.array_equal(output_weights, heads.output_weights)
    assert np.array_equal(output_bias, heads.output_bias)


def test_archives_are_filled_without_keras(staintex_s, tmp_path):
    heads = make_heads(ModelPool(LINK).backbone(staintex_s, SIZE).output_shape[-1], 0)
    ArchivePool(LINK, StructureBuilder(LINK)).get(
        staintex_s, "crop", SIZE, described(heads, [IDENTITY]), heads.to_arrays()
    )
    np.savez(tmp_path / "heads.npz", **heads.to_arrays())
    code = f"""
import sys
import numpy as np
from bhsearch.models.backbones.registry import find_backbones
from bhsearch.models.structures import ArchivePool

arrays = dict(np.load({str(tmp_path / "heads.npz")!r}))
backbone = find_backbones([{staintex_s.name!r}], None).backbones[0]
model = {described(heads, [IDENTITY])!r}
archive = ArchivePool({LINK!r}, None).get(backbone, "crop", {SIZE}, model, arrays)
archive.save({str(tmp_path / "m.keras")!r})
print(*({{"keras", "tensorflow", "openvino", "mlflow"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "\n", done.stdout + done.stderr
    assert (tmp_path / "m.keras").is_file()
    assert find_backbones([staintex_s.name], None).backbones[0] == staintex_s
