"""What the correction for having searched is worth where nothing can be found: studies of permuted labels.

The cases of the phantom keep their images and get each other's labels, so every configuration is worth 0.5 exactly.
Each study then searches as `bhsearch.run` does, with its heads, its space and its samplers, and reports its winner: the
raw score with the interval that a score has when nobody searched (naive), and the corrected score with its own.
Study k takes permutation k and sampler seed k, 0, 1, 2, ...: nothing is chosen afterwards.

    python experiments/benchmarks/null_studies.py --data phantom:cases=75 --studies 100 --trials 30
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from optuna.storages import InMemoryStorage

from bhsearch.data.dataset import Dataset
from bhsearch.data.grouping import units_of_groups
from bhsearch.data.images.pixel_cache import pixel_cache
from bhsearch.data.open_data import open_data
from bhsearch.data.splits import make_split
from bhsearch.data.stratify import assign_folds, strata_of
from bhsearch.engines.optuna.engine import OptunaEngine, open_study
from bhsearch.errors import BhsearchError, DataError
from bhsearch.evaluation.bootstrap import Interval, bootstrap_scores, group_draws, interval
from bhsearch.evaluation.metrics import score
from bhsearch.evaluation.predictions import Predictions
from bhsearch.evaluation.selection.bbc_cv import CorrectedScore, corrected_score
from bhsearch.models import backend
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.backbones.registry import find_backbones
from bhsearch.models.features import FeatureCache
from bhsearch.models.resize import make_resize
from bhsearch.objectives.frozen import FrozenObjective
from bhsearch.objectives.space import frozen_space
from bhsearch.tasks.binary import BinaryTask

CHANCE = 0.5


@dataclass(frozen=True)
class Null:
    """One study of permuted labels.

    Attributes:
        corrected: Raw and corrected score of its winner.
        naive: The winner's interval as if nobody had searched.
    """

    corrected: CorrectedScore
    naive: Interval


def development(index: Dataset) -> Dataset:
    """The images that a study may search on, of data where a case has one label."""
    rows = make_split(index).development
    groups = units_of_groups(index).number[rows]
    labels = index.labels[rows]
    if any(len(np.unique(labels[groups == number])) > 1 for number in np.unique(groups)):
        raise DataError("labels can only be permuted over cases that have one label each, but some here have both.")
    return index.select(rows)


def permuted(index: Dataset, number: int, n_folds: int) -> Predictions:
    """Permutation `number` of the labels over cases, dealt into folds by them; as predictions that say nothing yet."""
    units = units_of_groups(index)
    _, first = np.unique(units.number, return_index=True)
    label = np.random.default_rng(number).permutation(index.labels[first])[units.number].astype(np.int8)
    strata = strata_of(units.number, label)
    fold = assign_folds(units.keys, strata, n_folds, 1)[:, units.number]
    text = {name: index.column(name) for name in ("path", "case", "subtype", "magnification")}
    probability = np.full(fold.shape, 0.5, np.float32)
    return Predictions(label, probability, fold, units.number, strata[units.number], **text)


def search(
    template: Predictions,
    features: FeatureCache,
    backbones: Sequence[Backbone],
    sampler: str,
    seed: int,
    n_trials: int,
) -> list[Predictions]:
    """A study's trials, as the engine and the objective of `bhsearch.run` make them; nothing is logged."""
    by_name = {backbone.name: backbone for backbone in backbones}
    objective = FrozenObjective(
        features, by_name, template.label, template.fold, template.group, seed, task=BinaryTask()
    )
    space = frozen_space(tuple(by_name))
    engine = OptunaEngine(open_study(InMemoryStorage(), "null", {}), space, sampler, seed)
    made = []
    for _ in range(n_trials):
        trial = engine.ask()
        outcome = objective(trial.params)
        engine.complete(trial.number, outcome.score, outcome.seconds)
        made.append(replace(template, probability=outcome.probability))
    return made


def judged(trials: Sequence[Predictions]) -> Null:
    """The winner of a study, corrected and not."""
    winner = trials[int(np.argmax([score(trial, BinaryTask()) for trial in trials]))]
    samples = bootstrap_scores(winner, group_draws(winner.group, winner.stratum), BinaryTask())
    return Null(corrected_score(trials, BinaryTask()), interval(samples))


def studies(index: Dataset, options: argparse.Namespace, sampler: str) -> Iterator[Null]:
    """Studies 0, 1, 2, ... of one sampler."""
    backbones = find_backbones(options.backbones.split(","), None).backbones
    features = FeatureCache(pixel_cache(index, make_resize("crop", options.image_size)), options.feature_backend)
    for number in range(options.studies):
        template = permuted(index, number, options.folds)
        yield judged(search(template, features, backbones, sampler, number, options.trials))


def row(sampler: str, nulls: Sequence[Null]) -> str:
    """A row of the table: means over studies, how many intervals hold 0.5, and their mean widths."""
    raw, corrected = (np.array([getattr(null.corrected, name) for null in nulls]) for name in ("raw", "score"))
    removed = 1 - (corrected.mean() - CHANCE) / (raw.mean() - CHANCE)
    cells = [sampler, f"{raw.mean():.3f}", f"{corrected.mean():.3f} +- {_error(corrected):.3f}", f"{removed:.0%}"]
    for ends in ([(null.corrected.low, null.corrected.high) for null in nulls], [null.naive for null in nulls]):
        held = sum(low <= CHANCE <= high for low, high in ends)
        width = np.mean([high - low for low, high in ends])
        cells += [f"{held} of {len(nulls)}", f"{width:.3f}"]
    return f"| {' | '.join(cells)} |"


HEAD = (
    "| sampler | raw best | corrected | removed | corrected interval holds 0.5 | width | naive interval holds 0.5 "
    "| width |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def _error(values: np.ndarray) -> float:
    """Standard error of the mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", default="phantom:cases=75", help="cases with one label each (phantom:cases=75)")
    made.add_argument("--backbones", default="staintex-s,staintex-l", help="comma between (staintex-s,staintex-l)")
    made.add_argument("--samplers", default="random,tpe", help="comma between (random,tpe)")
    made.add_argument("--studies", type=int, default=100, help="of each sampler (100)")
    made.add_argument("--trials", type=int, default=30, help="of each study (30)")
    made.add_argument("--folds", type=int, default=5, help="(5)")
    made.add_argument("--image-size", type=int, default=96, help="side in pixels (96)")
    made.add_argument("--feature-backend", default="auto", help="of features: auto, openvino or keras (auto)")
    return made


def main(arguments: Sequence[str] | None = None) -> dict[str, list[Null]]:
    options = parser().parse_args(arguments)
    found: dict[str, list[Null]] = {}
    started = time.monotonic()
    try:
        index = development(open_data(options.data))
        backend.import_backend()
        units = units_of_groups(index)
        print(
            f"{len(units.keys)} development cases, {len(index)} images, {options.trials} trials a study, "
            f"{options.folds} folds, {options.backbones} at {options.image_size} px\n\n{HEAD}"
        )
        for sampler in options.samplers.split(","):
            found[sampler] = list(studies(index, options, sampler))
            print(row(sampler, found[sampler]), flush=True)
    except BhsearchError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    n_trials = options.trials * sum(map(len, found.values()))
    print(f"\n{n_trials} trials in {time.monotonic() - started:.0f} s")
    return found


if __name__ == "__main__":
    main()
