"""The compiled step: which weights it changes and by how much, without recompilation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bhsearch.models import backend
from bhsearch.models.training.finetune import predict
from bhsearch.models.training.train_step import CompiledTrainer, ModelWeights, StepInputs
from tests.models.finetuning import (
    N_IMAGES,
    PLAIN,
    RICH,
    device_pixels,
    difference,
    fold_task,
    same,
    shape_of,
    start_of,
    trained,
)


@pytest.fixture
def pixels(tmp_path):
    return device_pixels(tmp_path)


def one_step(program, pixels, **choices):
    """How far each weight goes in a single step of SGD, by its name; the head's are called head0 to head3."""
    task = replace(fold_task(), training=np.arange(8), steps=1)
    start, end = start_of(program), trained(program, pixels, replace(PLAIN, epochs=1, **choices), task=task)
    names = [variable.path for variable in program._network.weights] + [f"head{k}" for k in range(4)]
    pairs = zip([*start.weights, *start.head], [*end.weights, *end.head], strict=True)
    return {name: np.asarray(after - before) for name, (before, after) in zip(names, pairs, strict=True)}


def values_of(program):
    start = start_of(program)
    names = [variable.path for variable in program._network.weights] + [f"head{k}" for k in range(4)]
    return dict(zip(names, [*start.weights, *start.head], strict=True))


# -- what moves --------------------------------------------------------------------------------------------------------


