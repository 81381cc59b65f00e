"""Record the trials on which engines and pruners are compared.

Of a frozen space, every distinct trial is recorded; of finetuning, as many random trials as `--trials` says.

A third of the development cases is put aside. Each trial is scored on the folds of the other cases, as in a study, and
by the mean of its fold models on the cases put aside. A recording is a file of lines, which is continued where it was
stopped. `--pack` puts recordings into the table that the replays read.

    python -m experiments.benchmarks.engines.record --data path/to/idc --weights-dir path/to/weights --to idc.jsonl
    python -m experiments.benchmarks.engines.record --data phantom:cases=90,images=3,difficulty=0.4 --finetune \
        --trials 100 --weights-dir path/to/weights --to finetune.jsonl
    python -m experiments.benchmarks.engines.record --pack idc.jsonl finetune.jsonl
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from optuna.storages import InMemoryStorage

from bhsearch.config import Settings
from bhsearch.engines.optuna.engine import OptunaEngine, open_study
from bhsearch.errors import BhsearchError
from bhsearch.objectives.space import Parameter, finetune_space
from bhsearch.study.context import FINETUNE, FROZEN, StudyContext, versions
from bhsearch.study.events import ProgressReporter
from experiments.benchmarks.engines import table
from experiments.benchmarks.engines.journal import Journal, read_journal
from experiments.benchmarks.engines.points import Point, frozen_points
from experiments.benchmarks.engines.recorders import FinetuneRecorder, FrozenRecorder, Recorder
from experiments.benchmarks.engines.thirds import HeldOut, put_aside

FROZEN_BACKBONES = "staintex-s,staintex-l,mobilenet-0.25"
FINETUNE_BACKBONES = "cnn,mobilenet-0.25"
FROZEN_SIZE, FINETUNE_SIZE = 96, 48  # pixels
FINETUNE_TRIALS, FINETUNE_FOLDS, MOST_EPOCHS = 100, 3, 8
_EVERY = 20  # trials between two lines of progress
_SHAPE, _SHORT = ("backbone", "hidden_units", "batch", "depth"), 2  # what a program is compiled for; epochs


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings of the study whose trials are recorded."""
    backbones = options.backbones or (FINETUNE_BACKBONES if options.finetune else FROZEN_BACKBONES)
    return Settings(
        data=options.data,
        regime=FINETUNE if options.finetune else FROZEN,
        backbones=tuple(backbones.split(",")),
        weights_dir=options.weights_dir,
        image_size=options.image_size or (FINETUNE_SIZE if options.finetune else FROZEN_SIZE),
        folds=FINETUNE_FOLDS if options.finetune else 5,
        tracking=False,
        quiet=True,
    )


def space_of(prepared: StudyContext) -> tuple[Parameter, ...]:
    """The space of the study, with fewer epochs of finetuning: a trial shall take ten seconds at most."""
    if prepared.regime == FROZEN:
        return prepared.space(prepared.backbones)
    space = finetune_space(tuple(prepared.backbones), prepared.image_sizes)
    return tuple(replace(row, high=MOST_EPOCHS) if row.name == "epochs" else row for row in space)


def points_of(prepared: StudyContext, n_trials: int) -> list[Point]:
    """Return all distinct points of a frozen space, or the points of a random sampler in a finetune space."""
    space = space_of(prepared)
    if prepared.regime == FROZEN:
        return frozen_points(space)
    engine = OptunaEngine(open_study(InMemoryStorage(), "points", {}), space, "random", prepared.settings.seed)
    points = []
    for number in range(n_trials):
        trial = engine.ask()
        engine.complete(trial.number, 0.5, 0.0)
        points.append(Point(number, trial.params))
    return points


