"""Start a study from earlier studies: from the best points of studies on other data, or from a frozen study's heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bhsearch.engines.base import INTERRUPTED, Trial
from bhsearch.errors import StudyError
from bhsearch.objectives.space import Params
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
                f"--warm-start-from must name studies of the {prepared.regime} regime, but {name!r} is of "
                f"{facts['regime']}."
            )
        if facts["data_fingerprint"] == prepared.index.fingerprint:
            raise StudyError(
                f"--warm-start-from must name studies of other data, but {name!r} has these. Its points were chosen on "
                "these cases, and the correction for having searched would not know. Go on with that study: --study."
            )
        points = [point for _, point in sorted(trials, key=lambda row: -row[0]) if _holds(space, point)]
        if not points:
            raise StudyError(
                f"--warm-start-from must name studies with a point of this space, but {name!r} has none: no trial is "
                "complete, or none has one of these backbones."
            )
        distinct = [point for k, point in enumerate(points) if point not in points[:k] and point not in found]
        found += distinct[:N_POINTS]
    return found


def next_warm(points: Sequence[Params], trials: Sequence[Trial]) -> int | None:
    """Return the index of the first warm-start point that no trial has used; None if all points were used."""
    begun = {trial.notes.get("warm") for trial in trials if trial.notes.get("reason") != INTERRUPTED}
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
        raise StudyError(f"--init-from must name a frozen study, but the regime of {name!r} is {facts['regime']}.")
    if facts["split_fingerprint"] != prepared.split.fingerprint:
        raise StudyError(
            f"--init-from must name a study with the same data and split, since a head must not have seen the images "
            f"that its fold is validated on, but {name!r} has the split {facts['split_fingerprint']}, and this one "
            f"{prepared.split.fingerprint}. Give the options that it was made with."
        )
    if not trials:
        raise StudyError(f"--init-from must name a study with a complete trial, but {name!r} has none.")
    return {"study": name, "uid": facts["uid"], "complete": len(trials), "heads": best_heads(trials)}
