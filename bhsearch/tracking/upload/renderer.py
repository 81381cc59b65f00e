"""The renderer process, which computes metrics and draws pictures while the uploader logs other trials.

The renderer reads requests from standard input, writes the files of each trial into the trial's folder in the outbox,
and answers on standard output; see `runtime.messages`. It exits at the end of its input.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bhsearch.errors import RunError
from bhsearch.evaluation.image_columns import ImageColumns
from bhsearch.evaluation.plugin_metrics import extra_values
from bhsearch.evaluation.predictions import Predictions
from bhsearch.runtime.cache import acquire_lease
from bhsearch.runtime.messages import Failed, Render, Rendered, from_line, to_line
from bhsearch.runtime.processes import python_command
from bhsearch.tasks import restore_task
from bhsearch.tracking.records import StudyRecord, TrialRecord
from bhsearch.tracking.upload import artifacts
from bhsearch.tracking.upload.outbox import Message, Outbox

_VALUES, _FILES = "values.json", "files"


def render(outbox: Outbox, study: Message[StudyRecord], number: int) -> None:
    """Compute the metrics of a trial, and write metrics and artifacts into the trial's folder in the outbox."""
    trial = outbox.trial(number)
    files = trial.folder / _FILES
    shutil.rmtree(files, ignore_errors=True)  # incomplete files of a process that died
    files.mkdir()
    predictions = joined_predictions(study, trial)
    task = restore_task(study.record.get("task"))
    values, ends = artifacts.score_and_interval(predictions, task)
    values |= extra_values(predictions, study.record["settings"].get("metrics", ()), task)
    pixels = _pixels(study)
    unit = "quarter of the training" if study.record["augmented"] else "epoch"
    note = study.record["note"]
    artifacts.write_trial(files, predictions, task, values, ends, trial.record["curves"], pixels, note, unit)
    (trial.folder / _VALUES).write_text(json.dumps(values), encoding="utf-8")


def _pixels(study: Message[StudyRecord]) -> npt.NDArray[np.uint8] | None:
    """Return the resized images as a memory map; None if they were evicted from the cache."""
    place = study.record["pixels"]
    if not acquire_lease(Path(place["file"]).parent):
        return None
    return np.memmap(place["file"], np.uint8, "r", shape=tuple(place["shape"]))


def rendered(trial: Message[TrialRecord]) -> tuple[dict[str, float], Path]:
    """Return the metrics of a rendered trial, and the folder of its artifacts."""
    return json.loads((trial.folder / _VALUES).read_text(encoding="utf-8")), trial.folder / _FILES


def joined_predictions(study: Message[StudyRecord], trial: Message[TrialRecord]) -> Predictions:
    """Return the out-of-fold predictions of a trial in the outbox."""
    return ImageColumns.from_arrays(study.arrays).predictions(trial.arrays["probability"])


class RendererProcess:
    """A running renderer process.

    Args:
        outbox: Outbox of the trials; it must contain the record of its study.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._process = subprocess.Popen(
            python_command("bhsearch.tracking.upload.renderer", str(outbox.folder)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._asked: set[int] = set()
        self._done: set[int] = set()

    def ask(self, numbers: Iterable[int]) -> None:
        """Request the rendering of trials without waiting; repeated requests are ignored."""
        assert self._process.stdin is not None
        for number in numbers:
            if number not in self._asked:
                self._asked.add(number)
                self._process.stdin.write(f"{to_line(Render(number))}\n")
        self._process.stdin.flush()

    def wait(self, number: int) -> None:
        """Wait until a requested trial is rendered.

        Raises:
            RunError: If rendering fails or the process dies.
        """
        assert self._process.stdout is not None
        while number not in self._done:
            line = self._process.stdout.readline()
            answer = from_line(line)
            if isinstance(answer, Rendered):
                self._done.add(answer.number)
            elif isinstance(answer, Failed) or not line:
                reason = answer.reason if answer is not None else "no answer"
                raise RunError(f"Cannot draw the figures of trial {number}: {reason}")

    def close(self) -> None:
        """End the process and wait for its exit."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def main(folder: str) -> None:
    """Render the trials requested on standard input.

    Args:
        folder: Folder of the outbox.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # finished trials are logged even after Ctrl-C
    outbox = Outbox(Path(folder))
    study = outbox.study()
    for line in sys.stdin:
        asked = from_line(line)
        answer: Rendered | Failed = Rendered(asked.number)
        try:
            render(outbox, study, asked.number)
        except Exception as error:  # reported by the uploader; the trial stays in the outbox
            answer = Failed(f"{type(error).__name__}: {' '.join(str(error).split())}")
        print(to_line(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
