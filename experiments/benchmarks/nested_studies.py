"""What a nested search reports, against the truth and the corrected score, on studies of synthetic tissue.

    python experiments/benchmarks/nested_studies.py --studies 30 --trials 20

Each study has a phantom of its own and searches as `bhsearch run` does. Then the search is repeated without each fold,
as with `--nested`. In a null study the images do not depend on the labels, and the true AUC of every model is 0.5. In a
non-null study the truth is the AUC of the proposed trial's deployed model on fresh cases. Study k has the phantom and
the sampler of seed k: nothing is chosen afterwards.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bhsearch.config import Settings
from bhsearch.data.grouping import units_of_groups
from bhsearch.data.images.pixel_cache import pixel_cache
from bhsearch.data.open_data import open_data
from bhsearch.engines.optuna.engine import engine_in_memory
from bhsearch.errors import BhsearchError
from bhsearch.evaluation.metrics import weighted_auc
from bhsearch.evaluation.predictions import Predictions, case_weights
from bhsearch.models import backend
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.features import FeatureCache
from bhsearch.models.resize import make_resize
from bhsearch.objectives.base import TrialResult
from bhsearch.objectives.frozen import deployed_probability
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.objective_factory import cached_features, frozen_objective
from bhsearch.study.outcome.nested import nested_score
from bhsearch.study.outcome.ranking import correct, rank
from bhsearch.study.outcome.selection import proposed_of

KINDS = {"null": 1.0, "non-null": 0.7}  # difficulty of the phantom
CHANCE = 0.5
FRESH_SEED = 1_000_000
FRESH_IMAGES = 2  # of each fresh case

Truth = Callable[[TrialResult, Backbone, str], float]


@dataclass(frozen=True)
class Found:
    """Scores of one study.

    Attributes:
        truth: True AUC of the proposed model.
        raw: Out-of-fold score of the proposed trial.
        corrected, corrected_low, corrected_high: Corrected score and its interval.
        bound: Lower bound of the proposed trial's score.
        nested, nested_low, nested_high: Score of the nested search and its interval.
        seconds: Seconds of processor of the search.
        nested_seconds: Seconds of processor of the nested search.
    """

    truth: float
    raw: float
    corrected: float
    corrected_low: float
    corrected_high: float
    bound: float
    nested: float
    nested_low: float
    nested_high: float
    seconds: float
    nested_seconds: float


def study(kind: str, number: int, options: argparse.Namespace, truth: Truth) -> Found:
    """Run one study and its nested search.

    Args:
        kind: A key of `KINDS`.
        number: Number of the study: the seed of its phantom and of its searches.
        options: Options of the command.
        truth: Function that returns the true AUC of the deployed model of a trial.
    """
    settings = Settings(
        data=f"phantom:cases={options.cases},images={options.images},difficulty={KINDS[kind]},seed={number}",
        backbones=tuple(options.backbones.split(",")),
        image_size=options.image_size,
        folds=options.folds,
        trials=options.trials,
        sampler=options.sampler,
        seed=number,
        tracking=False,
        workers=0,
    )
    reporter = ProgressReporter()
    context = StudyContext.build(settings, reporter)
    space = context.space(context.backbones)
    objective = frozen_objective(context, context.images, cached_features(context, reporter))
    engine = engine_in_memory(space, options.sampler, number)
    predictions: dict[int, Predictions] = {}
    began = time.process_time()
    for _ in range(options.trials):
        trial = engine.ask()
        result = objective(trial.params)
        predictions[trial.number] = context.images.predictions(result.probability)
        engine.complete(trial.number, result.score, result.seconds, None, result.milliseconds)
    searched = time.process_time()
    nested = nested_score(context, space, options.trials, reporter)
    ended = time.process_time()
    chosen = proposed_of(rank(engine.trials(), predictions, context.task))
    corrected, reason = correct(engine.trials(), predictions, context.task)
    if chosen is None or corrected is None:
        raise BhsearchError(f"Study {number} has no corrected score: {reason}")
    return Found(
        truth(objective(chosen.params), context.backbones[chosen.params["backbone"]], context.task.link),
        chosen.value,
        corrected.score,
        corrected.low,
        corrected.high,
        corrected.bound,
        nested.score,
        nested.low,
        nested.high,
        searched - began,
        ended - searched,
    )


def studies(kind: str, options: argparse.Namespace) -> Iterator[Found]:
    """Yield the studies 0, 1, 2, ... of a kind."""
    index = open_data(
        f"phantom:cases={options.fresh_cases},images={FRESH_IMAGES},difficulty={KINDS[kind]},seed={FRESH_SEED}"
    )
    fresh = FeatureCache(pixel_cache(index, make_resize("crop", options.image_size)), "auto")
    weight = case_weights(units_of_groups(index).number, np.zeros((1, len(index)), np.int8))[0]

    def truth(result: TrialResult, backbone: Backbone, link: str) -> float:
        if kind == "null":
            return CHANCE
        return float(weighted_auc(index.labels, deployed_probability(result, backbone, link, fresh), weight))

    for number in range(options.studies):
        yield study(kind, number, options, truth)


HEAD = (
    "| truth | score | mean | minus truth | interval or bound holds | width | processor seconds |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)


def rows(kind: str, found: Sequence[Found]) -> list[str]:
    """Return a row for each score: its mean, its difference to the truth, and how many intervals hold the truth."""
    values = {name: np.array([getattr(each, name) for each in found]) for name in Found.__dataclass_fields__}
    truth = values["truth"]

    def line(name: str, score: str, holds: npt.NDArray[np.bool_] | None, width: str, seconds: str) -> str:
        difference = values[score] - truth
        error = difference.std(ddof=1) / np.sqrt(len(found)) if len(found) > 1 else float("nan")
        held = "" if holds is None else f"{holds.sum()} of {len(found)}"
        start = f"| {kind} | {name} | {values[score].mean():.3f} | {difference.mean():+.3f} +- {error:.3f} "
        return f"{start}| {held} | {width} | {seconds} |"

    def inside(low: str, high: str) -> tuple[npt.NDArray[np.bool_], str]:
        width = (values[high] - values[low]).mean()
        return (values[low] <= truth) & (truth <= values[high]), f"{width:.3f}"

    searched, nested = (f"{np.median(values[name]):.1f}" for name in ("seconds", "nested_seconds"))
    below = f"{(values['raw'] - values['bound']).mean():.3f} below"
    return [
        line("proposed trial", "raw", None, "", searched),
        line("corrected (BBC-CV)", "corrected", *inside("corrected_low", "corrected_high"), ""),
        line("lower bound (MABT)", "bound", values["bound"] <= truth, below, ""),
        line("nested search", "nested", *inside("nested_low", "nested_high"), nested),
    ]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--studies", type=int, default=30, help="of each kind (30)")
    made.add_argument("--trials", type=int, default=20, help="of each search (20)")
    made.add_argument("--cases", type=int, default=75, help="of each phantom; a fifth is sealed (75)")
    made.add_argument("--images", type=int, default=4, help="of a case, on average (4)")
    made.add_argument("--fresh-cases", type=int, default=2000, help="for the truth (2000)")
    made.add_argument("--kinds", default="null,non-null", help="comma between (null,non-null)")
    made.add_argument("--backbones", default="staintex-s,staintex-l", help="comma between (staintex-s,staintex-l)")
    made.add_argument("--sampler", default="tpe", help="(tpe)")
    made.add_argument("--folds", type=int, default=5, help="(5)")
    made.add_argument("--image-size", type=int, default=96, help="side in pixels (96)")
    return made


def main(arguments: Sequence[str] | None = None) -> dict[str, list[Found]]:
    """Print the table, and return the studies of each kind."""
    options = parser().parse_args(arguments)
    started = time.monotonic()
    found: dict[str, list[Found]] = {}
    try:
        backend.import_backend()
        print(HEAD)
        for kind in options.kinds.split(","):
            found[kind] = list(studies(kind, options))
            print("\n".join(rows(kind, found[kind])), flush=True)
    except BhsearchError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    print(f"\n{sum(map(len, found.values()))} studies in {time.monotonic() - started:.0f} s")
    return found


if __name__ == "__main__":
    main()
