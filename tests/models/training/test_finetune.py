"""Training of one fold: reproducible, evaluated at fixed steps, and failing with a reason."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bhsearch.errors import RunError
from bhsearch.models import backend
from bhsearch.models.augmentation.cached_views import apply_view, views_of
from bhsearch.models.augmentation.policies import IDENTITY
from bhsearch.models.backbones.registry import find_backbones
from bhsearch.models.features import FeatureCache
from bhsearch.models.training.finetune import EVALS_PER_FOLD, evaluation_steps, predict
from bhsearch.models.training.heads import Heads, Moments, standardisation
from bhsearch.models.training.hidden_heads import fit
from bhsearch.models.training.logistic_path import fit_path
from bhsearch.models.training.train_step import CompiledTrainer, ModelWeights
from tests.models.conftest import pixels_of
from tests.models.finetuning import (
    N_IMAGES,
    PLAIN,
    RICH,
    device_pixels,
    fold_task,
    images_of_two_classes,
    same,
    shape_of,
    start_of,
    trained,
)
from tests.tasks.samples import BINARY


@pytest.fixture
def pixels(tmp_path):
    return device_pixels(tmp_path)


def logits_of(program, pixels, member, rows, n_views=1):
    return predict(program, pixels, program.inference_state(program.initial_state(member)), np.asarray(rows), n_views)


# -- the same whatever ran before --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["cnn_program", "own_program", pytest.param("mobilenet_program", marks=pytest.mark.slow)]
)
def test_a_used_program_gives_bit_for_bit_what_a_fresh_one_gives(name, pixels, request):
    """After another fold, and another trial with another optimizer, policy, length, mixup and dropout."""
    used = request.getfixturevalue(name)
    trained(used, pixels, PLAIN, fold=1, seed=(7,))
    trained(used, pixels, replace(RICH, policy="stain", dropout=0.5, epochs=1), fold=2, seed=(8,))
    fresh = CompiledTrainer(used.spec)
    ends = [trained(program, pixels, RICH) for program in (used, fresh)]
    assert same(*ends)
    by_view = [
        logits_of(program, pixels, end, range(N_IMAGES), 4) for program, end in zip((used, fresh), ends, strict=True)
    ]
    assert by_view[0].tobytes() == by_view[1].tobytes()
    assert not same(ends[0], start_of(used))


def test_the_seed_decides_and_looking_does_not(cnn_program, pixels):
    first = trained(cnn_program, pixels, RICH)
    assert same(first, trained(cnn_program, pixels, RICH, on_evaluation=lambda look: None))
    assert not same(first, trained(cnn_program, pixels, RICH, seed=(1,)))


def test_streamed_pixels_give_what_resident_ones_give(cnn_program, tmp_path):
    many, label = images_of_two_classes(168)
    task = replace(fold_task(), training=np.arange(144), held_out=np.arange(144, 168), steps=18)
    task = replace(task, target=label, weight=np.ones(168, np.float32))
    looks = {}
    ends = {}
    for most_bytes in (1 << 30, 0):
        pixels = device_pixels(tmp_path, most_bytes, many)
        assert pixels.resident == (most_bytes > 0)
        seen = looks[most_bytes] = []
        ends[most_bytes] = trained(cnn_program, pixels, replace(RICH, epochs=1), task=task, on_evaluation=seen.append)
    assert same(*ends.values())
    for one, other in zip(*looks.values(), strict=True):
        assert one.training_loss == pytest.approx(other.training_loss, rel=1e-5)
        assert one.logits.tobytes() == other.logits.tobytes()


# -- looks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [1, 2, 3, 5])
def test_every_length_is_looked_at_after_the_same_shares(cnn_program, pixels, epochs):
    looks = []
    end = trained(cnn_program, pixels, replace(PLAIN, epochs=epochs), on_evaluation=looks.append)
    assert [look.share for look in looks] == list(range(1, EVALS_PER_FOLD + 1))
    held_out = fold_task().held_out
    np.testing.assert_array_equal(looks[-1].logits, logits_of(cnn_program, pixels, end, held_out)[0])
    assert len({look.training_loss for look in looks}) > 1 or epochs == 1


def test_looks_lie_at_the_ends_of_the_shares():
    assert evaluation_steps(40) == [10, 20, 30, 40]
    assert evaluation_steps(6) == [2, 3, 5, 6]
    assert evaluation_steps(1) == [1, 1, 1, 1]


def test_what_a_look_raises_ends_the_training(cnn_program, pixels):
    class Enough(Exception):  # noqa: N818
        pass

    looks = []

    def see(look):
        looks.append(look)
        if look.share == 2:
            raise Enough

    with pytest.raises(Enough):
        trained(cnn_program, pixels, PLAIN, on_evaluation=see)
    assert len(looks) == 2


# -- failing -----------------------------------------------------------------------------------------------------------


def test_a_learning_rate_that_is_far_too_high_is_a_failure_with_its_reason(cnn_program, pixels):
    with pytest.raises(RunError, match=r"the loss is .* in epoch \d.*learning rate 1e\+06"):
        trained(cnn_program, pixels, replace(PLAIN, learning_rate=1e6, epochs=4))


@pytest.mark.parametrize("place", ["backbone", "head"])
def test_a_start_that_is_no_number_is_a_failure_with_its_reason(cnn_program, pixels, monkeypatch, place):
    start = start_of(cnn_program)
    poisoned = start.weights[0] if place == "backbone" else start.head[0]
    poisoned.ravel()[0] = np.nan
    monkeypatch.setattr("tests.models.finetuning.start_of", lambda program: start)
    with pytest.raises(RunError, match="the loss is nan in epoch 1"):
        trained(cnn_program, pixels, RICH)
    with pytest.raises(RunError, match="predictions contain NaN"):
        logits_of(cnn_program, pixels, start, range(4))


@pytest.mark.parametrize("mixup", [0.0, 1.0])
def test_a_class_that_is_missing_from_a_batch_or_from_all_does_no_harm(cnn_program, pixels, mixup):
    for n_malignant in (1, 0):
        target = np.zeros(N_IMAGES, np.float32)
        target[1 : 1 + n_malignant] = 1.0
        looks = []
        trained(
            cnn_program, pixels, replace(RICH, mixup=mixup), task=fold_task(target=target), on_evaluation=looks.append
        )
        assert all(np.isfinite(look.training_loss) and np.isfinite(look.logits).all() for look in looks)


# -- predictions -------------------------------------------------------------------------------------------------------


def test_rows_come_in_any_number_and_order(cnn_program, pixels):
    member = trained(cnn_program, pixels, PLAIN)
    whole = logits_of(cnn_program, pixels, member, range(N_IMAGES))[0]
    assert np.ptp(whole) > 0.01
    for rows in ([3], [5, 2, 5], list(range(13, 0, -1))):
        np.testing.assert_allclose(logits_of(cnn_program, pixels, member, rows)[0], whole[rows], atol=1e-6)


def test_views_are_the_dihedral_ones_in_their_order(cnn_program, tmp_path, pixels):
    """The deployed model turns images by `apply_view`; what is scored must be the same."""
    member = trained(cnn_program, pixels, PLAIN)
    images, _ = images_of_two_classes()
    by_view = logits_of(cnn_program, pixels, member, range(N_IMAGES), 8)
    for k, view in enumerate(views_of("dihedral", 8)):
        turned = np.asarray(apply_view(images.astype(np.float32), view)).round().astype(np.uint8)
        expected = logits_of(cnn_program, device_pixels(tmp_path, images=turned), member, range(N_IMAGES))[0]
        np.testing.assert_allclose(by_view[k], expected, atol=1e-4)
    assert np.abs(by_view[1] - by_view[0]).max() > 1e-3


def check_warm_start(program, backbone, images, folder, hidden):
    label = (np.arange(len(images)) % 2).astype(np.int8)
    features = FeatureCache(pixels_of(images, folder), "keras").get(backbone, IDENTITY)
    weights = np.ones((len(images), 2))
    weights[::3, 0] = weights[1::3, 1] = 0.0
    rows = np.tile(np.arange(len(images)), (2, 1))
    moments = [Moments.of(features, weights)]
    if hidden:
        heads = fit(features[None], label, weights, rows, moments, hidden, 0.1, 0, loss=BINARY.loss).heads
    else:
        path = fit_path(features, label, weights, *standardisation(moments), [1.0])
        heads = Heads.of_linear(path.kernel[0, :, :, 0], path.bias[0, :, 0])
    assert np.abs(heads.bias).max() > 1e-3  # the standardisation is in there
    expected = heads.logits(features)
    assert np.ptp(expected) > 0.1
    for column in range(2):
        head = [heads.kernel[:, column], heads.bias[column], heads.output_weights[column], heads.output_bias[column]]
        start = ModelWeights(program.initial_weights(np.random.default_rng(0)), head)
        found = logits_of(program, device_pixels(folder, images=images), start, range(len(images)))[0]
        np.testing.assert_allclose(found, expected[:, column], atol=1e-4, rtol=1e-5)


def test_before_the_first_step_it_says_what_the_frozen_head_says(own_program, tmp_path):
    check_warm_start(own_program, own_program.spec.backbone, images_of_two_classes()[0], tmp_path, hidden=3)


@pytest.mark.data
def test_with_real_weights_too(weights_dir, tmp_path):
    backbone = find_backbones(["mobilenet-0.25"], weights_dir).backbones[0]
    check_warm_start(CompiledTrainer(shape_of(backbone)), backbone, images_of_two_classes()[0], tmp_path, hidden=0)


# -- the other backend -------------------------------------------------------------------------------------------------

_STEPS = replace(RICH, epochs=1, learning_rate=2e-4)  # two steps
_SGD = replace(_STEPS, optimizer="sgd", learning_rate=1e-2)
_BY_JAX = """
import sys
from pathlib import Path
import numpy as np
from bhsearch.models import backend
backend.import_backend()
assert backend.name() == "jax"
from tests.models.finetuning import *
from tests.models.training.test_finetune import _SGD, _STEPS, logits_of
program = Program(shape_of())
pixels = device_pixels(Path(sys.argv[1]))
found = {}
for name, params in (("adamw", _STEPS), ("sgd", _SGD), ("again", _STEPS)):
    member = trained(program, pixels, params)
    found |= {f"{name}{k:03d}": value for k, value in enumerate([*member.weights, *member.head])}
    found[name] = logits_of(program, pixels, member, range(N_IMAGES), 2)
