"""The frozen study that a finetune study starts from: its best heads, and its predictions for the correction."""

from __future__ import annotations

from typing import Any

import optuna

from bhsearch.errors import StudyError
from bhsearch.search.optuna_engine import facts_of, find_study, scored
from bhsearch.search.preparation import FROZEN, Preparation
from bhsearch.search.regimes import best_heads


def origin_of(prepared: Preparation, storage: optuna.storages.BaseStorage) -> dict[str, Any]:
    """What a study keeps of the one that it starts from.

    Args:
        prepared: Of the new study.
        storage: Where both lie.

    Returns:
        `study`, `uid`, `complete`, how many trials had a score, and `heads`, the best point of the frozen space by
        backbone; empty where it starts from none.

    Raises:
        StudyError: If there is no such study, or it has another split, regime, or no complete trial.
    """
    name = prepared.settings.from_study
    if name is None:
        return {}
    study = find_study(storage, name)
    facts = facts_of(study)
    if facts["regime"] != FROZEN:
        raise StudyError(f"--from must name a frozen study, but {name!r} is of the {facts['regime']} regime.")
    if facts["split_fingerprint"] != prepared.split.fingerprint:
        raise StudyError(
            f"--from must name a study with the same data and split, since a head must not have seen the images that "
            f"its fold is validated on, but {name!r} has the split {facts['split_fingerprint']}, and this one "
            f"{prepared.split.fingerprint}. Give the options that it was made with."
        )
    trials = scored(study)
    if not trials:
        raise StudyError(f"--from must name a study with a complete trial, but {name!r} has none.")
    return {"study": name, "uid": facts["uid"], "complete": len(trials), "heads": best_heads(trials)}
