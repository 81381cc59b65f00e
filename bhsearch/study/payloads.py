"""What the tracking is given of a study and of its trials: JSON-able records, and arrays beside them."""

from __future__ import annotations

import platform
import shlex
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from bhsearch.config import Settings
from bhsearch.data.images.pixel_cache import pixel_file
from bhsearch.engines.base import Trial
from bhsearch.engines.optuna.url import without_password
from bhsearch.evaluation.predictions import Predictions
from bhsearch.models.keras_settings import machine_facts, numerics
from bhsearch.models.resize import make_resize
from bhsearch.objectives.base import Pruned, TrialResult
from bhsearch.runtime.environment import user_name
from bhsearch.states import COMPLETE, FAILED, PRUNED
from bhsearch.study import context
from bhsearch.study.context import FINETUNE, StudyContext
from bhsearch.study.objective_factory import threads_of
from bhsearch.study.parts import METADATA, recorded_parts
from bhsearch.tracking import keys

Arrays = dict[str, npt.NDArray[Any]]


def complete_record(
    trial: Trial, outcome: TrialResult, ends: tuple[float, float], resolved: dict[str, str]
) -> tuple[dict[str, Any], Arrays]:
    """A finished trial; `ends` of the interval of its score, and what `auto` stood for where it ran."""
    record = _record(trial, COMPLETE) | {
        "score": outcome.score,
        "interval": ends,
        "resolved": resolved,
        "seconds": outcome.seconds,
        "cost": outcome.cost,
        "curves": outcome.curves,
        "model": outcome.model,
    }
    return record, {"probability": outcome.probability, **outcome.arrays}


def pruned_record(trial: Trial, pruned: Pruned) -> dict[str, Any]:
    """A trial that was not worth going on with; what was seen of it is kept."""
    return _record(trial, PRUNED) | {"seconds": pruned.seconds, "curves": pruned.curves}


def failed_record(trial: Trial, reason: str) -> dict[str, Any]:
    """A trial without a score."""
    return _record(trial, FAILED) | {"reason": reason}


def study_record(prepared: StudyContext, facts: dict[str, Any], n_images: int, workers: int) -> dict[str, Any]:
    """What every trial of a study has in common; `workers`: processes that run them, 0 for the command's own."""
    settings = prepared.settings
    resize = make_resize(settings.resize, prepared.image_sizes[0])
    versions = context.versions()
    tags = {f"bhsearch.{key}": str(facts[key]) for key in ("data_fingerprint", "split_fingerprint", "group_by")}
    tags |= {"bhsearch.promotable": str(prepared.split.promotable), "bhsearch.regime": prepared.regime}
    tags["bhsearch.synthetic"] = str(prepared.index.synthetic)
    tags |= {f"bhsearch.{key}": str(value) for key, value in arithmetic(settings).items()}
    plugins = recorded_parts(facts.get(METADATA, {}), settings.launcher)
    tags |= {keys.PLUGINS: plugins} if plugins else {}
    if facts["started_from"]:
        tags["bhsearch.started_from"] = facts["started_from"]["study"]
    return {
        "uid": facts["uid"],
        "user": user_name(),
        "study": prepared.study,
        "experiment": prepared.index.name,
        "data": prepared.index.name,
        "root": str(prepared.index.root),
        "digest": prepared.index.fingerprint,
        "note": ". ".join([text for text in (prepared.note, *prepared.split.leaks) if text]),
        "settings": resolved_settings(prepared, workers),
        "tags": tags,
        "files": {
            "split.json": prepared.split.to_dict(),
            "audit.json": prepared.audit.to_dict(),
            "space.json": [asdict(row) for row in prepared.space(facts["backbones"])],
            "versions.json": versions,
            "made.json": {"command": command_of(settings), "machine": machine()},
            "images.json": context.images_record(prepared.index),
            "backbones.json": facts["backbones"],
            "started_from.json": facts["started_from"],
        },
        "backbones": {
            name: {"name": name, "file": str(b.file) if b.file else "", "digest": b.digest, "kind": b.kind}
            for name, b in prepared.backbones.items()
        },
        "pixels": {"file": str(pixel_file(prepared.development, resize)), "shape": [n_images, *resize.shape]},
        "augmented": prepared.regime == FINETUNE,
        "requirements": [
            f"{name}=={versions[name]}" for name in ("keras", "tensorflow", "jax", "numpy") if name in versions
        ],
    }