np.savez(Path(sys.argv[1]) / "jax.npz", **found)
"""


def test_jax_agrees_after_two_steps(cnn_program, pixels, tmp_path):
    if backend.name() != "tensorflow" or importlib.util.find_spec("jax") is None:
        pytest.skip("needs TensorFlow and JAX in one environment")
    variables = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", _BY_JAX, str(tmp_path)]
    end = subprocess.run(command, cwd=root, env=variables, capture_output=True, text=True, check=False)
    assert end.returncode == 0, end.stderr[-2000:]
    with np.load(tmp_path / "jax.npz") as by_jax:
        for name, params in (("adamw", _STEPS), ("sgd", _SGD)):
            member = trained(cnn_program, pixels, params)
            start = start_of(cnn_program)
            pairs = list(zip([*member.weights, *member.head], [*start.weights, *start.head], strict=True))
            for k, (value, before) in enumerate(pairs):
                np.testing.assert_allclose(by_jax[f"{name}{k:03d}"], value, atol=1e-3, rtol=1e-3)
                if np.size(value) > 1 and np.any(value != before):  # not by standing still
                    assert np.abs(by_jax[f"{name}{k:03d}"] - value).max() < np.abs(value - before).max()
            logits = logits_of(cnn_program, pixels, member, range(N_IMAGES), 2)
            np.testing.assert_allclose(by_jax[name], logits, atol=1e-3)
        again = [name for name in by_jax.files if name.startswith("again")]
        assert all(by_jax[name].tobytes() == by_jax[name.replace("again", "adamw")].tobytes() for name in again)
