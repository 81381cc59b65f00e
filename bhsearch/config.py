"""Frozen settings of a study, from a TOML file and from options; the options win."""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from bhsearch.errors import SettingsError

REGIMES = ("auto", "frozen", "finetune")
ENGINES = ("optuna", "keras-tuner")
PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")

# A + between two names of a class map; one in "IDC(+)" or at the end of "HER2+" belongs to the name.
PLUS = re.compile(r"(?<=[^\s+(=])\+(?=[^\s+)])")


@dataclass(frozen=True)
class Settings:
    """What a user can choose. Each field is an option of `bhsearch.run` and a key of a settings file.

    Attributes:
        data: Folder of images, CSV manifest, or `phantom` (`phantom:cases=120,difficulty=0.5`).
        layout: Reader of the data; `auto` looks.
        case_pattern: Regular expression that takes the case from a path.
        class_map: `benign=NAME` or `malignant=NAME` for each name of a class folder or label that means it.
        ignore_columns: Columns of a manifest, or folders, that seem to divide the data and are to have no effect.
        image_root: Folder that holds the images of a manifest; the manifest's own where None.
        magnification: `all`, or one such as `100X`.
        ignore_predefined_split: Whether to ignore the data's own parts and divide by case.
        skip_unreadable: Whether to go on without files that cannot be read.
        study: Name; by default data, regime, grouping and engine.
        trials: Finished trials that the study shall have in all.
        timeout: Seconds after which no trial is started; None for no limit.
        max_failures: Failed trials in a row that end the study.
        seed: Of the sampler and of the training.
        regime: `frozen`, `finetune`, or `auto`: frozen, and where there is a GPU, then a second study that finetunes
            from what the first found.
        finetune_trials: Finished trials of that second study; as many as `trials` where None.
        init_from: Frozen study that a finetune study starts from.
        warm_start_from: Studies on other data whose best points are tried first.
        patience: Finished trials in a row without a better one that end the study; None for no such end.
        pruner: `none`, `median`, `halving` or `wilcoxon`, for finetuning.
        precision: Of finetuning: `auto`, or as Keras calls it.
        backbones: Names, files, or `auto` for all that can be had.
        weights_dir: Folder of Keras's weight files.
        image_size: Side in pixels that the backbones see.
        image_sizes: Further sides that finetuning searches.
        resize: `crop`, `squash` or `tiles`.
        feature_backend: What computes features: `auto`, `openvino` or `keras`.
        folds: Folds of the development cases.
        repeats: Repeats of the folds.
        test_fraction: Share of the cases that is sealed.
        group_by: `case`, `slide` or `image`.
        workers: Processes that run trials; one per GPU, else one, where None; 0 to run them in the command's own.
        trial_timeout: Seconds after which a trial is ended as failed and its worker replaced; None for no limit.
        max_worker_memory: Megabytes; a worker that holds more after a trial is replaced. None for no limit.
        engine: `optuna` or `keras-tuner`.
        sampler: `tpe`, `random`, `qmc` or `cmaes` of Optuna; `bayesian`, `random`, `hyperband` or `grid` of KerasTuner.
            The first of the engine where None.
        storage: Database URL of Optuna's studies; KerasTuner's lie in the working directory.
        tracking: Whether MLflow keeps runs; without it only scores are kept.
        keep_models: Whose models MLflow keeps: `all`, `none`, or `best:N` for the N best trials.
        quiet: Whether to print the result only.
    """

    data: str = "phantom"
    layout: str = "auto"
    case_pattern: str | None = None
    class_map: tuple[str, ...] = ()
    ignore_columns: tuple[str, ...] = ()
    image_root: str | None = None
    magnification: str = "all"
    ignore_predefined_split: bool = False
    skip_unreadable: bool = False
    study: str | None = None
    trials: int = 50
    timeout: float | None = None
    max_failures: int = 5
    seed: int = 0
    regime: str = "auto"
    finetune_trials: int | None = None
    init_from: str | None = None
    warm_start_from: tuple[str, ...] = ()
    patience: int | None = None
    pruner: str | None = None
    precision: str = "auto"
    backbones: tuple[str, ...] = ("auto",)
    weights_dir: str | None = None
    image_size: int = 224
    image_sizes: tuple[int, ...] = ()
    resize: str = "crop"
    feature_backend: str = "auto"
    folds: int = 5
    repeats: int = 1
    test_fraction: float = 0.2
    group_by: str = "case"
    engine: str = "optuna"
    sampler: str | None = None
    storage: str = "sqlite:///optuna.db"
    workers: int | None = None
    trial_timeout: float | None = None
    max_worker_memory: float | None = None
    tracking: bool = True
    keep_models: str = "all"
    quiet: bool = False

    def __post_init__(self) -> None:
        self._require_sound_values()
        if self.trials < 1:
            raise SettingsError(f"--trials must be at least 1, but got {self.trials}.")
        if self.max_failures < 1:
            raise SettingsError(f"--max-failures must be at least 1, but got {self.max_failures}.")
        if self.timeout is not None and self.timeout <= 0:
            raise SettingsError(f"--timeout must be a number of seconds above 0, but got {self.timeout:g}.")
        if self.patience is not None and self.patience < 1:
            raise SettingsError(f"--patience must be at least 1 trial, but got {self.patience}.")
        if self.workers is not None and self.workers < 0:
            raise SettingsError(f"--workers must be 0 or more, but got {self.workers}.")
        if self.trial_timeout is not None and self.trial_timeout <= 0:
            raise SettingsError(f"--trial-timeout must be a number of seconds above 0, but got {self.trial_timeout:g}.")
        if self.workers == 0 and (self.trial_timeout is not None or self.max_worker_memory is not None):
            raise SettingsError(
                "--trial-timeout and --max-worker-memory must go with worker processes, but got --workers 0: a process "
                "cannot end itself when it hangs. Leave out --workers 0."
            )
        if self.max_worker_memory is not None and self.max_worker_memory < 500:
            raise SettingsError(
                "--max-worker-memory must be at least 500 megabytes, which a worker holds with nothing to do, but got "
                f"{self.max_worker_memory:g}."
            )
        if self.regime not in REGIMES:
            raise SettingsError(f"--regime must be one of {', '.join(REGIMES)}, but got {self.regime!r}.")
        if self.engine not in ENGINES:
            raise SettingsError(f"--engine must be one of {', '.join(ENGINES)}, but got {self.engine!r}.")
        if self.precision not in PRECISIONS:
            raise SettingsError(f"--precision must be one of {', '.join(PRECISIONS)}, but got {self.precision!r}.")
        if self.finetune_trials is not None and self.finetune_trials < 1:
            raise SettingsError(f"--finetune-trials must be at least 1, but got {self.finetune_trials}.")
        if self.seed < 0:
            raise SettingsError(f"--seed must be 0 or more, but got {self.seed}.")
        most_models(self.keep_models)
        if not self.backbones:
            raise SettingsError("--backbones must name at least one backbone, but got none.")

    def _require_sound_values(self) -> None:
        """Refuse empty texts, and numbers that are nan or infinite, whatever the setting."""
        for field in fields(self):
            value = getattr(self, field.name)
            option = f"--{field.name.replace('_', '-')}"
            if isinstance(value, str) and not value.strip():
                raise SettingsError(
                    f"{option} must not be empty, but got {value!r}; an unset shell variable gives that. Leave the "
                    "option out, or give it a value."
                )
            if isinstance(value, float) and not math.isfinite(value):
                raise SettingsError(f"{option} must be a finite number, but got {value}. Leave it out for no limit.")


