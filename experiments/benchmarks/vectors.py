"""A study of vectors that were computed elsewhere: seconds and memory of all trials, and of scikit-learn.

The table is synthetic: vectors of cases with an effect of their own, in a Parquet file with one column of lists, as
large as `--rows` and `--features` say. It is converted to the cache first, which is timed apart. Then a study of exact
linear heads runs as a user would start it, with tracking, intervals and the correction for the search; the memory is
that of the whole process tree, counted without what the processes share. At last, the path of all folds and penalties
is solved alone, and scikit-learn fits one fold at one C to the same gradient norm.

    python experiments/benchmarks/vectors.py --folder vectors
    python experiments/benchmarks/vectors.py --folder vectors --rows 30000 --parts study
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression

from bhsearch.data.embeddings.join import join
from bhsearch.data.embeddings.table import VectorTable, table_of
from bhsearch.data.grouping import merge_groups
from bhsearch.evaluation.predictions import case_weights
from bhsearch.models.training.heads import Moments, standardisation
from bhsearch.models.training.logistic_path import TOLERANCE, fit_path
from bhsearch.objectives.space import LOG10_PENALTY

PARTS = ("convert", "study", "path", "sklearn")
SOLVERS = {"newton-cholesky": 1e-11, "lbfgs": 1e-12}
_BLOCK = 20_000  # rows that are written at once
_POLL_SECONDS = 0.2


def write_table(folder: Path, n_rows: int, n_features: int, n_cases: int) -> tuple[Path, Path]:
    """Write a manifest and a Parquet file of vectors, unless they exist, and return both."""
    manifest, file = folder / f"manifest-{n_rows}.csv", folder / f"synthetic-{n_rows}x{n_features}.parquet"
    if file.exists():
        return manifest, file
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    case = np.sort(random.integers(0, n_cases, n_rows))
    label = np.arange(n_cases) % 2
    effect = random.normal(size=(n_cases, 32)).astype(np.float32)
    effect[:, :4] += 0.5 * label[:, None]
    mixing = (random.normal(size=(32, n_features)) / np.sqrt(32)).astype(np.float32)
    kind = pa.list_(pa.float32(), n_features)
    schema = pa.schema([("id", pa.string()), ("vector", kind)], {"encoder": "synthetic"})
    with pq.ParquetWriter(file, schema, compression="none") as writer:
        for first in range(0, n_rows, _BLOCK):
            some = case[first : first + _BLOCK]
            hidden = effect[some] + random.normal(size=(len(some), 32)).astype(np.float32)
            vectors = hidden @ mixing + 0.5 * random.normal(size=(len(some), n_features)).astype(np.float32)
            ids = [f"image-{number}" for number in range(first, first + len(some))]
            flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float32).ravel()), n_features)
            writer.write_table(pa.table({"id": ids, "vector": flat}, schema))
    names = ("benign", "malignant")
    lines = [f"image-{row},case-{one:03d},{names[label[one]]}" for row, one in enumerate(case.tolist())]
    manifest.write_text("\n".join(["id,case,label", *lines]) + "\n", encoding="utf-8")
    return manifest, file


CONVERT = """
import resource, sys, time
from pathlib import Path
from bhsearch.data.embeddings.table import table_of
started = time.perf_counter()
table = table_of(Path(sys.argv[1]))
seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(f"conversion of {table.n_rows:,} x {table.n_features:,}: {seconds:.1f} s, peak {peak:.2f} GB resident")
"""


def convert(file: Path) -> None:
    """Convert the table in a process of its own, unless the cache has it."""
    subprocess.run([sys.executable, "-c", CONVERT, str(file)], check=True)


def study(folder: Path, manifest: Path, file: Path, trials: int, more: list[str]) -> None:
    """Run a study in a process of its own, and print its seconds and the peak memory of the process tree."""
    for old in ("optuna.db", "mlflow.db"):
        (folder / old).unlink(missing_ok=True)
    words = ["--data", str(manifest.resolve()), "--features", str(file.resolve()), "--trials", str(trials), *more]
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{(folder / 'mlflow.db').resolve()}"}
    started = time.perf_counter()
    with (folder / "study.txt").open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "bhsearch.run", *words], cwd=folder, env=environment, stdout=out, stderr=out
        )
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, _memory(process.pid))
            time.sleep(_POLL_SECONDS)
    seconds = time.perf_counter() - started
    said = (folder / "study.txt").read_text(encoding="utf-8")
    corrected = re.search(r"corrected AUC\s+(\S+)", said)
    print(
        f"study of {trials} trials: {seconds:.0f} s, peak {peak / 1e9:.2f} GB of the process tree, exit code "
        f"{process.returncode}, corrected AUC {corrected[1] if corrected else 'unknown'}",
        flush=True,
    )


def _memory(pid: int) -> float:
    """Return the proportional memory of a process and its children in bytes, of which shared pages count once."""
    total = 0.0
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
    return total


def heads(manifest: Path, table: VectorTable, n_folds: int, parts: list[str], solvers: list[str]) -> None:
    """Solve the path of all folds and penalties, and fit scikit-learn on one of them."""
    lines = [line.split(",") for line in manifest.read_text(encoding="utf-8").splitlines()[1:]]
    names, cases, labels = zip(*lines, strict=True)
    features = join(table, names, {}).read()
    label = (np.array(labels) == "malignant").astype(np.int8)
    group = merge_groups(np.array(cases, object), np.array(names, object))
    fold = (group % n_folds).astype(np.int8)
    weight = case_weights(group, fold[None])[0]
    weights = np.where(fold[:, None] == np.arange(n_folds), 0.0, weight[:, None])
    mean, scale = standardisation([Moments.of(features, weights)])
    costs = [10.0**-value for value in LOG10_PENALTY.values[::-1]]
    seconds = 0.0
    if "path" in parts:
        started = time.perf_counter()
        path = fit_path(features, label, weights, mean, scale, costs)
        seconds = time.perf_counter() - started
        each = seconds / (n_folds * len(costs))
        print(
            f"path of {n_folds} folds x {len(costs)} penalties: {seconds:.1f} s, {each:.2f} s per fold and penalty, "
            f"relative gradient norm {path.gradient_norms.max():.1e}",
            flush=True,
        )
    if "sklearn" not in parts:
        return
    inside = weights[:, 0] > 0
    inputs = features[inside].astype(np.float64)
    del features
    inputs -= mean[0]
    inputs *= scale[0]
    sample_weight = weights[inside, 0] * inside.sum() / weights[inside, 0].sum()
    middle = costs[len(costs) // 2]
    for solver in solvers:
        model = LogisticRegression(C=middle, solver=solver, tol=SOLVERS[solver], max_iter=100_000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the line search at the rounding error
            started = time.perf_counter()
            model.fit(inputs, label[inside], sample_weight)
            passed = time.perf_counter() - started
        probability = 1 / (1 + np.exp(-(inputs @ model.coef_[0] + model.intercept_[0])))
        gradient = inputs.T @ (sample_weight * (probability - label[inside])) + model.coef_[0] / middle
        frequency = np.average(label[inside], weights=sample_weight)
        first = inputs.T @ (sample_weight * (frequency - label[inside]))
        norm = np.linalg.norm(gradient) / np.linalg.norm(first)
        ratio = f", {passed / each:.1f} times the path's" if seconds else ""
        reached = "" if norm <= TOLERANCE else f" (above {TOLERANCE:g}: not comparable)"
        print(
            f"scikit-learn, {solver}, one fold at C = {middle:.3g}: {passed:.1f} s{ratio}, relative gradient norm "
            f"{norm:.1e}{reached}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of table, study and stores")
    parser.add_argument("--rows", type=int, default=300_000, help="vectors (300000)")
    parser.add_argument("--features", type=int, default=1024, help="length of a vector (1024)")
    parser.add_argument("--cases", type=int, default=500, help="cases (500)")
    parser.add_argument("--folds", type=int, default=5, help="folds (5)")
    parser.add_argument("--trials", type=int, default=50, help="trials of the study (50)")
    parser.add_argument("--heads", default="linear", help="heads of the study, linear or all (linear)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what is measured (all)")
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS), help="of scikit-learn (all)")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    manifest, file = write_table(options.folder, options.rows, options.features, options.cases)
    if {"convert", "study"} & {*options.parts}:
        convert(file)
    if "study" in options.parts:
        more = ["--heads", options.heads, "--folds", str(options.folds), "--regime", "frozen"]
        study(options.folder, manifest, file, options.trials, more)
    if {"path", "sklearn"} & {*options.parts}:
        heads(manifest, table_of(file), options.folds, options.parts, options.solvers)


if __name__ == "__main__":
    main()
