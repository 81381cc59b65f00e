"""Two small studies with ensembles; `experiments/benchmarks/ensembles.md` has thirty larger ones of each data set."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t
from sklearn.metrics import roc_auc_score

from bhsearch.data.synthetic.phantom import phantom_dataset
from bhsearch.evaluation.ensembles.combination import Weights
from tests.experiments.test_experiments import load

SMALL = ["--data", "phantom:cases=60,images=2", "--backbones", "staintex-s", "--image-size", "48", "--folds", "3"]


@pytest.fixture(scope="module")
def ensembles():
    return load("ensembles")


def test_ensembles_are_compared_with_the_best_trial_on_other_cases(ensembles, capsys):
    found = ensembles.main([*SMALL, "--splits", "2", "--trials", "4"])
    assert found.keys() == ensembles.METHODS.keys()
    printed = capsys.readouterr().out
    for name, outcomes in found.items():
        assert len(outcomes) == 2
        assert ensembles.row(name, outcomes) in printed
        for one in outcomes:
            assert -1 < one.test < 1
            assert one.low <= one.out_of_fold
            assert 1 <= one.n_members <= 4


def test_an_outcome_is_that_of_the_deployed_models(ensembles):
    """An ensemble that is the best trial alone differs nowhere from it."""
    options = ensembles.parser().parse_args([*SMALL, "--splits", "1", "--trials", "3"])
    [study] = ensembles.studies(options)
    best = int(np.argmax(study.scores))
    alone = Weights(np.eye(len(study.scores))[best], 0.0, on_logits=False)
    outcome = ensembles.outcome(study, lambda *_: alone, n_draws=50)
    assert (outcome.test, outcome.n_members) == (0.0, 1.0)
    assert outcome.out_of_fold == pytest.approx(0.0, abs=1e-9)
    member = (best + 1) % len(study.scores)
    other = Weights(np.eye(len(study.scores))[member], 0.0, on_logits=False)
    auc = [
        roc_auc_score(study.test_label, study.test[trial].mean(axis=0), sample_weight=study.test_weight)
        for trial in (member, best)
    ]
    assert ensembles.outcome(study, lambda *_: other, n_draws=50).test == pytest.approx(auc[0] - auc[1])


def test_a_third_of_the_cases_is_put_aside_at_random(ensembles):
    index = phantom_dataset("phantom:cases=60,images=2")
    one, other = ensembles.put_aside(index, 0), ensembles.put_aside(index, 1)
    assert (one != other).any()
    assert (one == ensembles.put_aside(index, 0)).all()
    case = index.column("case")
    assert not set(case[one]) & set(case[~one])
    assert len(set(case[one])) == 20


def test_the_interval_respects_the_overlap_of_the_splits(ensembles):
    values = np.array([0.01, 0.02, -0.01, 0.03])
    mean, half = ensembles.mean_and_half_width(values)
    assert mean == pytest.approx(0.0125)
    assert half == pytest.approx(t.ppf(0.975, 3) * np.sqrt((1 / 4 + 1 / 2) * values.var(ddof=1)))
