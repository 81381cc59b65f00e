"""The plan of a study, which the terminal shows before the first trial."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bhsearch.config import Settings, model_limit
from bhsearch.data.images.files import describe_left_out
from bhsearch.data.magnification import ALL
from bhsearch.engines.registry import ENGINES
from bhsearch.evaluation.supplementary.auc_precision import PLANNED_AUC, what_cases_show
from bhsearch.models.backbones.base import AvailableBackbones, names_by_reason
from bhsearch.models.backbones.licence import NO_WEIGHTS, UNKNOWN, is_non_commercial
from bhsearch.objectives.space import Parameter
from bhsearch.study.checks import combine, shift_weight
from bhsearch.study.checks.test_set_size import gate_size_warnings, sealed_groups
from bhsearch.study.context import FINETUNE, SYNTHETIC, StudyContext
from bhsearch.study.events import StudyPlan
from bhsearch.study.outcome import nested, robustness
from bhsearch.study.outcome.selection import N_RACED
from bhsearch.text import plural

_MOST_NAMES = 3  # backbones left out for the same reason are listed by name up to this number, else counted


def make_plan(context: StudyContext, space: Sequence[Parameter], finished: int) -> StudyPlan:
    """Return the plan of a study: its data, regime, search space and trials, with warnings.

    Args:
        context: Context of the study.
        space: Parameters of the study.
        finished: Number of trials that earlier commands finished.
    """
    settings, index, split = context.settings, context.index, context.split
    remaining = max(settings.trials - finished, 0)
    sizes = sorted((backbone.size_mb for backbone in context.found.backbones), reverse=True)
    largest = sum(sizes[: max(settings.combine, 1)])
    per_repeat = f"{settings.folds} folds" + (f" x {settings.repeats} repeats" if settings.repeats > 1 else "")
    rows = [
        (
            "data",
            f"{index.name}{', synthetic' if index.synthetic else ''}: {_images(context, np.ones(len(index), bool))}"
            f"{_magnification(context)}",
        ),
        ("files", describe_left_out(index.left_out)),
        ("search on", _part(context, split.development)),
        ("sealed", f"{_part(context, split.test)}, opened only by registering"),
        ("sealed can show", what_cases_show(*sealed_groups(index, split), PLANNED_AUC)),
        ("folds", f"{per_repeat} by {settings.group_by}"),
        ("regime", _regime(context)),
        ("score", shift_weight.plan_row(context)),
        ("race", _race(settings)),
        ("backbones", ", ".join(context.backbones) if not context.index.vectors else ""),
        ("vectors", "; ".join(map(str, context.index.vectors.values()))),
        ("licences", _licences(context)),
        ("combine", combine.plan_row(context)),
        ("left out", _left_out(context.found)),
        ("space", f"{len(space)} parameters, {_sampler(settings)}, seed {settings.seed}"),
        ("trials", f"{remaining} to do, {finished} finished before"),
        ("robustness", robustness.plan_row(context)),
        ("nested", nested.plan_row(context)),
        ("study", f"{context.study} in {_place(settings)}"),
    ]
    if settings.tracking:
        members = settings.folds * settings.repeats if context.regime == FINETUNE else 1
        most = model_limit(settings.keep_models)
        kept = remaining if most is None else min(remaining, most)
        size = f"at most {_size(kept * members * largest)} of models" if kept else "no new models"
        rows.append(("results", f"MLflow, {size}"))
    rows.append(("use", "research only, never for screening patients"))
    warnings = [
        *index.notes,
        *split.warnings,
        *context.audit.summary_lines(),
        *gate_size_warnings(index, split),
        *(
            f"{plural(len(index.bad), 'image')} could not be read and {'was' if len(index.bad) == 1 else 'were'} "
            "skipped."
            for _ in index.bad[:1]
        ),
    ]
    if index.synthetic:
        warnings.append(f"{SYNTHETIC}: the results say nothing about real tissue.")
    return StudyPlan([row for row in rows if row[1]], warnings, split.leaks)


def _size(megabytes: float) -> str:
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{max(megabytes, 0.1):.1f} MB"


def _part(context: StudyContext, rows: npt.NDArray[np.bool_]) -> str:
    groups, labels = context.split.groups[rows], context.index.labels[rows]
    n_groups = len(np.unique(groups))
    names = context.task.class_names
    by_class = [len(np.unique(groups[labels == value])) for value in range(len(names))]
    mixed = sum(by_class) - n_groups
    if mixed > n_groups // 2:
        return f"{plural(n_groups, 'case')}, {mixed} with both classes, {_images(context, rows)}"
    counted = ", ".join(f"{n} {name}" for n, name in zip(by_class, names, strict=True))
    return f"{plural(n_groups, 'case')} ({counted}), {_images(context, rows)}"


def _images(context: StudyContext, rows: npt.NDArray[np.bool_]) -> str:
    counts = np.bincount(context.index.labels[rows], minlength=len(context.task.class_names))
    by_class = ", ".join(f"{n:,} {name}" for n, name in zip(counts, context.task.class_names, strict=True))
    return f"{plural(int(rows.sum()), 'image')} ({by_class})"


def _magnification(context: StudyContext) -> str:
    """Return how many images the chosen magnification selects, as text; empty for all magnifications."""
    split = context.split
    if split.magnification == ALL:
        return ""
    return f"; at magnification {split.magnification}: {_images(context, split.test | split.development)}"


def _regime(context: StudyContext) -> str:
    if context.index.vectors:
        return f"{context.regime}, vectors computed elsewhere, no images"
    sizes = ", ".join(map(str, context.image_sizes))
    text = f"{context.regime}, images {sizes} px ({context.settings.resize})"
    if context.regime == FINETUNE:
        text += f", pruner {context.pruner}, from {context.settings.init_from or 'heads of its own'}"
    return text


def _race(settings: Settings) -> str:
    n = settings.race_divisions
    return f"the {N_RACED} best trials on {plural(n, 'further division')}" if n else ""


def _sampler(settings: Settings) -> str:
    of = "" if settings.engine == Settings.engine else f" of {ENGINES.get(settings.engine).title}"
    return f"sampler {settings.sampler}{of}"


def _place(settings: Settings) -> str:
    return ENGINES.get(settings.engine).location(settings.storage)


def _licences(context: StudyContext) -> str:
    """Return the licences of all weights as text, with the backbones of each; empty if no backbone has weights."""
    by_licence: dict[str, list[str]] = {}
    for name, backbone in context.backbones.items():
        by_licence.setdefault(backbone.licence, []).append(name)
    by_licence.pop(NO_WEIGHTS, None)
    uses = {licence: is_non_commercial(licence) for licence in by_licence}
    more = {True: " (non-commercial)", False: "", None: " (commercial use unknown)"}
    text = "; ".join(
        f"{licence}{'' if licence == UNKNOWN else more[uses[licence]]}: {', '.join(names)}"
        for licence, names in by_licence.items()
    )
    return f"{text}. A non-commercial backbone makes its models non-commercial." if True in uses.values() else text


def _left_out(found: AvailableBackbones) -> str:
    return "; ".join(
        f"{', '.join(names) if len(names) <= _MOST_NAMES else f'{len(names)} networks'} ({reason})"
        for reason, names in names_by_reason(found.left_out).items()
    )
