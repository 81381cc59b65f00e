"""The proposed trial of a study: its cost, the reason that is given, and its difference to the default parameters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bhsearch.engines.base import Trial
from bhsearch.evaluation.bootstrap import bootstrap_scores, group_draws
from bhsearch.evaluation.metrics import score
from bhsearch.evaluation.selection.bbc_cv import corrected_score
from bhsearch.evaluation.selection.proposal import MARGIN
from bhsearch.objectives.base import MS_PER_IMAGE
from bhsearch.objectives.space import frozen_space, starting_point
from bhsearch.states import COMPLETE
from bhsearch.study.outcome.ranking import correct, rank
from bhsearch.study.outcome.selection import compare_with_default, explanation, prediction_costs, proposed_of
from tests.evaluation.simulated import simulate
from tests.tasks.samples import BINARY

SPACE = frozen_space(("staintex-s", "staintex-l"))


def trial(number, value, milliseconds=None, **changes):
    cost = {} if milliseconds is None else {MS_PER_IMAGE: milliseconds}
    params = starting_point(SPACE, "staintex-s") | {"hidden_units": 16, "policy": "dihedral"} | changes
    return Trial(number, COMPLETE, params, value, {"seconds": 1.0, **cost})


@pytest.fixture(scope="module")
def close():
    """Predictions of four trials: two that cannot be told apart, a third a little worse, and one that guesses."""
    good, rng = simulate(n_cases=60, largest=6), np.random.default_rng(1)
    noise = [rng.normal(0, scale, good.probability.shape) for scale in (0.0, 0.002, 0.002)]
    made = [replace(good, probability=np.clip(good.probability + each, 0, 1)) for each in noise]
    return dict(enumerate([*made, replace(good, probability=rng.uniform(size=good.probability.shape))]))


def records_of(predictions, costs):
    return [
        trial(number, score(each, BINARY), cost, backbone=f"network-{number}")
        for (number, each), cost in zip(predictions.items(), costs, strict=True)
    ]


def test_the_cheapest_of_the_tied_trials_is_proposed_and_the_best_score_stays_first(close):
    scores = [score(each, BINARY) for each in close.values()]
    assert max(scores[:3]) - min(scores[:3]) < MARGIN  # else there is nothing to choose
    best = int(np.argmax(scores))
    cheap = (best + 1) % 3
    costs = [4.0 if number != cheap else 1.0 for number in close]
    costs[3] = 0.1
    ranking = rank(records_of(close, costs), close, BINARY)
    assert ranking[0].trial.number == best
    assert [row.trial.number for row in ranking if row.proposed] == [cheap]
    assert proposed_of(ranking).milliseconds == 1.0
    (said,) = explanation(ranking, None)
    assert said == (
        f"Trial {best} has the best score, {scores[best]:.4f}. Trial {cheap} is proposed: its score, "
        f"{scores[cheap]:.4f}, is within 0.002 and tied with the best, and it takes 1 instead of 4 ms an image."
    )


def test_at_equal_or_unknown_cost_the_best_score_is_proposed(close):
    for costs in ([2.0] * 4, [None] * 4):
        ranking = rank(records_of(close, costs), close, BINARY)
        assert ranking[0].proposed
        assert sum(row.proposed for row in ranking) == 1
        assert "has the best score and is proposed: no cheaper trial" in explanation(ranking, None)[0]


def test_without_predictions_of_the_best_the_best_is_proposed(close):
    records = records_of(close, [1.0, 2.0, 3.0, 4.0])
    best = rank(records, close, BINARY)[0].trial.number
    ranking = rank(records, {number: each for number, each in close.items() if number != best}, BINARY)
    assert ranking[0].proposed
    assert explanation(ranking, None) == [f"Trial {best} has the best score and is proposed."]
    assert explanation([], None) == []


def test_trials_far_below_the_best_do_not_influence_the_proposal(close):
    """What a registration relies on, which reads the predictions of the trials near the best only."""
    records = records_of(close, [2.0, 1.0, 3.0, 0.1])
    near = {number: each for number, each in close.items() if number != 3}
    chosen = [proposed_of(rank(records, known, BINARY)).trial.number for known in (close, near)]
    assert chosen[0] == chosen[1]


def test_the_correction_uses_the_same_costs(close):
    costs = [4.0, 1.0, 2.0, 0.1]
    records = records_of(close, costs)
    corrected, _ = correct(records, close, BINARY)
    assert corrected == corrected_score(list(close.values()), BINARY, cost=costs)
    assert corrected.raw == proposed_of(rank(records, close, BINARY)).value
    earlier, _ = correct(records[1:], {n: p for n, p in close.items() if n}, BINARY, [close[0]], 1)
    assert earlier == corrected_score([*(close[n] for n in (1, 2, 3)), close[0]], BINARY, cost=[*costs[1:], np.inf])


def test_the_noise_of_a_measurement_does_not_make_a_model_cheaper():
    same = [trial(0, 0.9, 3.0), trial(1, 0.9, 5.0), trial(2, 0.9, 4.0), trial(3, 0.9)]
    assert prediction_costs(same).tolist() == [4.0] * 4
    views = trial(4, 0.9, 9.0, tta=True)
    assert prediction_costs([*same, views]).tolist() == [4.0] * 4 + [9.0]
    assert prediction_costs([trial(0, 0.9)]).tolist() == [np.inf]
    network = {"backbone": "cnn", "image_size": 96, "tta": False, "policy": "stain"}
    finetuned = [Trial(k, COMPLETE, network | {"policy": p}, 0.9, {MS_PER_IMAGE: 2.0 + k}) for k, p in enumerate("ab")]
    assert prediction_costs(finetuned).tolist() == [2.5, 2.5]  # the policy of a network costs nothing at prediction


def test_the_proposed_trial_is_compared_with_the_cheapest_default(close):
    values = {number: score(each, BINARY) for number, each in close.items()}
    dear, cheap = (starting_point(SPACE, name) for name in ("staintex-l", "staintex-s"))
    records = [
        Trial(0, COMPLETE, dear, values[3], {MS_PER_IMAGE: 2.0}),
        Trial(1, COMPLETE, cheap | {"views": 4, "tta": True}, values[1], {MS_PER_IMAGE: 1.0}),  # views have no effect
        trial(2, values[2], 1.0),
    ]
    predictions = {0: close[3], 1: close[1], 2: close[2]}
    ranking = rank(records, predictions, BINARY)
    found = compare_with_default(ranking, predictions, SPACE, BINARY)
    assert (found.number, found.backbone, found.score) == (1, "staintex-s", values[1])
    chosen = proposed_of(ranking)
    draws = group_draws(close[1].group, close[1].stratum)
    differences = bootstrap_scores(predictions[chosen.trial.number], draws, BINARY) - bootstrap_scores(
        close[1], draws, BINARY
    )
    assert found.difference == chosen.value - values[1]
    assert (found.low, found.high) == pytest.approx(np.nanquantile(differences, [0.025, 0.975]), abs=1e-12)
    said = explanation(ranking, found)[-1]
    if chosen.trial.number == 1:
        assert said == "The proposed trial has the default parameters of staintex-s."
    else:
        assert said.startswith(f"Difference to trial 1, the default parameters of staintex-s (AUC {values[1]:.4f}): ")


def test_the_first_of_equally_cheap_defaults_is_compared(close):
    starts = [Trial(k, COMPLETE, starting_point(SPACE, b), 0.6) for k, b in enumerate(("staintex-l", "staintex-s"))]
    ranking = rank([*starts, trial(2, 0.9)], close, BINARY)
    found = compare_with_default(ranking, close, SPACE, BINARY)
    assert found.number == 0
    assert f"(AUC 0.6000): +0.3000 [{found.low:+.4f} {found.high:+.4f}], paired over cases" in str(
        explanation(ranking, found)
    )


def test_without_a_default_or_its_predictions_there_is_no_comparison(close):
    ranking = rank(records_of(close, [1.0] * 4), close, BINARY)
    assert compare_with_default(ranking, close, SPACE, BINARY) is None
    start = Trial(4, COMPLETE, starting_point(SPACE, "staintex-s"), 0.5)
    ranking = rank([*records_of(close, [1.0] * 4), start], close, BINARY)
    assert compare_with_default(ranking, close, SPACE, BINARY) is None
    assert compare_with_default([], {}, SPACE, BINARY) is None
