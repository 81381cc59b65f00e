"""Records of a study and of its trials that are sent to MLflow, as JSON-compatible dicts and separate arrays."""

from __future__ import annotations

import json
import platform
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from bhsearch.config import Settings
from bhsearch.data.images.pixel_cache import pixel_file
from bhsearch.engines.base import Trial
from bhsearch.engines.optuna.storages.url import without_password
from bhsearch.models.keras_settings import machine_facts, numerics
from bhsearch.models.resize import make_resize
from bhsearch.objectives.base import Pruned, TrialResult
from bhsearch.runtime.environment import user_name
from bhsearch.runtime.store_schema import SCHEMA
from bhsearch.states import COMPLETE, FAILED, PRUNED
from bhsearch.study.checks.plugins import recorded_parts
from bhsearch.study.context import FINETUNE, StudyContext, images_record
from bhsearch.study.objective_factory import threads_of
from bhsearch.study.resume.metadata import StudyMetadata
from bhsearch.tracking import keys
from bhsearch.tracking.records import StudyRecord, TrialRecord

Arrays = dict[str, npt.NDArray[Any]]
_OF_JOBS = ("launcher_option", "dry_run", "wait", "only")  # settings that say how a command shares the work


def complete_record(
    trial: Trial,
    outcome: TrialResult,
    ends: tuple[float, float],
    resolved: dict[str, str],
    precision: Mapping[str, Any] | None = None,
    joined: Sequence[str] = (),
) -> tuple[TrialRecord, Arrays]:
    """Return the record of a complete trial, and its arrays: predictions and weights.

    Args:
        trial: Trial as it was started.
        outcome: Result of the objective.
        ends: Lower and upper end of the 95 % interval of the score.
        resolved: Values that `auto` resolved to on the device that ran the trial, by setting.
        precision: Choice of the precision of the trial's features; None in the finetune regime.
        joined: Names of the backbones that the trial's backbone joins; empty for a single one.
    """
    record = _record(trial, COMPLETE)
    record.update(
        {
            "score": outcome.score,
            "interval": ends,
            "resolved": resolved,
            "seconds": outcome.seconds,
            "cost": outcome.cost,
            "curves": outcome.curves,
            "model": outcome.model,
        }
    )
    if precision is not None:
        record["precision"] = dict(precision)
    if joined:
        record["joined"] = list(joined)
    return record, {"probability": outcome.out_of_fold, **outcome.arrays}


def pruned_record(trial: Trial, pruned: Pruned) -> TrialRecord:
    """Return the record of a pruned trial, with its learning curves up to the pruning."""
    record = _record(trial, PRUNED)
    record.update({"seconds": pruned.seconds, "curves": pruned.curves})
    return record


def failed_record(trial: Trial, reason: str) -> TrialRecord:
    """Return the record of a failed trial."""
    record = _record(trial, FAILED)
    record["reason"] = reason
    return record


def study_record(context: StudyContext, metadata: StudyMetadata, workers: int) -> StudyRecord:
    """Return the record of a study.

    Args:
        context: Context of the study.
        metadata: Metadata of the study.
        workers: Number of worker processes; 0 if the command runs the trials itself.
    """
    settings, index = context.settings, context.index
    resize = make_resize(settings.resize, context.image_sizes[0])
    return {
        "schema": SCHEMA,
        "uid": metadata["uid"],
        "user": user_name(),
        "study": context.study,
        "experiment": index.name,
        "data": index.name,
        "root": str(index.root),
        "digest": index.fingerprint,
        "task": metadata["task"],
        "note": ". ".join([text for text in (context.note, *context.split.leaks) if text]),
        "settings": resolved_settings(context, workers),
        "tags": _tags(context, metadata),
        "files": _files(context, metadata),
        "backbones": {name: backbone.to_record() for name, backbone in context.backbones.items()},
        "pixels": {
            "file": "" if index.vectors else str(pixel_file(context.development, resize)),
            "shape": [len(context.images), *resize.shape],
        },
        "augmented": context.regime == FINETUNE,
        "requirements": [
            f"{name}=={context.versions[name]}"
            for name in ("keras", "tensorflow", "jax", "numpy")
            if name in context.versions
        ],
    }


