"""Start a study from earlier studies: from the best points of studies on other data, or from a frozen study's heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bhsearch.engines.base import INTERRUPTED, Trial
from bhsearch.errors import StudyError
from bhsearch.objectives.space import JOINT_NAMES, Params
from bhsearch.study.context import FROZEN, StudyContext
from bhsearch.study.objective_factory import best_heads
from bhsearch.study.resume.metadata import Origin, StudyMetadata

N_POINTS = 5  # number of points taken from each study
# Returns a study's metadata and the score and parameters of its complete trials; raises StudyError for unknown names.
LookUp = Callable[[str], tuple[StudyMetadata, list[tuple[float, Params]]]]


def warm_points(prepared: StudyContext, look_up: LookUp) -> list[Params]:
    """Return the points that a study tries first: the best points of each study in `--warm-start-from`.

    Args:
        prepared: Context of the new study.
        look_up: Returns metadata and complete trials of a study by name.

    Returns:
        Points without duplicates, at most `N_POINTS` per study; empty without `--warm-start-from`.

    Raises:
        StudyError: If a study does not exist, has another regime, has the same data, or has no complete trial whose
            parameters are in the space of the new study.
    """
    space = prepared.space(prepared.backbones)
    found: list[Params] = []
    for name in prepared.settings.warm_start_from:
        facts, trials = look_up(name)
        if facts["regime"] != prepared.regime:
            raise StudyError(
                f"--warm-start-from must name studies with the same regime ({prepared.regime}), but the regime of "
                f"{name!r} is {facts['regime']}."
            )
        if facts["data_fingerprint"] == prepared.index.fingerprint:
            raise StudyError(
                f"--warm-start-from must name studies on other data, but {name!r} used the same data. Its best "
                "parameters were selected on the same cases, and the bias correction cannot account for that search. "
                f"Continue that study instead with --study {name}."
            )
        by_score = sorted(trials, key=lambda row: -row[0])
        points = [point for _, point in by_score if point.get("backbone") not in JOINT_NAMES and _holds(space, point)]
        if not points:
            raise StudyError(
                f"No trial of {name!r} in --warm-start-from can be used: it has no complete trial with parameters in "
                "the search space of this study, for example because its backbones differ. Remove it from "
                "--warm-start-from."
            )
        distinct = [point for k, point in enumerate(points) if point not in points[:k] and point not in found]
        found += distinct[:N_POINTS]
    return found


def next_warm(points: Sequence[Params], trials: Sequence[Trial]) -> int | None:
    """Return the index of the first warm-start point that no trial has used; None if all points were used."""
    begun = {
        trial.notes.get("warm") for trial in trials if trial.was_sampled and trial.notes.get("reason") != INTERRUPTED
    }
    return next((place for place in range(len(points)) if place not in begun), None)


def _holds(space: Sequence[Any], point: Params) -> bool:
    return all(row.name in point and row.holds(point[row.name]) for row in space)


def origin_of(prepared: StudyContext, look_up: LookUp) -> Origin:
    """Return a description of the frozen study in `--init-from`, which includes its best heads.

    Args:
        prepared: Context of the new study.
        look_up: Returns metadata and complete trials of a study by name.

    Returns:
        Name, identifier, number of complete trials and best heads; see `Origin`. Empty without `--init-from`.

    Raises:
        StudyError: If the frozen study does not exist, has another split or regime, or has no complete trial.
    """
    name = prepared.settings.init_from
    if name is None:
        return {}
    facts, trials = look_up(name)
    if facts["regime"] != FROZEN:
        raise StudyError(
            f"--init-from must name a study with --regime frozen, but the regime of {name!r} is {facts['regime']}."
        )
    if facts.get("score_weight_shift"):  # absent in studies of earlier versions
        raise StudyError(
            f"--init-from must name a study whose score is the AUC of unchanged images, but {name!r} has "
            f"--score-weight-shift {facts['score_weight_shift']:g}, which fine-tuned networks cannot have."
        )
    if facts["split_fingerprint"] != prepared.split.fingerprint:
        raise StudyError(
            f"--init-from must name a study with the same data and split, but the split of {name!r} has the "
            f"fingerprint {facts['split_fingerprint']} and that of this study {prepared.split.fingerprint}. With "
            "another split, heads would be validated on images that they were trained on. Use the data and split "
            f"options of {name!r}."
        )
    if not trials:
        raise StudyError(
            f"The study {name!r} in --init-from has no complete trial. Run it first, or choose another study."
        )
    return {"study": name, "uid": facts["uid"], "complete": len(trials), "heads": best_heads(trials)}
