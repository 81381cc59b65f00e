"""Execution of OpenVINO models: one row per image, however the images are divided, and a batch tuned once."""

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from bhsearch.errors import RunError
from bhsearch.models import openvino_program
from bhsearch.models.frozen.precision import supports_bf16
from bhsearch.models.openvino_program import (
    LENGTHS,
    fastest_length,
    openvino_forward,
    reference_images,
    usual_length,
    write_reference,
)
from bhsearch.runtime import cache

SIZE = 32


@pytest.fixture
def program(tmp_path):
    """A network whose outputs are the means and maxima of each channel."""
    images = ops.parameter(openvino.PartialShape([-1, SIZE, SIZE, 3]), np.float32)
    axes = ops.constant(np.array([1, 2], np.int64))
    numbers = ops.concat([ops.reduce_mean(images, axes), ops.reduce_max(images, axes)], 1)
    file = tmp_path / "network" / "network.xml"
    file.parent.mkdir()
    openvino.save_model(openvino.Model([numbers], [images]), file, compress_to_fp16=False)
    return file


def images_of(n_images):
    return np.random.default_rng(0).uniform(0, 255, (n_images, SIZE, SIZE, 3)).astype(np.float32)


def expected(images):
    return np.concatenate([images.mean(axis=(1, 2)), images.max(axis=(1, 2))], axis=1)


@pytest.mark.parametrize("length", [*LENGTHS, None])
@pytest.mark.parametrize("divided", [[1], [3], [8, 8, 8], [64], [5, 1, 7, 30], [8, 0, 8], [1] * 21])
def test_every_image_has_its_row_however_the_images_are_divided(program, length, divided):
    images = images_of(sum(divided))
    batches = np.split(images, np.cumsum(divided)[:-1])
    np.testing.assert_allclose(openvino_forward(program, length)(batches), expected(images), rtol=1e-5)


def test_batches_are_prepared_while_earlier_ones_run_and_may_reuse_their_memory_afterwards(program):
    # A batch is shared with OpenVINO, so it must be kept until its request has ended.
    images = images_of(64)

    def fresh():
        for start in range(0, 64, 8):
            yield images[start : start + 8].copy()  # which nothing but the program holds

    np.testing.assert_allclose(openvino_forward(program)(fresh()), expected(images), rtol=1e-5)


def test_a_program_can_be_used_after_an_error_of_its_images(program):
    forward, images = openvino_forward(program), images_of(24)

    def broken():
        yield images[:16]
        raise OSError("a file is gone")

    with pytest.raises(OSError, match="gone"):
        forward(broken())
    np.testing.assert_allclose(forward([images]), expected(images), rtol=1e-5)


def test_requests_have_fewer_images_the_larger_these_are():
    lengths = [usual_length(size) for size in (32, 96, 128, 224, 448, 1024)]
    assert lengths == sorted(lengths, reverse=True)
    assert set(lengths) <= set(LENGTHS)
    assert lengths[-1] == 1


def test_the_fastest_length_is_measured_once_for_a_machine(program, monkeypatch):
    first = fastest_length(program)
    assert first in LENGTHS
    [entry] = [entry for entry in cache.entries() if entry.kind == "speeds"]

    def measure(*_):
        pytest.fail("what is known must not be measured")

    monkeypatch.setattr(openvino_program, "_tune", measure)
    assert fastest_length(program) == first
    assert [each.key for each in cache.entries() if each.kind == "speeds"] == [entry.key]


def test_another_network_is_measured_on_its_own(program, tmp_path):
    other = tmp_path / "another" / "network.xml"
    other.parent.mkdir()
    for suffix in (".xml", ".bin"):
        other.with_suffix(suffix).write_bytes(program.with_suffix(suffix).read_bytes())
    fastest_length(program)
    fastest_length(other)
    assert len([entry for entry in cache.entries() if entry.kind == "speeds"]) == 2


@pytest.mark.parametrize(("precision", "factor", "is_right"), [
    ("f32", 1.005, True),
    ("f32", 1.02, False),
    ("bf16", 1.3, True),
    ("bf16", 1.7, False),
])  # fmt: skip
def test_a_compiled_program_is_checked_against_the_stored_outputs(program, precision, factor, is_right):
    if precision == "bf16" and not supports_bf16():
        pytest.skip("OpenVINO reports no bfloat16 for this processor")
    write_reference(program, factor * expected(reference_images(SIZE)))
    if is_right:
        assert openvino_forward(program, precision=precision)([images_of(3)]).shape == (3, 6)
    else:
        with pytest.raises(RunError, match=rf"wrong values for .*network\.xml in {precision}.*--feature-backend keras"):
            openvino_forward(program, precision=precision)


def test_a_program_that_was_compiled_wrongly_is_compiled_again(program, monkeypatch):
    write_reference(program, expected(reference_images(SIZE)))
    right, n_compiled = openvino_program._compiled, 0

    def faulty(*arguments):
        nonlocal n_compiled
        n_compiled += 1
        forward, size = right(*arguments)
        factor = 2.0 if n_compiled == 1 else 1.0
        return (lambda batches: factor * forward(batches)), size

    monkeypatch.setattr(openvino_program, "_compiled", faulty)
    images = images_of(5)
    np.testing.assert_allclose(openvino_forward(program)([images]), expected(images), rtol=1e-5)
    assert n_compiled == 2
