"""Warnings about images that differ from the training images: false alarms, and shifts that are found.

A model carries facts about its development cases; the thresholds of its drift tests come from one half of them. This
script deploys the encoder that a study would, collects the facts as registering does, and draws batches of cases from
the other half: as they are (false alarms), and with shifts that a study did not see. A batch counts as found if there
is any warning. The sealed cases are not read.

    python experiments/benchmarks/drift.py --data ../shared/data/idc --other ../shared/data/breakhis
    python experiments/benchmarks/drift.py --data ../shared/data/breakhis --other ../shared/data/idc
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from bhsearch.data.dataset import Dataset
from bhsearch.data.images.decode import decode
from bhsearch.data.layouts.naming import spelling_key
from bhsearch.data.open_data import open_data
from bhsearch.data.splits import make_split
from bhsearch.errors import BhsearchError, DataError
from bhsearch.evaluation.drift import FEWEST_CASES, halves, image_statistics
from bhsearch.lifecycle.validation.training_facts import (
    Batch,
    TrainingFacts,
    collect_facts,
    compare,
    outputs,
    sampled_rows,
)
from bhsearch.models import backend
from bhsearch.models.augmentation.shifts import SHIFTS
from bhsearch.models.backbones.registry import find_backbones
from bhsearch.models.calibrated import ImageOutput, calibrated
from bhsearch.models.inference_model import ModelPool
from bhsearch.models.training.heads import Heads
from bhsearch.study.events import ProgressReporter
from bhsearch.tasks.binary import BinaryTask

Pixels = npt.NDArray[np.uint8]
Seen = list[tuple[str, str, ImageOutput, npt.NDArray[np.float64]]]
BATCHES = (1, 5, 10, 50)  # cases


def third(image: Pixels, case: str) -> Pixels:  # noqa: ARG001
    """Return the central third of the field."""
    height, width = image.shape[:2]
    rows, columns = round(height * 3**-0.5), round(width * 3**-0.5)
    top, left = (height - rows) // 2, (width - columns) // 2
    return image[top : top + rows, left : left + columns]


def enlarged_third(image: Pixels, case: str) -> Pixels:
    """Return the central third of the field, resized to the size of the image, so that the size does not tell."""
    height, width = image.shape[:2]
    return np.asarray(Image.fromarray(third(image, case)).resize((width, height), Image.Resampling.BILINEAR))


CHANGES: dict[str, Callable[[Pixels, str], Pixels]] = {
    **{shift.title: shift.apply for shift in SHIFTS.values()},
    "a third of the field": third,
    "a third of the field, enlarged": enlarged_third,
}


def deploy(name: str, weights: Path | None, size: int) -> Any:
    """Return a calibrated model of a backbone whose head is zero: warnings depend on the encoder alone."""
    (backbone,) = find_backbones((name,), weights).backbones
    n_features = int(backbone.build(size).output_shape[-1])
    zero, one = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
    heads = Heads(np.zeros((n_features, 1, 1), np.float32), zero, one, np.zeros(1, np.float32), linear=True)
    return calibrated(ModelPool(BinaryTask.link).get(backbone, "crop", size, ("identity",), heads), 1.0, 0.0)


def look(network: Any, data: Dataset, change: Callable[[Pixels, str], Pixels] | None = None) -> Seen:
    """Return what is collected of up to 12 images of each case.

    Args:
        network: Model from `deploy`.
        data: Images.
        change: Shift of an image of a case; None for no shift.
    """
    rows = sampled_rows(data.column("case").tolist())
    paths, cases, magnifications = data.paths(), data.column("case"), data.column("magnification")

    def shown(row: int) -> Pixels:
        image = decode(paths[row])
        return image if change is None else change(image, str(cases[row]))

    images = [shown(row) for row in rows]
    found = outputs(network, 1, images, lambda _: ("", ""), Batch())
    return [
        (str(cases[row]), str(magnifications[row]), output, image_statistics(image))
        for row, output, image in zip(rows, found, images, strict=True)
    ]


def share_found(
    facts: TrainingFacts, seen: Seen, n_cases: int, n_batches: int, magnification: str | None = None
) -> float:
    """Return the share of batches with a warning.

    Args:
        facts: Facts of the model.
        seen: What was collected of the images.
        n_cases: Number of cases of a batch.
        n_batches: Number of batches.
        magnification: Magnification that all names state; None for the true ones.
    """
    by_case: dict[str, Seen] = {}
    for item in seen:
        by_case.setdefault(item[0], []).append(item)
    names, random, n_found = sorted(by_case), np.random.default_rng(0), 0
    if n_cases > len(names):
        return float("nan")
    for _ in range(n_batches):
        batch = Batch()
        for at in random.permutation(len(names))[:n_cases]:
            for case, named, output, statistics in by_case[names[at]]:
                batch.add(case, magnification or named, output, statistics)
        n_found += bool(compare(batch, facts).warnings)
    return n_found / n_batches


def main(words: Sequence[str]) -> dict[str, float]:
    """Print the tables; return the share of batches with a warning, by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="phantom:cases=75", help="data that the study is made of")
    parser.add_argument("--other", help="another data set")
    parser.add_argument("--magnification", default="all", help="magnification of the study, such as 100X")
    parser.add_argument("--backbone", default="staintex-l")
    parser.add_argument("--weights-dir", type=Path)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--batches", type=int, default=500)
    options = parser.parse_args(words)
    index = open_data(options.data)
    split = make_split(index, magnification=options.magnification)
    development = index.select(split.development)
    keys = sorted({spelling_key(case) for case in development.column("case").tolist()})
    if len(keys) < FEWEST_CASES:
        raise DataError(f"--data must have at least {FEWEST_CASES} development cases, but has {len(keys)}.")
    backend.import_backend()
    network = deploy(options.backbone, options.weights_dir, options.image_size)
    facts = collect_facts(network, development, "crop", ProgressReporter())
    other_half = {keys[at] for at in halves(len(keys))[1]}
    rest = development.select(np.array([spelling_key(case) in other_half for case in development.column("case")]))
    print(f"{index.name}, {options.backbone} at {options.image_size} px, {len(keys)} development cases")
    print(
        "| drift test | threshold by number of cases | false alarms on the other half |",
        "| --- | --- | --- |",
        sep="\n",
    )
    for name, test in facts.tests.items():
        limits = ", ".join(f"{n}: {value:.2f}" for n, value in test.thresholds.items())
        alarms = ", ".join(f"{n}: {_percent(share)}" for n, share in test.false_alarms.items())
        print(f"| {name} | {limits} | {alarms} |")
    found: dict[str, float] = {}
    clean = look(network, rest)
    print()
    print("| batch of the other half | share with a warning |", "| --- | --- |", sep="\n")
    for size in BATCHES:
        found[f"unchanged, {size}"] = share_found(facts, clean, size, options.batches)
        print(f"| unchanged, {size} cases | {_percent(found[f'unchanged, {size}'])} |")
    for name, change in CHANGES.items():
        found[name] = share_found(facts, look(network, rest, change), 10, options.batches)
        print(f"| {name}, 10 cases | {_percent(found[name])} |")
    if facts.magnifications and "400X" not in facts.magnifications:
        found["names"] = share_found(facts, clean, 10, options.batches, "400X")
        print(f"| names of 400X, 10 cases | {_percent(found['names'])} |")
    if options.other:
        other = open_data(options.other)
        found["other"] = share_found(facts, look(network, other), 10, options.batches)
        print(f"| {other.name}, 10 cases | {_percent(found['other'])} |")
    return found


def _percent(share: float) -> str:
    return "fewer cases than that" if share != share else f"{100 * share:.1f} %"


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BhsearchError as error:
        sys.exit(str(error))