# What belongs to a command and not to the study: a worker that joins has its own.
_OF_A_COMMAND = (
    "storage", "timeout", "workers", "trial_timeout", "max_worker_memory", "tracking", "quiet", "finetune_trials",
    "warm_start_from",
)  # fmt: skip


def portable(settings: Settings) -> dict[str, Any]:
    """Settings that a worker in another folder needs to join the study, JSON-able; without the storage's password."""
    values = {key: value for key, value in asdict(settings).items() if key not in _OF_A_COMMAND}
    for key in ("data", "weights_dir", "image_root"):
        if values[key] is not None and Path(values[key]).expanduser().exists():
            values[key] = str(Path(values[key]).expanduser().resolve())
    values["backbones"] = [str(Path(name).resolve()) if Path(name).is_file() else name for name in settings.backbones]
    return values | {key: list(values[key]) for key in ("class_map", "ignore_columns", "image_sizes")}


def most_models(keep: str) -> int | None:
    """How many trials of a study keep their model, from `--keep-models`; None for all.

    Raises:
        SettingsError: If it is none of `all`, `none` and `best:N` with N of at least 1.
    """
    if keep in ("all", "none"):
        return None if keep == "all" else 0
    best = re.fullmatch(r"best:([1-9][0-9]{0,8})", keep, re.ASCII)
    if best is None:
        raise SettingsError(f"--keep-models must be all, none or best:N, such as best:5, but got {keep!r}.")
    return int(best[1])


