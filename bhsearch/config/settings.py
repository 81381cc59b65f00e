"""Settings of a study, in sections. Each field is an option of `bhsearch run` and a key of a settings file.

Each setting is declared only here. From the declaration, `bhsearch.cli.options` creates the command-line option,
`bhsearch.config.loading` checks settings files, and `bhsearch.config.table` writes the reference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar, get_type_hints

from bhsearch.config import choices
from bhsearch.config.option import check_value, option_name, option_of, setting
from bhsearch.config.parsing import (
    parse_class_map,
    parse_names,
    parse_pairs,
    parse_repeated_names,
    parse_whole_numbers,
)
from bhsearch.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Location of the images, and options for reading labels and cases."""

    title: ClassVar[str] = "Data"

    data: str = setting(
        "phantom", "Image folder, CSV manifest, or phantom[:cases=120,difficulty=0.5] for synthetic images.", "PATH"
    )
    layout: str = setting("auto", "Layout of the data set; auto detects it.", "NAME", choices=choices.layouts)
    case_pattern: str | None = setting(
        None, "Regular expression that is searched in each path; its group is the case.", "REGEX", unset="by the layout"
    )
    class_map: tuple[str, ...] = setting(
        (),
        "Names of the class folders or labels of each class, such as benign=normal,malignant=cancer+invasive.",
        "MAP",
        parse=parse_class_map,
    )
    ignore_columns: tuple[str, ...] = setting(
        (),
        "Manifest column or folder name that looks like a predefined split and should be ignored; may be repeated.",
        "NAME",
        aliases=("--ignore-column",),
        is_repeatable=True,
        parse=parse_repeated_names,
    )
    image_root: str | None = setting(
        None, "Folder that holds the images of a manifest.", "FOLDER", unset="the manifest's", is_path=True
    )
    features: tuple[str, ...] = setting(
        (),
        "Parquet, HDF5 or npz file of vectors that an encoder computed elsewhere, used instead of the images; may be "
        "repeated, one file for each encoder.",
        "FILE",
        is_repeatable=True,
        parse=parse_repeated_names,
    )
    features_key: str | None = setting(
        None,
        "Column of --features with the paths or ids of the manifest.",
        "COLUMN",
        unset="the first one with a known name, such as path or id",
    )
    magnification: str = setting("all", "Magnification of the images to use, such as 100X, or all.", "NAME")
    skip_unreadable: bool = setting(False, "Skip images that cannot be read; by default they are an error.")


