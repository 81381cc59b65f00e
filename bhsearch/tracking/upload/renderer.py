"""The process that computes metrics and draws pictures, so that the one that logs need not wait for them.

It reads numbers of trials in the outbox from standard input, a line each, puts what it makes into the folder of that
trial, and answers with the number. It ends when its input does.
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
from bhsearch.evaluation.extra_metrics import extra_values
from bhsearch.evaluation.predictions import Predictions
from bhsearch.runtime.cache import acquire_lease
from bhsearch.runtime.processes import python_command
from bhsearch.tracking.upload import artifacts
from bhsearch.tracking.upload.outbox import Message, Outbox

_VALUES, _FILES = "values.json", "files"


def render(outbox: Outbox, study: Message, number: int) -> None:
    """Compute the metrics of a trial and write its files, beside its record."""
    trial = outbox.trial(number)
    files = trial.folder / _FILES
    shutil.rmtree(files, ignore_errors=True)  # of a process that died over it
    files.mkdir()
    predictions = predictions_of(study, trial)
    values, ends = artifacts.score_and_interval(predictions)
    values |= extra_values(predictions, study.record["settings"].get("metrics", ()))
    pixels = _pixels(study)
    unit = "quarter of the training" if study.record["augmented"] else "epoch"
    artifacts.write_trial(files, predictions, values, ends, trial.record["curves"], pixels, study.record["note"], unit)
    (trial.folder / _VALUES).write_text(json.dumps(values), encoding="utf-8")


def _pixels(study: Message) -> npt.NDArray[np.uint8] | None:
    """The resized images; None where the cache does not have them any more, as when MLflow was away for long."""
    place = study.record["pixels"]
    if not acquire_lease(Path(place["file"]).parent):
        return None
    return np.memmap(place["file"], np.uint8, "r", shape=tuple(place["shape"]))


def rendered(trial: Message) -> tuple[dict[str, float], Path]:
    """Metrics of a rendered trial, and the folder of its files."""
    return json.loads((trial.folder / _VALUES).read_text(encoding="utf-8")), trial.folder / _FILES


def predictions_of(study: Message, trial: Message) -> Predictions:
    """Out-of-fold predictions of a trial in the outbox."""
    rows = study.arrays
    return Predictions(
        probability=trial.arrays["probability"],
        label=rows["label"],
        fold=rows["fold"],
        group=rows["group"],
        stratum=rows["stratum"],
        **{name: rows[name].astype(object) for name in ("path", "case", "subtype", "magnification")},
    )


class RendererProcess:
    """The other side of that process.

    Args:
        outbox: The outbox; the study must have been put.
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
        """Have trials rendered, those asked for before excepted; does not wait."""
        assert self._process.stdin is not None
        for number in numbers:
            if number not in self._asked:
                self._asked.add(number)
                self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()

    def wait(self, number: int) -> None:
        """Wait until a trial that was asked for is rendered.

        Raises:
            RunError: If the process failed.
        """
        assert self._process.stdout is not None
        while number not in self._done:
            line = self._process.stdout.readline().strip()
            if not line.isdigit():
                raise RunError(
                    f"The pictures of trial {number} must be drawn, but drawing failed: {line or 'no answer'}"
                )
            self._done.add(int(line))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def main(folder: str) -> None:
    """Render what standard input asks for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the search; what it finished is still to be logged
    outbox = Outbox(Path(folder))
    study = outbox.study()
    for line in sys.stdin:
        try:
            render(outbox, study, int(line))
        except Exception as error:  # said to the process that logs, which passes it on and keeps the trial
            print(f"{type(error).__name__}: {' '.join(str(error).split())}", flush=True)
        else:
            print(line.strip(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
