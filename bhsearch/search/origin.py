"""The frozen study that a finetune study starts from: its best heads, and its predictions for the correction."""

from __future__ import annotations

from typing import Any

from bhsearch.errors import StudyError
from bhsearch.search.preparation import FROZEN, Preparation
from bhsearch.search.regimes import best_heads
from bhsearch.search.warm import LookUp


def origin_of(prepared: Preparation, look_up: LookUp) -> dict[str, Any]:
    """What a study keeps of the one that it starts from.

    Args:
        prepared: Of the new study.
        look_up: Finds studies.

    Returns:
        `study`, `uid`, `complete`, how many trials had a score, and `heads`, the best point of the frozen space by
        backbone; empty where it starts from none.

    Raises:
        StudyError: If there is no such study, or it has another split, regime, or no complete trial.
    """
    name = prepared.settings.from_study
    if name is None:
        return {}
    facts, trials = look_up(name)
    if facts["regime"] != FROZEN:
        raise StudyError(f"--from must name a frozen study, but {name!r} is of the {facts['regime']} regime.")
    if facts["split_fingerprint"] != prepared.split.fingerprint:
        raise StudyError(
            f"--from must name a study with the same data and split, since a head must not have seen the images that "
            f"its fold is validated on, but {name!r} has the split {facts['split_fingerprint']}, and this one "
            f"{prepared.split.fingerprint}. Give the options that it was made with."
        )
    if not trials:
        raise StudyError(f"--from must name a study with a complete trial, but {name!r} has none.")
    return {"study": name, "uid": facts["uid"], "complete": len(trials), "heads": best_heads(trials)}
