"""What a leaky split is worth: one configuration, the same images, folds made by image, by slide and by case.

Nothing is searched. The sealed cases are the same whatever the folds keep together, so all three train and score on the
same images; only who sits in which fold differs. Only the number by case says what to expect on new patients.

    python experiments/benchmarks/leakage.py --data path/to/BreaKHis_v1 --picture leakage.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bhsearch.data.index import Index
from bhsearch.data.opening import open_data
from bhsearch.data.pixels import pixel_cache
from bhsearch.data.splits import make_split
from bhsearch.errors import BhsearchError
from bhsearch.evaluation import style
from bhsearch.evaluation.metrics import epoch_scores
from bhsearch.evaluation.predictions import image_weights
from bhsearch.networks import backend
from bhsearch.networks.backbones import Backbone, find
from bhsearch.networks.features import FeatureCache
from bhsearch.networks.resize import make_resize
from bhsearch.search.objective import FrozenObjective

GROUPINGS = ("image", "slide", "case")  # the most leaky first
# A point of the space that nobody tuned: plain features, linear head, the optimiser's usual settings.
POINT = {
    "policy": "none",
    "views": 2,
    "tta": False,
    "standardise": True,
    "hidden_units": 0,
    "dropout": 0.0,
    "optimizer": "adamw",
    "learning_rate": 1e-2,
    "schedule": "cosine",
    "weight_decay": 1e-2,
    "label_smoothing": 0.0,
    "class_balance": False,
    "epochs": 30,
}


@dataclass(frozen=True)
class Scores:
    """Scores of the configuration under one grouping.

    Attributes:
        group_by: What the folds keep together.
        aucs: One per repeat: mean over its folds of the case-weighted ROC AUC.
        n_torn: Development cases that lie on both sides of the first repeat's folds.
    """

    group_by: str
    aucs: tuple[float, ...]
    n_torn: int

    @property
    def mean(self) -> float:
        """Over all folds and repeats."""
        return float(np.mean(self.aucs))


def measure(index: Index, backbone: Backbone, image_size: int, folds: int, repeats: int, executor: str) -> list[Scores]:
    """Score the fixed point under every grouping, each image's features computed once."""
    splits = [make_split(index, n_folds=folds, n_repeats=repeats, group_by=group_by) for group_by in GROUPINGS]
    rows = splits[0].development
    if any(not np.array_equal(split.development, rows) for split in splits):
        raise SystemExit("All groupings must leave the same images to search on, but they do not.")
    backend.start()
    features = FeatureCache(pixel_cache(index.select(rows), make_resize("crop", image_size)), executor)
    label, results = index.labels[rows], []
    for split in splits:
        fold, group = split.folds[:, rows], split.groups[rows]
        objective = FrozenObjective(features, {backbone.name: backbone}, label, fold, group, seed=0)
        probability = objective({**POINT, "backbone": backbone.name}).probability
        parts = [slice(repeat, repeat + 1) for repeat in range(repeats)]
        aucs = [epoch_scores(probability[None, r], label, fold[r], image_weights(group, fold[r]))[0] for r in parts]
        torn = sum(len(np.unique(fold[0, group == number])) > 1 for number in np.unique(group))
        results.append(Scores(split.group_by, tuple(map(float, aucs)), torn))
    return results


def table(results: Sequence[Scores]) -> str:
    """Markdown: mean AUC with its range over repeats, and the difference to the folds by case."""
    honest = results[-1].mean
    lines = ["| folds by | AUC (range over repeats) | difference | cases on both sides |", "| --- | --- | --- | --- |"]
    for row in results:
        difference = f"{row.mean - honest:+.3f}" if row.group_by != "case" else ""
        ends = f" ({min(row.aucs):.3f} to {max(row.aucs):.3f})" if len(row.aucs) > 1 else ""
        lines.append(f"| {row.group_by} | {row.mean:.3f}{ends} | {difference} | {row.n_torn} |")
    return "\n".join(lines)


def draw(results: Sequence[Scores], detail: str, note: str, file: Path) -> None:
    """One bar a grouping, its repeats as dots; honest blue, leaky orange. Bars start at chance."""
    figure = style.new_figure("One configuration, three ways to make folds", detail, note, height=3.4)
    axes = style.place_axes(figure, 1.0, 0.55, 0.6, 0.8)
    for place, row in enumerate(results):
        colour = style.BLUE if row.group_by == "case" else style.ORANGE
        axes.barh(place, row.mean - 0.5, left=0.5, height=0.55, color=colour, alpha=0.85)
        axes.plot(row.aucs, [place] * len(row.aucs), "o", color=style.INK, markersize=3, alpha=0.6)
        right = max(row.mean, *row.aucs)
        axes.annotate(f"{row.mean:.2f}", (right, place), (6, 0), textcoords="offset points", va="center", fontsize=10)
    axes.set(yticks=range(len(results)), yticklabels=[f"by {row.group_by}" for row in results], ylim=(2.5, -0.5))
    lowest = min(min(row.aucs) for row in results)
    axes.set_xlim(min(0.5, np.floor(lowest * 20) / 20), 1.0)
    axes.axvline(0.5, color=style.GREY, linewidth=0.8)
    style.faint_grid(axes)
    style.label_axes(axes, "ROC AUC, every case counting the same (0.5 is chance)", "")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(style.to_png(figure))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="phantom", help="folder, manifest or phantom[:...] (phantom)")
    parser.add_argument("--backbone", default="staintex-l", help="name or .keras file (staintex-l)")
    parser.add_argument("--weights-dir", type=Path, help="folder of Keras weight files")
    parser.add_argument("--image-size", type=int, default=224, help="side in pixels (224)")
    parser.add_argument("--folds", type=int, default=5, help="of a repeat (5)")
    parser.add_argument("--repeats", type=int, default=5, help="of the folds (5)")
    parser.add_argument("--executor", default="auto", help="of features: auto, openvino or keras (auto)")
    parser.add_argument("--picture", type=Path, help="PNG file to draw the result into")
    options = parser.parse_args(arguments)

    try:
        index = open_data(options.data)
        (backbone,) = find([options.backbone], options.weights_dir).backbones
        sizes = (options.image_size, options.folds, options.repeats)
        results = measure(index, backbone, *sizes, options.executor)
    except BhsearchError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    detail = f"{index.name}, {backbone.name} at {options.image_size} px, {options.repeats} x {options.folds} folds"
    note = "synthetic data (phantom)" if index.synthetic else ""
    print(f"{detail}{', ' + note if note else ''}\n\n{table(results)}")
    if options.picture is not None:
        draw(results, detail, note, options.picture)


if __name__ == "__main__":
    main()