def load_settings(file: Path | None, options: Mapping[str, Any]) -> Settings:
    """Settings from a TOML file, overridden by the options that were given.

    Args:
        file: TOML file of keys as in `Settings`, or None.
        options: Keys as in `Settings`; None stands for an option that was not given.

    Raises:
        SettingsError: If the file cannot be read, holds an unknown key, or a value of the wrong type or range.
    """
    values = _read(file) if file is not None else {}
    _require_known(values, f"The keys of {file}")
    _require_known(options, "Options")
    given = {key: value for key, value in options.items() if value is not None}
    return replace(Settings(), **{key: _checked(key, value) for key, value in {**values, **given}.items()})


def _read(file: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError(
            f"--config must be a TOML file that can be read, but got {str(file)!r}: {error.strerror}."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"--config must be a TOML file, but {file} is not: {error}.") from error
    return values


def _require_known(keys: Iterable[str], where: str) -> None:
    known = [field.name for field in fields(Settings)]
    for key in keys:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f" Did you mean {close[0]!r}?" if close else f" The keys are {', '.join(known)}."
            raise SettingsError(f"{where} must be settings, but there is the unknown key {key!r}.{hint}")


def _checked(key: str, value: Any) -> Any:
    """Bring a value to the type of its field: lists become tuples, whole numbers may stand for others."""
    hint = get_type_hints(Settings)[key]
    if key == "class_map":
        return _class_map(value)
    if key in ("backbones", "warm_start_from", "ignore_columns"):
        names = value.split(",") if isinstance(value, str) else value
        if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names):
            if key == "ignore_columns":  # the option may be repeated, and each may hold several
                names = [name for text in names for name in text.split(",")]
            return tuple(_expanded(name.strip()) for name in names if name.strip())
        raise SettingsError(f"{key} must be a list of names, but got {value!r}.")
    if key == "image_sizes":
        sizes = value.split(",") if isinstance(value, str) else value
        try:
            if any(isinstance(size, (bool, float)) for size in sizes):
                raise ValueError
            return tuple(int(size) for size in sizes)
        except (TypeError, ValueError) as error:
            raise SettingsError(f"image_sizes must be a list of whole numbers, but got {value!r}.") from error
    allowed = get_args(hint) or (hint,)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        names = " or ".join(kind.__name__ for kind in allowed if kind is not type(None))
        raise SettingsError(f"{key} must be of type {names}, but got {value!r}.")
    return _expanded(value) if key in ("weights_dir", "image_root") else value


def _expanded(path: Any) -> Any:
    """A path with the home folder for a leading `~`; anything else as it is."""
    return os.path.expanduser(path) if isinstance(path, str) and path.startswith("~") else path  # noqa: PTH111


def _class_map(value: Any) -> tuple[str, ...]:
    """A class map as pairs `benign=NAME`, one name each.

    Args:
        value: The text of an option, such as `benign=normal,malignant=cancer+invasive`; a table of a settings file,
            such as `{benign = ["normal"]}`; or the pairs.

    Raises:
        SettingsError: If it is none of these.
    """
    if isinstance(value, str):
        pairs = []
        for item in filter(None, (item.strip() for item in value.split(","))):
            label, sign, names = item.partition("=")
            pairs += [f"{label.strip()}{sign}{name.strip()}" for name in PLUS.split(names)]
        return tuple(pairs)
    if isinstance(value, Mapping):
        table = {label: [names] if isinstance(names, (str, int)) else names for label, names in value.items()}
        if all(isinstance(names, list) and all(_is_name(name) for name in names) for names in table.values()):
            return tuple(f"{label}={name}" for label, names in table.items() for name in names)
    elif isinstance(value, (list, tuple)) and all(isinstance(pair, str) for pair in value):
        return tuple(value)
    raise SettingsError(
        'class_map must be a table such as {benign = ["normal"], malignant = ["cancer", "invasive"]}, but got '
        f"{value!r}."
    )


def _is_name(value: Any) -> bool:
    """Whether a value can be a class name: text, or a whole number, as labels often are."""
    return isinstance(value, (str, int)) and not isinstance(value, bool)