AUTO_WORKERS = "auto"  # value of `--workers-per-gpu`
# Values of `--only`, without the name of a backbone.
ALL, FEATURES, TRIALS, SUMMARY = PARTS = ("all", "features", "trials", "summary")
VECTORS = "features:"  # before the path of a file of `--features`, in the name of its backbone
DATA_SETTINGS = tuple(field.name for field in fields(DataSettings))


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """Division of the cases into the sealed test set and the folds of the development set."""

    title: ClassVar[str] = "Split"

    test_fraction: float = setting(0.2, "Fraction of the cases held out as the test set.", "FRACTION")
    ignore_predefined_split: bool = setting(
        False, "Ignore the predefined split (train, validation, test) of the data set, and make a new split by case."
    )
    folds: int = setting(5, "Number of cross-validation folds.", "N")
    repeats: int = setting(1, "Number of times the folds are drawn; more repeats reduce the variance.", "N")
    group_by: str = setting(
        "case",
        "Unit that is never divided between folds: case, or site with all its cases; slide and image leak, because "
        "images of one case are then on both sides.",
        "UNIT",
        choices=choices.groupings,
        closed=True,
    )


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """Name, length and random seed of the study."""

    title: ClassVar[str] = "Study"

    study: str | None = setting(None, "Name of the study.", "NAME", unset="made from data, regime, grouping and engine")
    trials: int = setting(50, "Total number of finished trials, including those of earlier commands.", "N", at_least=1)
    finetune_trials: int | None = setting(
        None,
        "Number of fine-tuning trials when --regime auto runs a second study on a GPU.",
        "N",
        unset="as --trials",
        at_least=1,
        belongs_to_command=True,
    )
    timeout: float | None = setting(
        None,
        "Seconds after which no new trial is started.",
        "SECONDS",
        above=0,
        unit="seconds",
        belongs_to_command=True,
    )
    budget: float | None = setting(
        None,
        "Minutes that all trials of the study should take together, at most --trials; a trial starts only if it is "
        "expected to end in time.",
        "MINUTES",
        above=0,
        unit="minutes",
        belongs_to_command=True,
    )
    patience: int | None = setting(
        None, "Stop after this many finished trials in a row without a better score.", "N", at_least=1
    )
    max_failures: int = setting(5, "Stop after this many failed trials in a row.", "N", at_least=1)
    seed: int = setting(0, "Random seed for the sampler and for training.", "N", at_least=0)
    robustness: bool = setting(
        False,
        "After a frozen search, also score the best trials and the default on validation images with shifts of stain, "
        "brightness, compression, focus and resolution; chooses nothing.",
        belongs_to_command=True,
    )
    nested: bool = setting(
        False,
        "After a frozen search, repeat the whole search without each fold and score the fold by the model that this "
        "search proposes; chooses nothing.",
        belongs_to_command=True,
    )


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Training regime, search algorithm and starting points of the search."""

    title: ClassVar[str] = "Search"

    regime: str = setting(
        "auto",
        "Train heads on frozen features, fine-tune the networks, or choose by the device: auto runs a frozen study "
        "and, on a GPU, a fine-tuning study that starts from it.",
        "NAME",
        choices=choices.regimes,
        closed=True,
    )
    heads: str = setting(
        "all",
        "Heads of a frozen study: all, or only linear ones, which are solved exactly and are fast for many images.",
        "NAME",
        choices=choices.heads,
        closed=True,
    )
    engine: str = setting("optuna", "Search engine.", "NAME", choices=choices.engines)
    sampler: str | None = setting(
        None,
        "Sampler of the engine.",
        "NAME",
        unset="the first of the engine",
        choices=choices.samplers,
    )
    pruner: str | None = setting(
        None,
        "Pruner of fine-tuning trials.",
        "NAME",
        unset="median, or none where the engine has none",
        choices=choices.pruners,
    )
    init_from: str | None = setting(
        None,
        "Frozen study whose best heads initialize the heads of a fine-tuning study.",
        "STUDY",
        unset="heads are trained for each backbone",
    )
    race_divisions: int = setting(
        0,
        "Number of further divisions into folds on which the five best trials of a frozen study are scored again; only "
        "these trials may then be proposed.",
        "N",
        belongs_to_command=True,
    )
    score_weight_shift: float = setting(
        0.0,
        "Weight, from 0 to 1, of the mean AUC under shifts of stain, brightness, compression, focus and resolution in "
        "the score of a frozen study; the rest is the weight of the AUC of the unchanged images.",
        "WEIGHT",
    )
    warm_start_from: tuple[str, ...] = setting(
        (),
        "Studies on other data whose best parameters are tried first, separated by commas.",
        "STUDIES",
        parse=parse_names,
        belongs_to_command=True,
    )


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Backbones and their input images, additional augmentation policies and metrics, and computation."""

    title: ClassVar[str] = "Networks"

    backbones: tuple[str, ...] = setting(
        ("auto",),
        "Backbones by name, .keras, .onnx or OpenVINO .xml files, SavedModel folders, or published encoders (FOLDER, "
        "FOLDER@cls+mean or hf://OWNER/NAME), separated by commas; auto uses every backbone whose weights are "
        "available and lists the rest.",
        "NAMES",
        parse=parse_names,
    )
    combine: int = setting(
        0,
        "After the starting points of a frozen search, also try the features of several of the three best backbones "
        "together: 2 for pairs, 3 for pairs and all three, 0 for neither.",
        "N",
    )
    weights_dir: str | None = setting(
        None, "Folder of Keras weight files.", "FOLDER", unset="Keras's cache", is_path=True
    )
    augmentations: tuple[str, ...] = setting(
        (),
        "Augmentation policies from other packages to add to the search, separated by commas.",
        "NAMES",
        choices=choices.augmentations,
        parse=parse_names,
    )
    metrics: tuple[str, ...] = setting(
        (),
        "Metrics from other packages to log in addition, separated by commas.",
        "NAMES",
        parse=parse_names,
        choices=choices.metrics,
    )
    image_size: int = setting(224, "Side of the images that the backbones receive, in pixels.", "PIXELS")
    image_sizes: tuple[int, ...] = setting(
        (),
        "Additional image sizes in the search space of fine-tuning, separated by commas.",
        "PIXELS",
        parse=parse_whole_numbers,
    )
    batch_sizes: tuple[int, ...] = setting(
        (),
        "Numbers of images per step in the search space of fine-tuning, separated by commas, the default first.",
        "NUMBERS",
        parse=parse_whole_numbers,
        unset="16,32; on a GPU 32,64",
    )
    resize: str = setting(
        "crop",
        "How images are resized: crop the centre, squash to a square, or tiles, which averages the features of a grid "
        "of tiles.",
        "MODE",
        choices=choices.resize_modes,
        closed=True,
    )
    feature_backend: str = setting(
        "auto",
        "Library that computes frozen features; auto chooses by the device.",
        "NAME",
        choices=choices.feature_backends,
        closed=True,
    )
    feature_precision: str = setting(
        "auto",
        "Floating-point precision of frozen features on a CPU; auto uses bf16 for slow backbones whose AUC it does not "
        "change by more than 0.005.",
        "NAME",
        choices=choices.feature_precisions,
        closed=True,
    )
    precision: str = setting(
        "auto",
        "Floating-point precision of fine-tuning; auto chooses by the device.",
        "NAME",
        choices=choices.precisions,
        closed=True,
    )


