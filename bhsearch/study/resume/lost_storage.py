"""Save the trials of a study to a CSV file if its storage was deleted or replaced."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from bhsearch.engines.base import Trial
from bhsearch.engines.optuna.storages.url import storage_file
from bhsearch.runtime.cache import explain_write_errors


def write_trials(storage: str, study: str, trials: Sequence[Trial]) -> Path:
    """Write trials to a new CSV file in the folder of their storage, one row per trial.

    Args:
        storage: URL of the storage.
        study: Name of the study.
        trials: All known trials of the study.

    Returns:
        Path of the CSV file; an existing file is not overwritten.

    Raises:
        PlaceError: If the file cannot be written.
    """
    held = storage_file(storage) or Path("study")
    name = re.sub(r"[^\w.-]+", "_", study)
    stem = f"{held.stem}-{name}-trials"
    folder = held.parent if held.parent.is_dir() else Path()
    file = folder / f"{stem}.csv"
    number = 2
    while file.exists():
        file = folder / f"{stem}-{number}.csv"
        number += 1
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    with explain_write_errors(f"the trials {file}"), file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["trial", "state", "score", "seconds", "reason", *names])
        for trial in trials:
            score = "" if trial.value is None else repr(trial.value)
            notes = (trial.notes.get("seconds", ""), trial.notes.get("reason", ""))
            writer.writerow([trial.number, trial.state, score, *notes, *(trial.params.get(name, "") for name in names)])
    return file
