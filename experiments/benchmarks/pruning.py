r"""What pruning costs and what it saves: Optuna's pruners replayed over recorded learning curves of whole trials.

`--record` runs the studies of `STUDIES` as `bhsearch.run --regime finetune` does, on synthetic tissue with a random
sampler and no pruner, and keeps every report of every trial in one small file; started again, it goes on where it
stopped. Without it the file is read, and each pruner hears the reports in the order in which they were made. A random
sampler takes no notice of scores, so the trials of a study are the same with any pruner, and a replay says exactly what
that pruner would have done. It could as well have drawn them in another order: so the means over some random orders
stand beside.

The constants of the pruners in `bhsearch/engines/optuna/pruners.py` were chosen on the studies called `tune-`; what
they are worth stands in the rows of the others.

    python experiments/benchmarks/pruning.py --data experiments/benchmarks/pruning_curves.json.gz
    python experiments/benchmarks/pruning.py --data experiments/benchmarks/pruning_curves.json.gz \
        --record --weights-dir path/to/weights
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner

from bhsearch.config import Settings
from bhsearch.engines.optuna.engine import OptunaEngine, open_study
from bhsearch.engines.optuna.pruners import PRUNERS, pruner_inputs
from bhsearch.errors import BhsearchError, DataError
from bhsearch.models.training.finetune import EVALS_PER_FOLD
from bhsearch.objectives.base import IntermediateValue
from bhsearch.objectives.space import Parameter
from bhsearch.study.context import FINETUNE, StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.objective_factory import make_objective

CURVES = Path(__file__).with_name("pruning_curves.json.gz")
MOST_LOSS, MOST_SHARE = 0.01, 0.5  # what is asked of a pruner
TUNING = "tune-"
ORDERS = 20
BACKBONES = ("cnn", "mobilenet-0.25")
IMAGE_SIZE, FOLDS, N_TRIALS, MOST_EPOCHS = 48, 3, 24, 8
# Name, cases, images of a case, difficulty, seed: those called `tune-` are for choosing the pruners' constants, the
# others for what these are worth.
_ROWS = (
    ("tune-1", 60, 3, 0.3, 11),
    ("study-1", 60, 3, 0.3, 21),
    ("study-2", 60, 3, 0.5, 22),
    ("tune-2", 60, 3, 0.5, 12),
    ("study-3", 75, 2, 0.4, 23),
    ("study-4", 50, 4, 0.5, 24),
    ("tune-3", 50, 4, 0.4, 13),
    ("study-5", 60, 3, 0.6, 25),
)
STUDIES = tuple(
    (name, f"phantom:cases={cases},images={images},difficulty={difficulty},seed={seed}", seed)
    for name, cases, images, difficulty, seed in _ROWS
)


@dataclass(frozen=True)
class Curve:
    """A whole trial as it was heard of.

    Attributes:
        params: Its point.
        reports: Step, mean so far and, at the end of a fold, the fold's score; see `engine.IntermediateValue`.
        score: Its value in the end.
        seconds: What it took, compilation included.
    """

    params: dict[str, Any]
    reports: list[tuple[int, float, float | None]]
    score: float
    seconds: float

    @property
    def n_epochs(self) -> int:
        """Of all its folds together."""
        return int(self.params["epochs"]) * (self.reports[-1][0] // EVALS_PER_FOLD + 1)

    def epochs_at(self, step: int) -> float:
        """Epochs done, over all folds, when a step was reported."""
        return int(self.params["epochs"]) * (step + 1) / EVALS_PER_FOLD


@dataclass(frozen=True)
class Replayed:
    """What a pruner did to a study.

    Attributes:
        loss: Best score of all trials less the best of those that were not pruned.
        share: Epochs that were trained, of those of all trials.
        n_pruned: Trials that it ended.
    """

    loss: float
    share: float
    n_pruned: int


# -- recording --------------------------------------------------------------------------------------------------------


def record(file: Path, weights_dir: Path, studies: Sequence[tuple[str, str, int]], n_trials: int) -> None:
    """Run what is not recorded yet; the file is written after every trial."""
    recorded = read(file) if file.exists() else {}
    for name, data, seed in studies:
        curves = recorded.setdefault(name, [])
        if len(curves) >= n_trials:
            continue
        started = time.monotonic()
        run = _Recorder(data, seed, weights_dir, curves)
        while len(curves) < n_trials:
            curves.append(run.trial())
            write(file, recorded)
        scores = [curve.score for curve in curves]
        print(
            f"{name}: {data}, {len(curves)} trials in {time.monotonic() - started:.0f} s, "
            f"scores {min(scores):.3f} to {max(scores):.3f}",
            file=sys.stderr,
        )


class _Recorder:
    """A study without a pruner, set to where its curves stop."""

    def __init__(self, data: str, seed: int, weights_dir: Path, curves: Sequence[Curve]) -> None:
        prepared = StudyContext.build(_settings(data, seed, weights_dir), ProgressReporter())
        space = shorter(prepared.space(prepared.backbones))
        study = open_study(optuna.storages.InMemoryStorage(), "curves", {})
        self._engine = OptunaEngine(study, space, "random", seed)
        self._objective = self._make(prepared)
        for curve in curves:
            trial = self._engine.ask()
            if trial.params != curve.params:
                raise DataError(
                    f"the recorded trials must be those of {data}, but trial {trial.number} has {curve.params}, "
                    f"and the sampler now gives {trial.params}: record into a new file."
                )
            self._engine.complete(trial.number, curve.score, curve.seconds)

    @staticmethod
    def _make(prepared: StudyContext) -> Any:
        return make_objective(prepared, {}, ProgressReporter())

    def trial(self) -> Curve:
        """The next trial, whole."""
        trial = self._engine.ask()
        heard: list[IntermediateValue] = []
        outcome = self._objective(trial.params, heard.append)
        self._engine.complete(trial.number, outcome.score, outcome.seconds)
        reports = [(report.step, round(report.mean, 6), _rounded(report.fold)) for report in heard]
        return Curve(trial.params, reports, round(outcome.score, 6), round(outcome.seconds, 2))


def _settings(data: str, seed: int, weights_dir: Path) -> Settings:
    return Settings(
        data=data,
        seed=seed,
        regime=FINETUNE,
        backbones=BACKBONES,
        weights_dir=str(weights_dir),
        image_size=IMAGE_SIZE,
        folds=FOLDS,
        sampler="random",
        tracking=False,
        quiet=True,
    )


def shorter(space: Sequence[Parameter]) -> tuple[Parameter, ...]:
    """The finetune space with at most `MOST_EPOCHS` epochs."""
    return tuple(replace(row, high=MOST_EPOCHS) if row.name == "epochs" else row for row in space)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


# -- the file ---------------------------------------------------------------------------------------------------------


def write(file: Path, studies: dict[str, list[Curve]]) -> None:
    """Keep the curves; whole or not at all, and the same bytes for the same curves."""
    text = json.dumps({name: [asdict(curve) for curve in curves] for name, curves in studies.items()})
    draft = file.with_name(file.name + ".part")
    draft.write_bytes(gzip.compress(text.encode(), mtime=0))
    draft.replace(file)


def read(file: Path) -> dict[str, list[Curve]]:
    """Curves by study, in the order in which they were made.

    Raises:
        DataError: If it is no such file.
    """
    try:
        studies = json.loads(gzip.decompress(file.read_bytes()))
        return {
            name: [
                Curve(each["params"], [(s, m, f) for s, m, f in each["reports"]], each["score"], each["seconds"])
                for each in curves
            ]
            for name, curves in studies.items()
        }
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"--data must be a file that --record made, but {file} is not: {error}") from error


# -- replaying --------------------------------------------------------------------------------------------------------


def replay(curves: Sequence[Curve], name: str, make: Callable[[int], BasePruner] | None = None) -> Replayed:
    """Let a pruner hear a study's reports again.

    Args:
        curves: The study's trials in their order.
        name: A key of `PRUNERS`; what the pruner is told goes by it.
        make: Makes the pruner from the reports of a fold; that of `PRUNERS` where None.
    """
    made = (make or PRUNERS[name])(EVALS_PER_FOLD)
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage(), direction="maximize", pruner=made)
    kept, used = [], 0.0
    for curve in curves:
        trial = study.ask()
        ended = _ended_at(trial, curve, name)
        if ended is None:
            study.tell(trial, curve.score)
            kept.append(curve.score)
            used += curve.n_epochs
        else:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            used += curve.epochs_at(ended)
    best = max(curve.score for curve in curves)
    return Replayed(best - max(kept), used / sum(curve.n_epochs for curve in curves), len(curves) - len(kept))


def _ended_at(trial: optuna.Trial, curve: Curve, name: str) -> int | None:
    """The step at which a pruner ends a trial, or None; one that is done is not ended any more."""
    last = curve.reports[-1][0]
    for step, mean, fold in curve.reports:
        heard = pruner_inputs(name, IntermediateValue(step, mean, fold), EVALS_PER_FOLD)
        if heard is None:
            continue
        trial.report(heard[1], heard[0])
        if step < last and trial.should_prune():
            return step
    return None


def shuffled(curves: Sequence[Curve], number: int) -> list[Curve]:
    """Another order of a study's trials; a random sampler could as well have drawn them so."""
    return random.Random(number).sample(list(curves), len(curves))


