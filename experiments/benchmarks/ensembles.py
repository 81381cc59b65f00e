"""Ensembles of the trials of a study against its best trial, on cases outside the study.

    python experiments/benchmarks/ensembles.py --data ../shared/data/idc

Each split puts a third of the cases aside. A study searches on the other cases, with the heads, the space and the
sampler of `bhsearch.run`. Its best trial and its ensembles are then scored on the cases put aside, as they would be
deployed: the mean of the fold models.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from optuna.storages import InMemoryStorage
from scipy.stats import t

from bhsearch.data.dataset import Dataset
from bhsearch.data.grouping import units_of_groups
from bhsearch.data.images.pixel_cache import pixel_cache
from bhsearch.data.open_data import open_data
from bhsearch.data.stratify import assign_folds
from bhsearch.engines.optuna.engine import OptunaEngine, open_study
from bhsearch.errors import BhsearchError
from bhsearch.evaluation.ensembles.combination import Method, fit_ensemble, greedy, stack
from bhsearch.evaluation.ensembles.comparison import compare
from bhsearch.evaluation.metrics import epoch_scores, weighted_auc
from bhsearch.evaluation.predictions import Predictions, case_weights
from bhsearch.models import backend
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.backbones.registry import find_backbones
from bhsearch.models.features import FeatureCache, FeatureSubset
from bhsearch.models.resize import make_resize
from bhsearch.objectives.base import TrialResult
from bhsearch.objectives.frozen import FrozenObjective
from bhsearch.objectives.inner_folds import FoldPairs, with_own_fold
from bhsearch.objectives.scoring import sigmoid
from bhsearch.objectives.space import Params, effective, frozen_space
from bhsearch.tasks.binary import BinaryTask

Floats = npt.NDArray[np.floating]
TEST_SHARE = 1 / 3


@dataclass(frozen=True, eq=False)
class Study:
    """Predictions of all trials of one study.

    Attributes:
        template: Labels, folds and groups of the development images.
        scores: Score of each trial. Shape (n_trials,).
        probability: Predictions of each trial for the weights of each fold; see `with_own_fold`. Shape (n_trials,
            n_folds, n_images).
        test_label: Label of each image put aside. Shape (n_test_images,).
        test_weight: Case weight of each image put aside. Shape (n_test_images,).
        test: P(malignant) of these images by each fold model of each trial. Shape (n_trials, n_folds, n_test_images).
    """

    template: Predictions
    scores: Floats
    probability: Floats
    test_label: npt.NDArray[np.int8]
    test_weight: Floats
    test: Floats


def put_aside(index: Dataset, number: int) -> npt.NDArray[np.bool_]:
    """Return the mask of a random third of the cases, stratified like folds. Shape (n_images,)."""
    units = units_of_groups(index)
    random = np.random.default_rng(number)
    chosen = np.zeros(len(units.keys), bool)
    for stratum in np.unique(units.strata):
        members = random.permutation(np.flatnonzero(units.strata == stratum))
        chosen[members[: round(TEST_SHARE * len(members))]] = True
    return np.asarray(chosen[units.number])


def development(index: Dataset, n_folds: int) -> Predictions:
    """Divide images into folds, as predictions that do not say anything yet."""
    units = units_of_groups(index)
    fold = assign_folds(units.keys, units.strata, n_folds, 1)[:, units.number]
    text = {name: index.column(name) for name in ("path", "case", "subtype", "magnification")}
    probability = np.full(fold.shape, 0.5, np.float32)
    label = index.labels.astype(np.int8)
    return Predictions(label, probability, fold, units.number, units.strata[units.number], **text)


def search(
    index: Dataset, features: FeatureCache, backbones: dict[str, Backbone], number: int, options: argparse.Namespace
) -> Study:
    """Search on the cases that are not put aside; the number of the split is also the seed."""
    test = put_aside(index, number)
    template = development(index.select(~test), options.folds)
    inside, outside = FeatureSubset(features, ~test), FeatureSubset(features, test)
    facts = inside, backbones, template.label, template.fold, template.group, number
    objective = FrozenObjective(*facts, task=BinaryTask())
    inner = FrozenObjective(*facts, task=BinaryTask(), held_out=FoldPairs(template.fold))
    storage = open_study(InMemoryStorage(), "ensembles", {})
    engine = OptunaEngine(storage, frozen_space(tuple(backbones)), options.sampler, number)
    found: dict[str, tuple[float, Floats, Floats]] = {}
    for _ in range(options.trials):
        trial = engine.ask()
        point = str(sorted(effective(trial.params).items()))
        if point not in found:
            result = objective(trial.params)
            for_weights = with_own_fold(inner.predictions(trial.params)[2], result.probability, template.fold)
            found[point] = result.score, for_weights, on_test(result, outside, backbones, trial.params)
        engine.complete(trial.number, found[point][0], 0.0)
    scores, probability, predicted = (np.stack(each) for each in zip(*found.values(), strict=True))
    return Study(template, scores, probability, index.labels[test], weights_of(index, test), predicted)


def weights_of(index: Dataset, rows: npt.NDArray[np.bool_]) -> Floats:
    """Return the case weights of some images. Shape (n_rows,)."""
    group = units_of_groups(index).number[rows]
    return case_weights(group, np.zeros((1, len(group)), np.int8))[0]


def on_test(result: TrialResult, features: FeatureCache, backbones: dict[str, Backbone], params: Params) -> Floats:
    """Return P(malignant) of the cases put aside by each fold model. Shape (n_folds, n_test_images)."""
    views = [features.get(backbones[params["backbone"]], view) for view in result.model["views"]]
    return np.mean([sigmoid(result.heads.logits(view)) for view in views], axis=0, dtype=np.float32).T


@dataclass(frozen=True)
class Outcome:
    """An ensemble minus the best trial of a study.

    Attributes:
        test: Difference of the AUC on the cases put aside.
        out_of_fold: Difference of the out-of-fold scores.
        low: Lower end of the paired interval of this difference.
        low_within: The same for the comparison with the best trial of each fold's training part.
        n_members: Mean number of members with a weight over the fold models.
    """

    test: float
    out_of_fold: float
    low: float
    out_of_fold_within: float
    low_within: float
    n_members: float


def outcome(study: Study, method: Method, n_draws: int = 1000) -> Outcome:
    """Fit an ensemble and compare it with the best trial, out of fold and on the cases put aside."""
    template, best = study.template, int(np.argmax(study.scores))
    weights, ensemble = fit_ensemble(study.probability, template, BinaryTask(), method)
    images = np.arange(len(template))
    single = replace(template, probability=study.probability[best, template.fold[0], images][None])
    within = replace(template, probability=study.probability[best_within(study), template.fold[0], images][None])
    deployed = np.mean([each.combine(study.test[:, k]) for k, each in enumerate(weights)], axis=0)
    auc, auc_of_best = (
        float(weighted_auc(study.test_label, probability, study.test_weight))
        for probability in (deployed, study.test[best].mean(axis=0))
    )
    against_best, against_within = (compare(ensemble, each, BinaryTask(), n_draws) for each in (single, within))
    return Outcome(
        auc - auc_of_best,
        against_best.difference,
        against_best.low,
        against_within.difference,
        against_within.low,
        float(np.mean([(each.members > 1e-3).sum() for each in weights])),
    )


def best_within(study: Study) -> npt.NDArray[np.int64]:
    """Return for each image the best trial by the inner predictions for the weights of its fold. Shape (n_images,)."""
    template = study.template
    chosen = []
    for k in range(template.n_folds):
        rows = template.fold[0] != k
        scores = epoch_scores(
            study.probability[:, k, rows][:, None],
            template.label[rows],
            template.fold[:, rows],
            template.weight[:, rows],
            weighted_auc,
        )
        chosen.append(int(np.argmax(scores)))
    return np.array(chosen)[template.fold[0]]


def mean_and_half_width(values: Floats) -> tuple[float, float]:
    """Return the mean over splits, and half the width of its 95 % confidence interval.

    The splits overlap, so that the variance of the mean is `(1 / n_splits + n_test / n_training) * variance`.

    Source:
        Nadeau and Bengio, "Inference for the generalization error", Machine Learning 52, 2003.
    """
    factor = 1 / len(values) + TEST_SHARE / (1 - TEST_SHARE)
    return float(values.mean()), float(t.ppf(0.975, len(values) - 1) * np.sqrt(factor * values.var(ddof=1)))


METHODS: dict[str, Method] = {"greedy": greedy, "stack": stack}
HEAD = (
    "| ensemble | members | ungated | better | gated | opened | out of fold | gated within folds | opened "
    "| out of fold |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def row(name: str, outcomes: Sequence[Outcome]) -> str:
    """Return a row of the table."""
    test, difference, low, within, low_within, members = np.array([list(vars(each).values()) for each in outcomes]).T

    def shown(values: Floats) -> str:
        mean, half = mean_and_half_width(values)
        return f"{mean:+.4f} [{mean - half:+.4f} {mean + half:+.4f}]"

    cells = [name, f"{members.mean():.1f}", shown(test), f"{(test > 0).sum()} of {len(test)}"]
    for of_fold, gate in ((difference, low > 0), (within, low_within > 0)):
        cells += [shown(np.where(gate, test, 0.0)), f"{gate.sum()} of {len(gate)}", f"{of_fold.mean():+.4f}"]
    return f"| {' | '.join(cells)} |"


def opened(options: argparse.Namespace) -> tuple[Dataset, FeatureCache, dict[str, Backbone]]:
    """Open the data and import the framework; return the data set, its features and the backbones by name."""
    index = open_data(options.data)
    backend.import_backend()
    found = find_backbones(options.backbones.split(","), options.weights_dir)
    pixels = pixel_cache(index, make_resize("crop", options.image_size))
    return index, FeatureCache(pixels, options.feature_backend), {each.name: each for each in found.backbones}


def studies(options: argparse.Namespace) -> Iterator[Study]:
    """Run the study of each split."""
    index, features, backbones = opened(options)
    for number in range(options.splits):
        yield search(index, features, backbones, number, options)


def data_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the data and the size of a study."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", default="phantom:cases=150", help="(phantom:cases=150)")
    made.add_argument("--backbones", default="staintex-s,staintex-l", help="comma between (staintex-s,staintex-l)")
    made.add_argument("--weights-dir", type=Path, help="folder of ImageNet weights")
    made.add_argument("--trials", type=int, default=20, help="of each study (20)")
    made.add_argument("--folds", type=int, default=5, help="at least 3 (5)")
    made.add_argument("--image-size", type=int, default=96, help="side in pixels (96)")
    made.add_argument("--feature-backend", default="auto", help="auto, openvino or keras (auto)")
    return made


def parser() -> argparse.ArgumentParser:
    made = data_parser(__doc__)
    made.add_argument("--sampler", default="tpe", help="(tpe)")
    made.add_argument("--splits", type=int, default=30, help="(30)")
    return made


def main(arguments: Sequence[str] | None = None) -> dict[str, list[Outcome]]:
    """Print the table, and return the outcomes of each kind of ensemble."""
    options = parser().parse_args(arguments)
    started = time.monotonic()
    found: dict[str, list[Outcome]] = {name: [] for name in METHODS}
    try:
        for study in studies(options):
            for name, method in METHODS.items():
                found[name].append(outcome(study, method))
    except BhsearchError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    print(HEAD)
    for name, outcomes in found.items():
        print(row(name, outcomes))
    print(f"\n{options.splits} studies of {options.trials} trials in {time.monotonic() - started:.0f} s")
    return found


if __name__ == "__main__":
    main()