def facts_of(prepared: StudyContext, held_out: HeldOut) -> dict[str, object]:
    """What a recording must agree with when it goes on."""
    settings = prepared.settings
    return {
        "data": prepared.index.name,
        "data_fingerprint": prepared.index.fingerprint,
        "split_fingerprint": prepared.split.fingerprint,
        "synthetic": prepared.index.synthetic,
        "regime": prepared.regime,
        "image_size": settings.image_size,
        "folds": settings.folds,
        "seed": settings.seed,
        "backbones": list(prepared.backbones),
        "searched": f"{len(set(prepared.split.groups[prepared.split.development].tolist()))} cases, "
        f"{len(prepared.development)} images",
        "held_out": str(held_out),
        "versions": versions(),
    }


def record(options: argparse.Namespace) -> None:
    """Record what the file does not hold yet."""
    whole = StudyContext.build(settings_of(options), ProgressReporter())
    prepared, held_out = put_aside(whole)
    journal = Journal(options.to, f"{prepared.index.name}-{prepared.regime}", facts_of(prepared, held_out))
    recorder = (FinetuneRecorder if prepared.regime == FINETUNE else FrozenRecorder)(prepared, held_out)
    for backbone, view, seconds in recorder.features():
        if view not in journal.table.features.get(backbone, {}):
            journal.add_features(backbone, view, round(seconds, 3))
            _say(f"features {backbone} {view} {seconds:.1f} s")
    _run(recorder, journal, points_of(prepared, options.trials))


def _run(recorder: Recorder, journal: Journal, points: Sequence[Point]) -> None:
    done = {entry.number for entry in journal.table.entries}
    started = time.monotonic()
    missing = [point for point in points if point.number not in done]
    _warm(recorder, missing)
    for number, point in enumerate(missing, start=1):
        journal.add(recorder.entry(point))
        if number % _EVERY == 0 or number == len(missing):
            took = time.monotonic() - started
            _say(
                f"{journal.table.name}: {len(done) + number} of {len(points)} trials, {took / number:.2f} s each, "
                f"{(len(missing) - number) * took / number / 60:.0f} min to go"
            )


def _warm(recorder: Recorder, points: Sequence[Point]) -> None:
    """Run a short trial of each shape that is compiled, so that no recorded time contains a compilation."""
    compiled = (point for point in points if point.params.get("hidden_units") != 0)  # linear heads are not
    by_shape = {tuple(point.params.get(name) for name in _SHAPE): point for point in compiled}
    for point in by_shape.values():
        recorder.entry(replace(point, params=point.params | {"epochs": _SHORT}))


def pack(files: Sequence[Path], to: Path) -> None:
    """Put recordings into one table file; tables that are there already and not among them stay."""
    tables = table.read(to) if to.exists() else {}
    tables |= {found.name: found for found in map(read_journal, files)}
    ordered = sorted(tables.values(), key=lambda each: (each.facts["regime"] != FROZEN, each.name))
    table.write(to, ordered)
    for name, each in tables.items():
        print(f"{name}: {len(each.entries)} trials, {len(each.entries) - len(each.scored)} failed")
    print(f"{to.name}: {to.stat().st_size / 1e6:.2f} MB")


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", help="data set whose trials are recorded")
    made.add_argument("--weights-dir", help="folder of Keras weight files")
    made.add_argument("--backbones", help=f"comma between ({FROZEN_BACKBONES}; finetune: {FINETUNE_BACKBONES})")
    made.add_argument("--image-size", type=int, help=f"side in pixels ({FROZEN_SIZE}; finetune: {FINETUNE_SIZE})")
    made.add_argument("--finetune", action="store_true", help="record finetuning instead of the frozen regime")
    made.add_argument("--trials", type=int, default=FINETUNE_TRIALS, help=f"of --finetune ({FINETUNE_TRIALS})")
    made.add_argument("--to", type=Path, help="file of lines to record into")
    made.add_argument("--pack", type=Path, nargs="*", help="recordings to put into the table, and nothing else")
    made.add_argument("--table", type=Path, default=table.FILE, help=f"the table ({table.FILE.name} beside this)")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser()
    options = made.parse_args(arguments)
    if options.pack is None and not (options.data and options.to):
        made.error("--data and --to go together, or --pack alone")
    try:
        if options.pack is not None:
            pack(options.pack, options.table)
        else:
            record(options)
    except BhsearchError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    main()