@dataclass(frozen=True, kw_only=True)
class ExecutionSettings:
    """Settings for the worker processes, and for the database that they share."""

    title: ClassVar[str] = "Execution"

    workers: int | None = setting(
        None,
        "Number of worker processes; 0 runs the trials in the command's own process.",
        "N",
        unset="one per GPU, else one",
        at_least=0,
        belongs_to_command=True,
    )
    workers_per_gpu: str = setting(
        "1",
        "Number of worker processes that share a GPU; auto adds workers while each gives 10 % more trials a minute.",
        "K|auto",
        parse=str,
        belongs_to_command=True,
    )
    launcher: str = setting(
        "local", "Where the worker processes run.", "NAME", choices=choices.launchers, belongs_to_command=True
    )
    launcher_option: tuple[str, ...] = setting(
        (),
        "Option of a cluster's launcher, such as partition=gpu (repeatable).",
        "KEY=VALUE",
        is_repeatable=True,
        parse=parse_pairs,
        belongs_to_command=True,
    )
    dry_run: bool = setting(False, "Write the files of a cluster's jobs, and submit nothing.", belongs_to_command=True)
    wait: bool = setting(True, "Wait for the jobs of a cluster, and show their progress.", belongs_to_command=True)
    only: str = setting(
        ALL,
        "Part of the work: all; features, or features:BACKBONE, without trials; trials without the final ranking; "
        "summary without trials.",
        "PART",
        belongs_to_command=True,
    )
    trial_timeout: float | None = setting(
        None,
        "Seconds after which a trial is marked failed and its worker is replaced.",
        "SECONDS",
        above=0,
        unit="seconds",
        belongs_to_command=True,
    )
    max_worker_memory: float | None = setting(
        None,
        "Megabytes of memory above which a worker is replaced after its trial.",
        "MEGABYTES",
        at_least=150,
        unit="megabytes, which an idle worker holds",
        belongs_to_command=True,
    )
    storage: str = setting(
        "sqlite:///optuna.db",
        "Database URL of Optuna's studies, or journal:PATH for a file in a shared folder. The environment variable "
        "BHSEARCH_STORAGE sets it, too, and keeps a password out of the command line.",
        "URL",
        variable="BHSEARCH_STORAGE",
        belongs_to_command=True,
    )


