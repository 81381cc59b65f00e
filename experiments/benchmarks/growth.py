"""How the seconds and the memory of a trial grow with trials, images and fold columns.

A row is one part of a study at one size, as `PART/TRIALS/IMAGES/COLUMNS`. It is measured in a process of its own, in
seconds of the processor, and kept in the file of `--data`; rows in the file are not measured again, so that the whole
can be run in parts. `--rows` names the rows, by default all of the page. All data are simulated: the trials are points
of the frozen space of ten backbones, of which the better ones are tried more often; the images are in 1.5 times as many
cases as the root of their number. 25 fold columns are five repeats of five folds.

    python experiments/benchmarks/growth.py --data growth.json --figure growth.png
    python experiments/benchmarks/growth.py --data growth.json --rows ranking/50/476/5 ranking/500/476/5
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from optuna.trial import create_trial

from bhsearch.engines.base import Trial
from bhsearch.engines.optuna import engine as optuna_engine
from bhsearch.engines.optuna.distributions import distribution
from bhsearch.engines.optuna.engine import OptunaEngine
from bhsearch.engines.optuna.importances import importance_spread, shares_of
from bhsearch.engines.optuna.storages.connection import connect
from bhsearch.errors import BhsearchError, SettingsError
from bhsearch.evaluation.bootstrap import bootstrap_scores, group_draws, interval
from bhsearch.evaluation.metrics import score
from bhsearch.evaluation.predictions import Predictions
from bhsearch.models.training.heads import Moments, standardisation
from bhsearch.models.training.logistic_path import fit_path
from bhsearch.objectives.space import Params, effective, frozen_space
from bhsearch.reporting.figures.palette import CYCLE, INK
from bhsearch.reporting.figures.style import DASHED, new_figure, place_axes, to_png
from bhsearch.reporting.report_data import SealedCases, StudyReport, TrialRow
from bhsearch.reporting.study_report import report_page
from bhsearch.states import COMPLETE
from bhsearch.study.outcome.ranking import N_DRAWS, correct, rank
from bhsearch.study.resume.recovery import next_retry
from bhsearch.study.workers.worker import exceeds_budget, stagnated
from bhsearch.tasks.binary import BinaryTask

SPACE = frozen_space(tuple(f"backbone-{number}" for number in range(10)))
TASK = BinaryTask(("benign", "malignant"))
AXES = {"trials": (50, 500, 5000), "images": (476, 10_000, 100_000), "columns": (1, 5, 25)}
USUAL = {"trials": 50, "images": 476, "columns": 5}
N_POINTS = 6300  # different points of the space
N_TIMED = 20
N_FEATURES = 64
MEANING = {
    "reading": "read all trials, and check the stopping criteria",
    "asking": "propose a trial",
    "completing": "end a trial",
    "interval": "confidence interval of a trial",
    "fit": f"exact linear heads on {N_FEATURES} features",
    "stored": "read predictions from CSV files",
    "ranking": "rank, with intervals and ties",
    "correction": "correct the score for the search",
    "importances": "importances, and their spread",
    "page": "HTML page of the report",
}


class Size(NamedTuple):
    """Trials of a study, images of its development set, and fold columns."""

    trials: int
    images: int
    columns: int


def parameter_sets(n: int) -> list[Params]:
    """Different points of the space, the better ones with a higher probability, as a search tries them."""
    every: dict[str, Params] = {}
    for values in itertools.product(*(row.choices or row.values for row in SPACE)):
        params = dict(zip([row.name for row in SPACE], values, strict=True))
        every.setdefault(str(effective(params)), params)
    points, random = list(every.values()), np.random.default_rng(0)
    luck = np.array([value_of(params) for params in points]) / 0.01 + random.gumbel(size=len(points))
    return [points[place] for place in random.permutation(np.argsort(-luck)[:n])]


def value_of(params: Params) -> float:
    """Some smooth score with one best point."""
    backbone, units = int(params["backbone"].rpartition("-")[2]), params["hidden_units"]
    policy = next(row.choices for row in SPACE if row.name == "policy").index(params["policy"])
    far = abs(params["log10_penalty"] - 1.5)
    return 0.88 - 0.01 * far**2 + 0.001 * min(units, 6) - 0.004 * backbone - 0.002 * policy + 0.002 * params["tta"]


def simulated(size: Size) -> tuple[list[Trial], dict[int, Predictions]]:
    """Complete trials and their predictions, which share what is equal as those of a search do."""
    random = np.random.default_rng(0)
    n_cases = max(round(1.5 * math.sqrt(size.images)), 10)
    case = np.sort(np.concatenate([np.arange(n_cases), random.integers(n_cases, size=size.images - n_cases)]))
    label = (case % 2).astype(np.int8)
    n_folds = min(size.columns, 5)
    of_case = np.stack([random.permutation((n_cases + 1) // 2) % n_folds for _ in range(size.columns // n_folds)])
    fold = of_case[:, case // 2].astype(np.int8)
    name, place = np.array([f"case-{number}" for number in case], object), np.arange(size.images)
    path = np.array([f"folder/of/case/image-{number}.png" for number in place], object)
    common = random.normal(size=fold.shape)
    trials, predictions = [], {}
    for number, params in enumerate(parameter_sets(size.trials)):
        logit = 8 * (value_of(params) - 0.7) * (label - 0.5) + common + 0.5 * random.normal(size=fold.shape)
        probability = (1 / (1 + np.exp(-logit))).astype(np.float32)
        predictions[number] = Predictions(
            label, probability, fold, case.astype(np.int64), label.astype(np.int64), path, name, path, path
        )
        notes = {"ms_per_image": 0.5 + 0.01 * params["hidden_units"], "seconds": 0.1}
        trials.append(Trial(number, COMPLETE, params, score(predictions[number], TASK), notes))
    return trials, predictions


def seconds_of(call: Callable[[], object]) -> float:
    before = time.process_time()
    call()
    return time.process_time() - before


def search(size: Size) -> dict[str, float]:
    """Seconds a trial of what a worker does beside the training, in a database of finished trials."""
    with tempfile.TemporaryDirectory() as folder:
        stored = optuna_engine.open_study(connect(f"sqlite:///{folder}/optuna.db"), "study", {})
        distributions = {row.name: distribution(row) for row in SPACE}
        random = np.random.default_rng(0)
        stored.add_trials(
            [
                create_trial(
                    params=params,
                    distributions=distributions,
                    value=value_of(params) + 0.003 * random.normal(),
                    user_attrs={"seconds": 0.1, "auc_low": 0.8, "auc_high": 0.9, "ms_per_image": 0.5},
                    system_attrs={"bhsearch:owner": {"host": "here", "pid": 1, "started": 1.0}},
                )
                for params in parameter_sets(size.trials)
            ]
        )
        engine = OptunaEngine(stored, SPACE, "tpe", 0)
        engine.complete(engine.ask().number, 0.5, 0.1)  # reads the whole study
        took = dict.fromkeys(("reading", "asking", "completing"), 0.0)
        for _ in range(N_TIMED):
            took["reading"] += seconds_of(lambda: checked(engine.trials()))
            asked: list[Trial] = []
            took["asking"] += seconds_of(lambda to=asked: to.append(engine.ask()))
            (trial,) = asked
            took["completing"] += seconds_of(
                lambda of=trial: engine.complete(of.number, value_of(of.params), 0.1, (0.8, 0.9), 0.5)
            )
        return {part: seconds / N_TIMED for part, seconds in took.items()}


def checked(trials: Sequence[Trial]) -> tuple[object, ...]:
    """What a worker checks before each trial."""
    n_done = sum(trial.counts for trial in trials)
    return (
        n_done,
        stagnated(trials, 50),
        exceeds_budget(trials, math.inf),
        next_retry(trials, [row.name for row in SPACE]),
    )


def of_a_trial(size: Size) -> dict[str, float]:
    _, predictions = simulated(size._replace(trials=3))
    draws = group_draws(predictions[0].group, predictions[0].stratum, N_DRAWS)
    took = seconds_of(lambda: [interval(bootstrap_scores(each, draws, TASK)) for each in predictions.values()])
    return {"interval": took / len(predictions)}


def heads(size: Size) -> dict[str, float]:
    random = np.random.default_rng(0)
    features = random.normal(size=(size.images, N_FEATURES)).astype(np.float32)
    labels = (features[:, :5].sum(axis=1) + 3 * random.normal(size=size.images) > 0).astype(np.int8)
    part = np.stack([random.integers(5, size=size.images) for _ in range(max(size.columns // 5, 1))])
    held_out = np.concatenate([row[:, None] == np.arange(5) for row in part], axis=1)[:, : size.columns]
    weights = np.where(held_out, 0.0, 1.0)

    def fit() -> None:
        fit_path(features, labels, weights, *standardisation([Moments.of(features, weights)]), [0.1])

    return {"fit": seconds_of(fit)}


def stored(size: Size) -> dict[str, float]:
    _, predictions = simulated(size._replace(trials=1))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "predictions.csv"
        predictions[0].to_csv(file)
        found: list[Predictions] = []

        def read() -> None:
            for _ in range(size.trials):
                found.append(Predictions.from_csv(file).sharing(found[0] if found else None))

        return {"stored": seconds_of(read) / size.trials}


def ranking(size: Size) -> dict[str, float]:
    trials, predictions = simulated(size)
    return {"ranking": seconds_of(lambda: rank(trials, predictions, TASK)) / size.trials}


def correction(size: Size) -> dict[str, float]:
    trials, predictions = simulated(size)
    return {"correction": seconds_of(lambda: correct(trials, predictions, TASK)) / size.trials}


def importances(size: Size) -> dict[str, float]:
    from sklearn import ensemble

    assert ensemble  # seconds of an import, which do not grow
    points = parameter_sets(size.trials)
    random = np.random.default_rng(0)
    trials = [Trial(n, COMPLETE, each, value_of(each) + 0.003 * random.normal()) for n, each in enumerate(points)]
    took = seconds_of(lambda: (shares_of(trials, SPACE), importance_spread(trials, SPACE)))
    return {"importances": took / size.trials}


def page(size: Size) -> dict[str, float]:
    points = parameter_sets(size.trials)
    values = [value_of(each) for each in points]
    best = values.index(max(values))
    rows = [
        TrialRow(
            number=n,
            state=COMPLETE,
            score=at,
            low=at - 0.02,
            high=at + 0.02,
            tied=n == best,
            proposed=n == best,
            params=params,
            milliseconds=0.5,
            megabytes=1.0,
            reason="",
            auc=at,
        )
        for n, (params, at) in enumerate(zip(points, values, strict=True))
    ]
    _, predictions = simulated(size._replace(trials=1))
    report = StudyReport(
        study="study",
        data="simulated",
        task=TASK,
        synthetic=True,
        has_cases=True,
        invalid=[],
        warnings=[],
        n_cases=predictions[0].count_groups(),
        sealed=SealedCases(16, 7, 9, 40),
        rows=rows,
        proposed_predictions=predictions[0],
        corrected=None,
        uncorrected="it is not part of the page",
        openings=[],
        test=None,
        images=[],
        kept_images=b"",
        importances={},
        spread={},
        log=[],
        space=[(row.name, str(row), row.meaning) for row in SPACE],
        facts={},
        audit=[],
        made={},
    )
    return {"page": seconds_of(lambda: report_page(report)) / size.trials}


PARTS = {
    "search": search,
    "interval": of_a_trial,
    "fit": heads,
    "stored": stored,
    "ranking": ranking,
    "correction": correction,
    "importances": importances,
    "page": page,
}
GROWS = {  # parts that grow along an axis
    "trials": ("search", "stored", "ranking", "correction", "importances", "page"),
    "images": ("interval", "fit", "stored", "ranking", "correction"),
    "columns": ("interval", "fit", "stored", "ranking", "correction"),
}


def rows_of(axis: str) -> Iterator[str]:
    """Names of the rows of one axis."""
    for part in GROWS[axis]:
        for value in AXES[axis]:
            yield name_of(part, Size(**{**USUAL, axis: value}))


def name_of(part: str, size: Size) -> str:
    return "/".join([part, *map(str, size)])


def parsed(name: str) -> tuple[str, Size]:
    part, *numbers = name.split("/")
    if part not in PARTS or len(numbers) != len(Size._fields) or not all(number.isdigit() for number in numbers):
        raise SettingsError(f"A row must be PART/TRIALS/IMAGES/COLUMNS with PART of {', '.join(PARTS)}, got {name!r}.")
    size = Size(*map(int, numbers))
    if not 0 < size.trials <= N_POINTS:
        raise SettingsError(f"TRIALS must be 1 to {N_POINTS}, the points of the space, but got {size.trials}.")
    return part, size


def measure(name: str) -> dict[str, Any]:
    """Measure one row in this process.

    Returns:
        Seconds a trial of each of its parts, and the peak of the memory of the process in MB.
    """
    part, size = parsed(name)
    seconds = PARTS[part](size)
    return {"seconds": seconds, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def alone(name: str) -> dict[str, Any]:
    """Measure one row in a process of its own, with one thread."""
    code = "import json, sys; from experiments.benchmarks import growth; print(json.dumps(growth.measure(sys.argv[1])))"
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code, name],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )
    if done.returncode:
        raise SettingsError(f"The row {name} failed: {done.stderr.strip() or done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(kept: dict[str, Any], axis: str) -> str:
    """Milliseconds a trial, with the peak of the memory, by size along one axis."""
    sizes = AXES[axis]
    lines = [f"| part | {' | '.join(f'{size:,} {axis}' for size in sizes)} |", "| --- |" + " ---: |" * len(sizes)]
    for row in GROWS[axis]:
        found = [kept.get(name_of(row, Size(**{**USUAL, axis: size}))) for size in sizes]
        for part in next((each["seconds"] for each in found if each), {}):
            cells = [f"{1000 * each['seconds'][part]:.3g} ({each['megabytes']:.0f})" if each else "" for each in found]
            lines.append(f"| {MEANING[part]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(kept: dict[str, Any]) -> bytes:
    """The tables as curves."""
    figure = new_figure("Growth of a study", "milliseconds of the processor a trial")
    looks = dict(zip(MEANING, itertools.product(("solid", DASHED), CYCLE), strict=False))
    lines = {}
    for place, axis in enumerate(GROWS):
        left = 0.55 + 2.05 * place
        axes = place_axes(figure, left, 0.6, 4.85 - left, 1.5)
        for part, (style, colour) in looks.items():
            row = _row_with(part)
            names = {size: name_of(row, Size(**{**USUAL, axis: size})) for size in AXES[axis]}
            points = [
                (size, 1000 * kept[name]["seconds"][part])
                for size, name in names.items()
                if name in kept and row in GROWS[axis]
            ]
            if points:
                (lines[part],) = axes.plot(
                    *zip(*points, strict=True), color=colour, linestyle=style, marker="o", markersize=3
                )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(AXES[axis], [f"{size:,}" for size in AXES[axis]], minor=False)
        axes.set_xticks([], minor=True)
        axes.tick_params(labelsize=6)
        axes.set_xlabel(axis, size=8, color=INK)
    figure.legend(
        lines.values(), lines, loc="upper left", bbox_to_anchor=(0.03, 0.86), ncols=5, fontsize=7, frameon=False
    )
    return to_png(figure)


def _row_with(part: str) -> str:
    return "search" if part in ("reading", "asking", "completing") else part


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", type=Path, required=True, help="JSON file where the rows are kept")
    made.add_argument("--rows", nargs="+", metavar="ROW", help="rows to measure (all of the page)")
    made.add_argument("--figure", type=Path, help="PNG file of the curves; none unless named")
    return made


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parser().parse_args(arguments)
    kept: dict[str, Any] = json.loads(options.data.read_text(encoding="utf-8")) if options.data.exists() else {}
    try:
        names = options.rows or list(dict.fromkeys(name for axis in GROWS for name in rows_of(axis)))
        for name in names:
            parsed(name)
        for name in names:
            if name not in kept:
                kept[name] = alone(name)
                options.data.write_text(json.dumps(kept, indent=1), encoding="utf-8")
                print(f"{name}: {kept[name]}", file=sys.stderr, flush=True)
    except BhsearchError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    print(f"{os.cpu_count()} cores; milliseconds of the processor a trial (peak of memory in MB)")
    for axis in GROWS:
        print(f"\n{table(kept, axis)}")
    if options.figure is not None:
        options.figure.write_bytes(draw(kept))
    return kept


if __name__ == "__main__":
    main()