def arithmetic(settings: Settings) -> dict[str, Any]:
    """What may move a number of a study in its last digits, as far as it is known before the first trial."""
    return numerics() | machine_facts() | {"threads": threads_of(settings) or "backend's choice"}


def resolved_settings(prepared: StudyContext, workers: int) -> dict[str, Any]:
    """Settings of a study with what was decided in the place of `auto`; those that do not apply are left out.

    What `auto` stands for on the device is known where trials run: see `regimes.resolved`.
    """
    settings, split = prepared.settings, prepared.split
    given = {Path(name).stem: name for name in settings.backbones if name.endswith(".keras")}
    finetune = prepared.regime == FINETUNE
    values = asdict(settings) | {
        "storage": without_password(settings.storage),
        "study": prepared.study,
        "layout": prepared.index.layout,
        "magnification": split.magnification,
        "regime": prepared.regime,
        "backbones": tuple(given.get(name, name) for name in prepared.backbones),
        "image_sizes": prepared.image_sizes if finetune else (),
        "precision": settings.precision if finetune and settings.precision != "auto" else None,
        "feature_backend": settings.feature_backend if settings.feature_backend != "auto" else None,
        "pruner": prepared.pruner,
        "workers": workers,
    }
    of_the_terminal = ("quiet", "tracking", "finetune_trials")
    return {name: value for name, value in values.items() if name not in of_the_terminal and value not in (None, ())}


def study_arrays(template: Predictions) -> Arrays:
    """The development rows."""
    arrays = {name: getattr(template, name) for name in ("label", "fold", "group", "stratum")}
    text = {name: getattr(template, name).astype(str) for name in ("path", "case", "subtype", "magnification")}
    return arrays | text


def command_of(settings: Settings) -> str:
    """The command line that repeats a study: every setting that differs from its default, wherever it was given.

    It is made from the settings, since a study may also come from a notebook or a settings file, and since a command
    line may hold the password of the storage.
    """
    words = ["python", "-m", "bhsearch.run"]
    for field in fields(Settings):
        value = getattr(settings, field.name)
        if value == field.default or field.name == "quiet":
            continue
        option = "--" + field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(option if value else f"--no-{field.name.replace('_', '-')}")
        else:
            text = without_password(value) if field.name == "storage" else value
            words += [option, ",".join(map(str, text)) if isinstance(text, tuple) else str(text)]
    return shlex.join(words)


def machine() -> str:
    """What a study runs on: processor, cores, memory, graphics cards, system."""
    memory = psutil.virtual_memory().total / 2**30
    cores = psutil.cpu_count() or 1
    parts = [_processor(), f"{cores} {'core' if cores == 1 else 'cores'}", f"{memory:.0f} GiB of memory", *_gpus()]
    return ", ".join([*parts, f"{platform.system()} {platform.release()}"])


def _processor() -> str:
    """Name of the processor; `platform` knows the architecture only."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.machine()


def _gpus() -> list[str]:
    """Names of NVIDIA's graphics cards, as their driver lists them."""
    found = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = file.read_text(encoding="utf-8").splitlines()
        found += [line.partition(":")[2].strip() for line in lines if line.startswith("Model")]
    return found


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


def _record(trial: Trial, state: str) -> dict[str, Any]:
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in trial.params.items()}
    ended = now_ms()
    return {
        "number": trial.number,
        "state": state,
        "params": plain,
        "started_ms": trial.notes.get("started_ms", ended),
        "ended_ms": ended,
        "retry_of": trial.notes.get("retry_of"),
    }