def _tags(context: StudyContext, metadata: StudyMetadata) -> dict[str, str]:
    tags = {
        keys.DATA_FINGERPRINT: metadata["data_fingerprint"],
        keys.SPLIT_FINGERPRINT: metadata["split_fingerprint"],
        keys.GROUP_BY: metadata["group_by"],
        keys.REGIME: context.regime,
        keys.TASK: json.dumps(metadata["task"]),
        keys.SYNTHETIC: str(context.index.synthetic),
        keys.LICENCES: json.dumps({name: backbone.licence for name, backbone in context.backbones.items()}),
    }
    tags |= {f"{keys.PREFIX}{name}": str(value) for name, value in arithmetic(context.settings).items()}
    if context.index.vectors:
        tags[keys.VECTORS] = json.dumps({name: each.facts() for name, each in context.index.vectors.items()})
    plugins = recorded_parts(metadata.get("plugins", {}), context.settings.launcher)
    if plugins:
        tags[keys.PLUGINS] = plugins
    if metadata["started_from"]:
        tags[keys.STARTED_FROM] = metadata["started_from"]["study"]
    return tags


def _files(context: StudyContext, metadata: StudyMetadata) -> dict[str, Any]:
    content = {
        keys.SPLIT: context.split.to_dict(),
        keys.AUDIT: context.audit.to_dict(),
        keys.SPACE: [asdict(row) for row in context.space(metadata["backbones"])],
        keys.VERSIONS: dict(context.versions),
        keys.MADE: {"command": command_of(context.settings), "machine": machine()},
        keys.IMAGES: images_record(context.index),
        keys.BACKBONES: metadata["backbones"],
        keys.ORIGIN: metadata["started_from"],
    }
    return {path.removeprefix(f"{keys.STUDY_FOLDER}/"): record for path, record in content.items()}


def arithmetic(settings: Settings) -> dict[str, Any]:
    """Return the numerical settings and machine properties that can change the last digits of a score.

    Only values known before the first trial are included.
    """
    return numerics() | machine_facts() | {"threads": threads_of(settings) or "backend's choice"}


def resolved_settings(context: StudyContext, workers: int) -> dict[str, Any]:
    """Return the settings of a study with `auto` resolved, without settings that do not apply.

    Settings whose `auto` depends on the device are omitted, because they are resolved by the process that runs the
    trials; see `objective_factory.resolved`.
    """
    settings, split, index = context.settings, context.split, context.index
    finetune = context.regime == FINETUNE
    values = asdict(settings) | {
        "storage": without_password(settings.storage),
        "study": context.study,
        "layout": context.index.layout,
        "magnification": split.magnification,
        "regime": context.regime,
        "backbones": None if index.vectors else context.named_backbones,
        "image_sizes": context.image_sizes if finetune else (),
        "precision": settings.precision if finetune and settings.precision != "auto" else None,
        "feature_backend": settings.feature_backend if settings.feature_backend != "auto" else None,
        "feature_precision": settings.feature_precision if settings.feature_precision != "auto" else None,
        "pruner": context.pruner,
        "workers": workers,
    }
    of_the_terminal = ("quiet", "tracking", "finetune_trials", "robustness", "nested", *_OF_JOBS)
    return {name: value for name, value in values.items() if name not in of_the_terminal and value not in (None, ())}


def command_of(settings: Settings) -> str:
    """Return a command line that repeats a study, with every setting that differs from its default.

    The command line is built from the settings for two reasons: a study may also be run from a notebook or a settings
    file, and the original command line may contain the password of the storage.
    """
    words = ["python", "-m", "bhsearch.run"]
    for field in fields(Settings):
        value = getattr(settings, field.name)
        if value == field.default or field.name == "quiet" or field.name in _OF_JOBS:
            continue
        option = "--" + field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(option if value else f"--no-{field.name.replace('_', '-')}")
        else:
            text = without_password(value) if field.name == "storage" else value
            words += [option, ",".join(map(str, text)) if isinstance(text, tuple) else str(text)]
    return shlex.join(words)


def machine() -> str:
    """Return a description of this machine: processor, cores, memory, GPUs and operating system."""
    memory = psutil.virtual_memory().total / 2**30
    cores = psutil.cpu_count() or 1
    parts = [_processor(), f"{cores} {'core' if cores == 1 else 'cores'}", f"{memory:.0f} GiB of memory", *_gpus()]
    return ", ".join([*parts, f"{platform.system()} {platform.release()}"])


def _processor() -> str:
    """Return the model name of the processor, or its architecture if the name is unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.machine()


def _gpus() -> list[str]:
    """Return the model names of the NVIDIA GPUs that the driver lists."""
    found = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = file.read_text(encoding="utf-8").splitlines()
        found += [line.partition(":")[2].strip() for line in lines if line.startswith("Model")]
    return found


def now_ms() -> int:
    """Return the current Unix time in milliseconds."""
    return int(time.time() * 1000)


def _record(trial: Trial, state: str) -> TrialRecord:
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
