"""Bags of heads on one small split; `experiments/benchmarks/bagging.md` has more and larger ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from bhsearch.objectives.scoring import ValidationFolds
from tests.evaluation.simulated import simulate
from tests.experiments.test_experiments import load

SMALL = ["--data", "phantom:cases=60,images=2", "--backbones", "staintex-s", "--image-size", "48", "--folds", "3"]


@pytest.fixture(scope="module")
def bagging():
    load("ensembles")
    return load("bagging")


@pytest.mark.slow
def test_bags_are_compared_with_single_heads(bagging, capsys):
    found = bagging.main([*SMALL, "--splits", "2", "--trials", "4", "--bags", "2"])
    printed = capsys.readouterr().out
    for kind, outcomes in found.items():
        assert len(outcomes) == 2
        assert bagging.row(kind, outcomes) in printed
        for one in outcomes:
            assert max(map(abs, one.rank)) <= 1
            assert one.auc[0] != one.auc[1]


def test_each_bag_leaves_out_other_groups_of_the_training_part(bagging):
    template = simulate(30, largest=4)
    bags, folds = bagging.Bags(template, 3), ValidationFolds(template.fold)
    left_out = folds.training[:, None] & ~bags.training.reshape(len(folds.training), 3, -1)
    assert (left_out.sum(axis=1) == folds.training).all()  # each training image is left out by one bag
    for of_fold in left_out:
        groups = [set(template.group[mask]) for mask in of_fold]
        assert all(groups)
        assert len(set.union(*groups)) == sum(map(len, groups))


def test_the_prediction_of_a_fold_is_the_mean_of_its_heads(bagging):
    template = simulate(30, largest=4)
    bags, folds = bagging.Bags(template, 2), ValidationFolds(template.fold)
    logits = np.random.default_rng(0).normal(size=bags.padded.shape).astype(np.float32)
    means = logit((expit(logits[::2]) + expit(logits[1::2])) / 2)
    assert bags.scatter(logits) == pytest.approx(folds.scatter(means.astype(np.float32)), abs=1e-5)


def test_points_are_of_the_kind_that_was_asked_for(bagging):
    assert all(params["hidden_units"] == 0 for params in bagging.points(["a", "b"], 5, 0, hidden=False))
    assert all(params["hidden_units"] > 0 for params in bagging.points(["a", "b"], 5, 0, hidden=True))
