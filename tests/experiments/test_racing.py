"""The benchmark of the race: its trials, its truth, and the rules that select among them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bhsearch.evaluation.metrics import score
from bhsearch.evaluation.selection.proposal import MARGIN
from experiments.benchmarks import racing


@pytest.fixture(scope="module")
def trials():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(racing, "N_TRIALS", 12)
        patch.setattr(racing, "N_OUTSIDE", 200)
        return racing.study(*racing.simulated(0), 0)


def test_every_trial_has_predictions_on_all_divisions_a_truth_and_the_cost_of_its_encoder(trials):
    assert len(trials.predictions) == len(trials.truth) == len(trials.cost) == 12
    assert {each.n_repeats for each in trials.predictions} == {racing.N_DIVISIONS}
    assert set(trials.cost) <= set(range(1, 7))
    assert trials.truth.min() > 0.6  # every encoder sees the signal


def test_the_first_divisions_are_scored_alone(trials):
    each = trials.predictions[0]
    rows = [each.fold[0] == k for k in range(racing.N_FOLDS)]
    expected = np.mean([roc_auc_score(each.label[mine], each.probability[0, mine]) for mine in rows])
    assert score(racing.on(each, 1), racing.TASK) == pytest.approx(expected, abs=1e-9)


def test_the_rules_select_what_they_say(trials):
    found = racing.rules(trials)
    first, all_of_them = (
        np.array([score(racing.on(each, n), racing.TASK) for each in trials.predictions]) for n in (1, 6)
    )
    five = np.argsort(-first, kind="stable")[:5]
    assert found["best"] == first.argmax()
    assert found["repeats 6"] == all_of_them.argmax()
    assert found["race 5"] == five[all_of_them[five].argmax()]
    assert first[found["proposed"]] >= first.max() - MARGIN
    assert trials.cost[found["proposed"]] <= trials.cost[found["best"]]
    assert {found[f"race {n}, proposed"] for n in (1, 3, 5)} <= set(five)


def test_a_third_of_the_cases_of_a_file_is_put_aside(tmp_path):
    rng, group = np.random.default_rng(0), np.repeat(np.arange(30), 3)
    label = (group % 2).astype(np.int8)
    np.savez(tmp_path / "features.npz", label=label, group=group, **{"a|identity": rng.normal(size=(90, 4))})
    inside, outside = racing.from_file(tmp_path / "features.npz", 1)
    assert len(np.unique(inside.group)) == 20
    assert len(np.unique(outside.group)) == 10
    assert inside.label.mean() == outside.label.mean() == 0.5
    assert inside.features["a|identity"].shape == (60, 4)