def test_half_of_the_depth_leaves_the_lower_layers_as_they_are(mobilenet_program, pixels):
    program = mobilenet_program
    moved = {name: bool(np.any(step)) for name, step in one_step(program, pixels, learning_rate=1.0).items()}
    trainable = [variable.path for variable in program._network.trainable_variables]
    layers = list(dict.fromkeys(name.rpartition("/")[0] for name in trainable))
    upper = set(layers[len(layers) // 2 :])
    for name in trainable:
        assert moved[name] == (name.rpartition("/")[0] in upper), name
    assert 0 < len(upper) < len(layers)
    assert all(moved[f"head{k}"] for k in range(4))


def test_all_of_the_depth_moves_every_layer_and_a_network_from_scratch_knows_no_other(cnn_program, pixels):
    moved = one_step(cnn_program, pixels)
    assert all(np.any(step) for name, step in moved.items() if name not in ("head2", "head3"))
    assert all(CompiledTrainer(shape_of(depth="half"))._is_trained)


def test_layer_decay_shortens_the_steps_of_lower_layers(cnn_program, pixels):
    plain, decayed = (one_step(cnn_program, pixels, layer_decay=factor) for factor in (1.0, 0.8))
    ratio = {
        name: float((plain[name] * decayed[name]).sum() / np.square(plain[name]).sum())
        for name in ("head0", "head1", *(variable.path for variable in cnn_program._network.trainable_variables))
    }
    assert ratio["head0"] == pytest.approx(1.0, rel=1e-4)
    assert ratio["head1"] == pytest.approx(1.0, rel=1e-4)
    upwards = [value for name, value in ratio.items() if name.endswith("kernel")]
    assert (np.diff(upwards) > 0).all()
    assert upwards[0] == pytest.approx(0.8**11, rel=1e-2)
    assert ratio["stage5_norm/gamma"] == pytest.approx(0.8, rel=1e-2)
    assert ratio["stage1_norm/gamma"] < ratio["stage5_conv/kernel"]


def test_weight_decay_takes_off_kernels_and_nothing_else(cnn_program, pixels):
    plain, decayed = (one_step(cnn_program, pixels, weight_decay=decay) for decay in (0.0, 0.5))
    for name, value in values_of(cnn_program).items():
        taken = 0.5 * PLAIN.learning_rate * value if name == "head0" or name.endswith("kernel") else 0.0
        np.testing.assert_allclose(plain[name] - decayed[name], np.broadcast_to(taken, value.shape), atol=3e-7)


def test_the_top_of_a_linear_head_stays_one_and_that_of_a_hidden_layer_moves(cnn_program, mobilenet_program, pixels):
    linear, hidden = (trained(program, pixels, RICH) for program in (cnn_program, mobilenet_program))
    assert linear.head[2].tolist() == [1.0]
    assert linear.head[3] == 0.0
    before = start_of(mobilenet_program).head
    assert not np.array_equal(hidden.head[2], before[2])
    assert hidden.head[3] != before[3]


def test_moving_statistics_move_in_a_network_from_scratch_only(cnn_program, mobilenet_program, pixels):
    """What ImageNet's batch norm has seen is worth more than a few batches; for `cnn` there is nothing else."""
    for program, moves in ((cnn_program, True), (mobilenet_program, False)):
        end = trained(program, pixels, RICH).weights
        names = [variable.path for variable in program._network.weights]
        pairs = zip(names, start_of(program).weights, end, strict=True)
        statistics = [not np.array_equal(before, after) for name, before, after in pairs if "moving_" in name]
        assert statistics
        assert all(moved == moves for moved in statistics)


def test_a_state_gives_back_the_member_that_it_was_made_of(cnn_program, mobilenet_program):
    for program in (cnn_program, mobilenet_program):
        assert same(program.weights_of(program.initial_state(start_of(program, 3))), start_of(program, 3))


# -- the loss ----------------------------------------------------------------------------------------------------------


def test_an_image_without_weight_teaches_nothing(cnn_program, pixels):
    """Whatever its label: what one step does is the same."""
    one, other = fold_task(), fold_task()
    weight = np.ones(N_IMAGES, np.float32)
    weight[1] = 0.0
    other.target[1] = 1 - other.target[1]
    ends = [trained(cnn_program, pixels, RICH, task=replace(task, weight=weight)) for task in (one, other)]
    assert same(*ends)
    assert not same(ends[0], trained(cnn_program, pixels, RICH, task=one))


def test_training_learns_its_own_rows(cnn_program, pixels):
    task = fold_task()
    member = trained(cnn_program, pixels, replace(PLAIN, epochs=20), task=task)
    logits = predict(
        cnn_program, pixels, cnn_program.inference_state(cnn_program.initial_state(member)), task.training, 1
    )[0]
    assert ((logits > 0) == (task.target[task.training] > 0.5)).mean() > 0.9


def test_batches_in_parts_give_the_same_gradient(own_network, pixels):
    """For a network without statistics of the batch; in `cnn` each part has its own."""
    whole, parts = (CompiledTrainer(shape_of(own_network, hidden=3, pieces=pieces)) for pieces in (1, 4))
    for choices in (RICH, replace(PLAIN, mixup=0.5)):
        ends = [trained(program, pixels, choices) for program in (whole, parts)]
        assert difference(*ends) < 1e-5
        assert all(np.any(a != b) for a, b in zip(ends[0].head, start_of(whole).head, strict=True))
        assert difference(ModelWeights(ends[0].weights, []), ModelWeights(start_of(whole).weights, [])) > 1e-3


# -- compiling ---------------------------------------------------------------------------------------------------------


class Counted(CompiledTrainer):
    """Counts how often its steps are traced."""

    def __init__(self, shape):
        self.traces = []
        super().__init__(shape)

    def _steps(self, *arguments):
        self.traces.append("steps")
        return super()._steps(*arguments)

    def _logits(self, *arguments):
        self.traces.append("logits")
        return super()._logits(*arguments)


def test_nothing_that_a_trial_chooses_traces_anything(tmp_path):
    if backend.name() != "tensorflow":
        pytest.skip("JAX compiles once for each number of steps")
    program = Counted(shape_of())
    pixels = device_pixels(tmp_path)
    trained(program, pixels, PLAIN)
    assert sorted(program.traces) == ["logits", "steps"]
    others = {
        "learning_rate": 1e-4, "layer_decay": 0.6, "weight_decay": 0.5, "optimizer": "adamw", "schedule": "cosine",
        "warmup": 0.3, "label_smoothing": 0.2, "dropout": 0.5, "policy": "all", "strength": 1.0, "mixup": 1.0,
        "epochs": 5,
    }  # fmt: skip
    for name, value in others.items():
        trained(program, pixels, replace(PLAIN, epochs=1) if name != "epochs" else PLAIN, 1)
        trained(program, pixels, replace(PLAIN, **{"epochs": 1, name: value}))
    trained(program, device_pixels(tmp_path, most_bytes=0), RICH, fold=2)
    predict(program, pixels, program.inference_state(program.initial_state(start_of(program))), np.arange(3), 8)
    assert sorted(program.traces) == ["logits", "steps"]


def test_a_plan_is_cut_where_it_has_to_be_and_nothing_of_it_is_lost():
    number = np.arange(10)
    plan = StepInputs(*(number[:, None] if k < 5 else number for k in range(8)))
    parts = list(plan.chunks(4, [-2, 0, 5, 10, 12]))
    assert [part.learning_rates.tolist() for part in parts] == [[0, 1, 2, 3], [4], [5, 6, 7], [8, 9]]
    assert [part.rows[:, 0].tolist() for part in parts] == [part.learning_rates.tolist() for part in parts]
    assert len(list(plan.chunks(1 << 30))) == 1


@pytest.mark.parametrize("at_once", [1, 4])
def test_steps_in_one_call_or_in_several_give_the_same_network(at_once, cnn_program, pixels):
    """Four do not divide the steps of an epoch: what pads the last call must not be run."""
    parts = CompiledTrainer(cnn_program.spec)
    assert cnn_program.steps_per_call > 5
    parts.steps_per_call = at_once
    task = replace(fold_task(), steps=5)
    assert difference(trained(cnn_program, pixels, RICH, task=task), trained(parts, pixels, RICH, task=task)) < 1e-6


def test_held_out_rows_are_predicted_in_batches_of_any_size(cnn_program, pixels):
    state = cnn_program.inference_state(cnn_program.initial_state(start_of(cnn_program)))
    rows = np.arange(N_IMAGES - 3)
    expected = predict(cnn_program, pixels, state, rows, 2)
    other = CompiledTrainer(shape_of())
    other.held_out_batch = 5
    np.testing.assert_allclose(predict(other, pixels, state, rows, 2), expected, atol=1e-5)