def tables(studies: dict[str, list[Curve]], orders: int = ORDERS) -> str:
    """Markdown tables: what the studies are, and each pruner's loss and share of the epochs on them."""
    lines = ["| study | trials | epochs | seconds | scores, median and best |", "| --- | --- | --- | --- | --- |"]
    for name, curves in studies.items():
        scores = [curve.score for curve in curves]
        lines.append(
            f"| {name} | {len(curves)} | {sum(c.n_epochs for c in curves)} | {sum(c.seconds for c in curves):.0f} "
            f"| {statistics.median(scores):.3f}, {max(scores):.3f} |"
        )
    for title, some in _parts(studies).items():
        lines += ["", f"| {title} | {' | '.join(some)} | mean |", f"| --- |{' --- |' * (len(some) + 1)}"]
        lines += [row(name, [replay(curves, name) for curves in some.values()]) for name in PRUNERS]
        if orders:
            lines += ["", f"| the same, mean over {orders} random orders | {' | '.join(some)} | mean |"]
            lines.append(f"| --- |{' --- |' * (len(some) + 1)}")
            lines += [row(name, [_over_orders(curves, name, orders) for curves in some.values()]) for name in PRUNERS]
    return "\n".join(lines)


def _over_orders(curves: Sequence[Curve], name: str, orders: int) -> Replayed:
    found = [replay(shuffled(curves, number), name) for number in range(orders)]
    loss, share, n_pruned = (
        statistics.mean(getattr(each, part) for each in found) for part in ("loss", "share", "n_pruned")
    )
    return Replayed(loss, share, round(n_pruned))