@dataclass(frozen=True, kw_only=True)
class TrackingSettings:
    """Logging to MLflow, and printed output."""

    title: ClassVar[str] = "Tracking and output"

    tracking: bool = setting(True, "Log runs, predictions and models to MLflow.", belongs_to_command=True)
    keep_models: str = setting(
        "all",
        "Trials whose models are kept in MLflow: all, best:N (with cheaper ones that may be proposed) or none.",
        "WHICH",
    )
    quiet: bool = setting(False, "Print the result only.", aliases=("-q",), belongs_to_command=True)


SECTIONS: tuple[type, ...] = (
    DataSettings,
    StudySettings,
    SearchSettings,
    NetworkSettings,
    SplitSettings,
    ExecutionSettings,
    TrackingSettings,
)


@dataclass(frozen=True, kw_only=True)
class Settings(
    TrackingSettings, ExecutionSettings, SplitSettings, NetworkSettings, SearchSettings, StudySettings, DataSettings
):  # fields are collected from the last base to the first, which is the order of SECTIONS
    """All settings of a study.

    Raises:
        SettingsError: If a value is out of range, or two settings contradict each other.
    """

    def __post_init__(self) -> None:
        for declared in fields(self):
            check_value(declared.name, option_of(declared), getattr(self, declared.name))
        model_limit(self.keep_models)
        check_part(self.only)
        check_workers_per_gpu(self.workers_per_gpu)
        if self.features_key is not None and not self.features:
            raise SettingsError(
                f"--features-key requires --features, but got only --features-key {self.features_key!r}. Give the file "
                "of the vectors with --features, or remove --features-key."
            )
        if not self.backbones:
            raise SettingsError(
                "--backbones must name at least one backbone, but is empty. Use --backbones auto for all available "
                "backbones."
            )
        if self.workers == 0 and (self.trial_timeout is not None or self.max_worker_memory is not None):
            raise SettingsError(
                "--trial-timeout and --max-worker-memory require worker processes, because the command can only stop "
                "a trial in another process. Remove --workers 0, or set --workers 1."
            )


def encoder_names(settings: Settings) -> tuple[str, ...]:
    """Return the names of the backbones as `find_backbones` takes them: files of vectors, or else `--backbones`."""
    return tuple(f"{VECTORS}{file}" for file in settings.features) or settings.backbones


def check_workers_per_gpu(value: str) -> None:
    """Check the value of `--workers-per-gpu`.

    Raises:
        SettingsError: If it is neither `auto` nor a whole number of at least 1.
    """
    if value != AUTO_WORKERS and re.fullmatch(r"[1-9][0-9]?", value, re.ASCII) is None:
        raise SettingsError(f"--workers-per-gpu must be auto or a whole number from 1 to 99, but got {value!r}.")


def check_part(only: str) -> None:
    """Check the value of `--only`.

    Raises:
        SettingsError: If it is unknown.
    """
    part, sign, backbone = only.partition(":")
    if part not in PARTS or (sign and (part != FEATURES or not backbone)):
        raise SettingsError(f"--only must be all, features, features:BACKBONE, trials or summary, but got {only!r}.")


def model_limit(keep_models: str) -> int | None:
    """Return the maximum number of models to keep in a study, from the value of `--keep-models`; None for all.

    Raises:
        SettingsError: If the value is not `all`, `none` or `best:N` with N of at least 1.
    """
    if keep_models in ("all", "none"):
        return None if keep_models == "all" else 0
    best = re.fullmatch(r"best:([1-9][0-9]{0,8})", keep_models, re.ASCII)
    if best is None:
        raise SettingsError(
            f"{option_name('keep_models')} must be all, none or best:N, such as best:5, but got {keep_models!r}."
        )
    return int(best[1])


@cache
def _types() -> dict[str, Any]:
    return get_type_hints(Settings)


def type_of(name: str) -> Any:
    """Return the type of a setting, such as `int | None`."""
    return _types()[name]


# Let `help(Settings)` show the same help texts as `bhsearch run --help`.
Settings.__doc__ = f"{Settings.__doc__}\n    Attributes:\n" + "".join(
    f"        {declared.name}: {option_of(declared).help}\n" for declared in fields(Settings)
)
