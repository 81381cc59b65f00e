"""Encoders are fine-tuned as other networks: by depth, with layer decay, and with weight decay of kernels alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bhsearch.models.backbones.registry import find_backbones
from bhsearch.models.inference_model import ensemble
from bhsearch.models.training.train_step import CompiledTrainer
from tests.models.backbones.encoders.tiny import DEPTH, REGISTERS, SIDE, Tiny, images_of
from tests.models.finetuning import PLAIN, RICH, SIZE, device_pixels, fold_task, shape_of, start_of, trained
from tests.tasks.samples import BINARY


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    assert SIDE == SIZE
    tiny = Tiny(scaled=True, registers=REGISTERS)
    folder = tiny.write_transformers(tmp_path_factory.mktemp("tiny"), "dinov2_with_registers")
    return find_backbones([f"{folder}@mean"], None, trainable=True).backbones[0]


@pytest.fixture(scope="module", params=["all", "half"])
def program(request, encoder):
    return CompiledTrainer(shape_of(encoder, request.param))


@pytest.fixture
def steps(program, tmp_path):
    """How far each weight goes in a single step of SGD, by the name of its layer and its own."""
    pixels = device_pixels(tmp_path)

    def one_step(**choices):
        task = replace(fold_task(), training=np.arange(8), steps=1)
        start, end = start_of(program), trained(program, pixels, replace(PLAIN, epochs=1, **choices), task=task)
        names = [variable.path for variable in program._network.weights]
        pairs = zip(start.weights, end.weights, strict=True)
        return {name: np.asarray(after - before) for name, (before, after) in zip(names, pairs, strict=True)}

    return one_step


def test_the_depth_counts_from_the_patches_to_the_last_norm(program, steps):
    moved = {name.partition("/")[0]: bool(np.any(step)) for name, step in steps(learning_rate=1.0).items()}
    blocks = [[m for name, m in moved.items() if name.startswith(f"block{k}_")] for k in range(DEPTH)]
    lower = program.spec.depth == "all"
    assert moved["norm"]
    assert all(blocks[-1])
    assert moved["patches"] == lower
    assert set(blocks[0][:-1]) == {lower}  # the middle layer belongs to the upper half


def test_layer_decay_shortens_the_steps_towards_the_patches(program, steps):
    plain, decayed = (steps(layer_decay=factor, learning_rate=1.0) for factor in (1.0, 0.8))
    ratio = {
        name.partition("/")[0]: float((plain[name] * decayed[name]).sum() / np.square(plain[name]).sum())
        for name in plain
        if np.any(plain[name]) and name.endswith("kernel")
    }
    order = ["patches"] if program.spec.depth == "all" else []
    blocks = range(DEPTH) if program.spec.depth == "all" else range(1, DEPTH)
    order += [f"block{k}_{layer}" for k in blocks for layer in ("qkv", "projection", "hidden", "output")]
    values = [ratio[name] for name in order]
    assert values == sorted(values)
    assert values[0] < 0.5 * values[-1] if program.spec.depth == "all" else values[0] < values[-1]


def test_weight_decay_takes_off_kernels_but_no_bias_of_a_token(program, steps):
    plain, decayed = (steps(weight_decay=decay) for decay in (0.0, 0.5))
    start = dict(zip(plain, start_of(program).weights, strict=True))
    for name, value in start.items():
        is_decayed = name.endswith("kernel") and np.any(plain[name])
        taken = 0.5 * PLAIN.learning_rate * value if is_decayed else np.zeros_like(value)
        np.testing.assert_allclose(plain[name] - decayed[name], taken, atol=3e-7, err_msg=name)
    assert len(start["patches/bias"].shape) == 2


def test_fine_tuned_encoders_load_without_bhsearch(program, encoder, tmp_path, elsewhere):
    members = [trained(program, device_pixels(tmp_path), RICH, fold=fold) for fold in (0, 1)]
    network = ensemble(encoder, "crop", SIZE, ("identity",), 0, members, BINARY.link)
    images = images_of(3, SIZE)
    expected = np.asarray(network(images, training=False))
    assert np.ptp(expected) > 1e-4
    np.testing.assert_allclose(elsewhere.predict(network, images), expected, atol=1e-6)