def _parts(studies: dict[str, list[Curve]]) -> dict[str, dict[str, list[Curve]]]:
    parts = {
        "chosen on: loss, share of epochs": {n: c for n, c in studies.items() if n.startswith(TUNING)},
        "judged on: loss, share of epochs": {n: c for n, c in studies.items() if not n.startswith(TUNING)},
    }
    return {title: some for title, some in parts.items() if some}


def row(name: str, results: Sequence[Replayed]) -> str:
    """One pruner: loss of the best score and share of the epochs per study, and their means."""
    cells = [f"{each.loss:.3f}, {each.share:.0%}" for each in results]
    loss, share = (statistics.mean(getattr(each, part) for each in results) for part in ("loss", "share"))
    good = loss <= MOST_LOSS and share <= MOST_SHARE
    return f"| {name} | {' | '.join(cells)} | {loss:.4f}, {share:.0%}{' (good)' if good else ''} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=CURVES, help=f"file of recorded curves ({CURVES.name} beside this)"
    )
    parser.add_argument("--record", action="store_true", help="run what the file does not hold yet; takes half an hour")
    parser.add_argument("--weights-dir", type=Path, help="folder of Keras weight files, for --record")
    options = parser.parse_args(arguments)
    if options.record and options.weights_dir is None:
        parser.error("--record needs --weights-dir")
    try:
        if options.record:
            record(options.data, options.weights_dir, STUDIES, N_TRIALS)
        print(tables(read(options.data)))
    except BhsearchError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    main()
