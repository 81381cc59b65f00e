"""The finetune objective: no fold learns from its validation rows, and every failure has a reason."""

from __future__ import annotations

import numpy as np
import pytest

from bhsearch.errors import RunError
from bhsearch.evaluation.metrics import fold_scores
from bhsearch.evaluation.predictions import Predictions
from bhsearch.models.augmentation.policies import FINETUNE_POLICIES
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.backbones.cnn import DIGEST, NAME
from bhsearch.models.inference_model import members_of
from bhsearch.models.training.finetune import EVALS_PER_FOLD
from bhsearch.models.training.train_step import CompiledTrainer
from bhsearch.objectives.base import Pruned
from bhsearch.objectives.finetune import MICRO_BATCHES, N_EXAMPLES
from bhsearch.objectives.space import frozen_space, starting_point
from tests.models.finetuning import own_backbone
from tests.objectives.finetuning import N_FOLDS, SIZE, Data, point
from tests.studies import cache_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
CNN = Backbone(NAME, None, DIGEST, "cnn")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Backbone:
    """A small network of the user's own: it has features, and so frozen heads, and is compiled in seconds."""
    return own_backbone(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BHSEARCH_CACHE", cache_of(tmp_path_factory))
        return Data()


@pytest.fixture(scope="module")
def objective(data, small):
    """Compiled once; what ran before must not matter."""
    return data.objective(small)


class Watched:
    """Keeps what it is told, and ends the trial at a step."""

    def __init__(self, last: int | None = None) -> None:
        self.reports, self._last = [], last

    def __call__(self, report) -> None:
        self.reports.append(report)
        if report.step == self._last:
            raise Pruned

    @property
    def steps(self) -> list[int]:
        return [report.step for report in self.reports]


def members(outcome):
    return members_of(outcome.arrays, outcome.model["n_members"])


def same(one, other) -> bool:
    pairs = zip([*one.weights, *one.head], [*other.weights, *other.head], strict=True)
    return all(a.tobytes() == b.tobytes() for a, b in pairs)


def test_the_score_is_that_of_its_predictions(data, objective, small):
    watched = Watched()
    outcome = objective(point(small, tta=True), watched)
    text = {name: data.index.column(name)[data.rows] for name in ("path", "case", "subtype", "magnification")}
    strata = data.split.strata[data.rows]
    predictions = Predictions(data.label, outcome.probability, data.fold, data.group, strata, **text)
    assert outcome.score == pytest.approx(fold_scores(predictions).mean(), abs=1e-6)
    ends = [report.fold for report in watched.reports if report.fold is not None]
    assert ends == pytest.approx(np.ravel(fold_scores(predictions)).tolist(), abs=1e-6)
    assert watched.reports[-1].mean == pytest.approx(outcome.score, abs=1e-12)
    assert np.ptp(outcome.probability) > 0.01
    assert len(outcome.model["views"]) == 4
    assert outcome.cost["trained_images"] == N_FOLDS * 2 * 16 * -(-objective._n_training_longest // 16)
    assert outcome.cost["peak_memory_mb"] > 10
    assert outcome.cost["ms_per_image"] > 0
    assert outcome.cost["model_mb"] == sum(array.nbytes for array in outcome.arrays.values()) / 1e6


@pytest.mark.parametrize("name", ["small", "cnn"])
def test_noise_in_a_folds_own_rows_leaves_its_network_unchanged_bit_for_bit(
    data, objective, small, tmp_path, monkeypatch, name
):
    """The leak test: pixels and labels of one validation part replaced, from the files on, the warm start included."""
    backbone = small if name == "small" else CNN
    before = (objective if name == "small" else data.objective(CNN))(point(backbone), Watched())
    held_out = data.fold[0] == 1
    noisy = data.with_noise(np.flatnonzero(held_out), tmp_path / "noise")
    monkeypatch.setenv("BHSEARCH_CACHE", str(tmp_path / "cache"))  # features are computed anew
    label = np.where(held_out, 1 - data.label, data.label).astype(np.int8)
    other = data.objective(backbone, noisy, label)
    after = other(point(backbone), Watched())
    assert same(members(before)[1], members(after)[1])
    assert not same(members(before)[0], members(after)[0])  # it learns from those rows, so the noise must show
    if name == "small":
        starts = [some._start(backbone, SIZE)[0] for some in (objective, other)]
        own, others = (
            [
                np.array_equal(a[..., :, k, :] if a.ndim == 3 else a[k], b[..., :, k, :] if b.ndim == 3 else b[k])
                for a, b in zip(*starts, strict=True)
            ]
            for k in (1, 0)
        )
        assert all(own)
        assert not all(others)


@pytest.mark.parametrize("epochs", [2, 3, 7])
def test_trials_of_any_length_report_the_same_steps(objective, small, epochs):
    watched = Watched()
    outcome = objective(point(small, epochs=epochs), watched)
    assert watched.steps == list(range(N_FOLDS * EVALS_PER_FOLD))
    assert [report.step for report in watched.reports if report.fold is not None] == [3, 7]
    assert {name: len(curve) for name, curve in outcome.curves.items()} == dict.fromkeys(
        ("auc", "loss", "training_loss"), EVALS_PER_FOLD
    )


def test_a_trial_says_its_fold_and_epoch(objective, small, monkeypatch):
    told = []
    monkeypatch.setattr(objective, "_tell", told.append)
    objective(point(small, epochs=2), Watched())
    folds = [f"fold {k} of {N_FOLDS}" for k in range(1, N_FOLDS + 1)]
    expected = [f"building {small.name}"]
    for fold in folds:
        expected += [fold, f"{fold}, epoch 1 of 2", f"{fold}, epoch 2 of 2"]
    assert told == expected


def test_a_pruned_trial_has_the_curves_of_what_was_seen(objective, small):
    whole = objective(point(small), Watched())
    for last, n_looks in ((1, 2), (EVALS_PER_FOLD - 1, EVALS_PER_FOLD), (EVALS_PER_FOLD + 1, EVALS_PER_FOLD)):
        with pytest.raises(Pruned) as ended:
            objective(point(small), Watched(last))
        assert {len(curve) for curve in ended.value.curves.values()} == {n_looks}
        assert ended.value.seconds > 0
    assert objective(point(small), Watched()).score == whole.score  # and leaves nothing behind


def test_the_same_point_gives_the_same_outcome_after_others(objective, small):
    first = objective(point(small), Watched())
    objective(point(small, optimizer="sgd", policy="none", mixup=0.0, epochs=3), Watched())
    again = objective(point(small), Watched())
    assert first.score == again.score
    assert all(same(a, b) for a, b in zip(members(first), members(again), strict=True))


def test_heads_that_failed_are_tried_again_and_never_left_out(data, small):
    """Or the next trial would start from nothing and call itself a finetuning of ImageNet."""
    heads = iter([RunError("no heads"), None])

    def of(name):
        error = next(heads)
        if error is not None:
            raise error
        return starting_point(frozen_space((name,)), name)

    objective = data.objective(small, heads=of)
    with pytest.raises(RunError, match="no heads"):
        objective._spec(point(small))
    assert objective._start(small, SIZE) is not None


# -- out of memory -----------------------------------------------------------------------------------------------------


@pytest.fixture
def short_of_memory(monkeypatch):
    """A function: programs raise as often as it says, in the second fold's training."""

    def short(times: int) -> list[int]:
        left, pieces, calls = [times], [], []
        whole = CompiledTrainer.initial_state

        def initial_state(self, member):
            calls.append(1)
            pieces.append(self.spec.micro_batches)
            if left[0] and len(calls) > 2:
                left[0] -= 1
                raise MemoryError("no memory")
            return whole(self, member)

        monkeypatch.setattr(CompiledTrainer, "initial_state", initial_state)
        return pieces

    return short


def test_out_of_memory_once_is_tried_again_in_parts_and_said(data, small, short_of_memory):
    objective = data.objective(small)
    expected = objective(point(small), Watched())
    pieces, watched = short_of_memory(1), Watched()
    outcome = objective(point(small), watched)
    assert set(pieces) == {1, MICRO_BATCHES}
    assert objective.said == ["Out of memory with batches of 16: retrying in 4 parts each."]
    assert outcome.probability == pytest.approx(expected.probability, abs=1e-4)
    assert watched.steps[-1] == N_FOLDS * EVALS_PER_FOLD - 1


def test_out_of_memory_twice_is_a_failure_with_its_reason(data, small, short_of_memory):
    objective = data.objective(small)
    short_of_memory(2)
    with pytest.raises(
        RunError, match=r"too little memory for small at 32 px with a batch of 16, even if the batch is processed in 4"
    ):
        objective(point(small), Watched())
    assert objective._pool._programs == {}  # what did not fit is let go


def test_another_failure_is_not_taken_for_a_lack_of_memory(objective, small, monkeypatch):
    def fail(self, member):
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(CompiledTrainer, "initial_state", fail)
    with pytest.raises(ZeroDivisionError):
        objective(point(small), Watched())
    assert objective.said == []


def test_the_examples_show_each_policy_at_each_strength(data, objective):
    shown = objective.examples()
    assert list(shown) == [policy for policy in FINETUNE_POLICIES if policy != "none"]
    assert {pictures.shape[1:] for pictures in shown.values()} == {(SIZE, SIZE, 3)}
    originals = {pictures[0].tobytes() for pictures in shown.values()}
    assert len(originals) == N_EXAMPLES
    assert all(np.any(pictures[-1] != pictures[0]) for pictures in shown.values())
