"""`python -m bhsearch.run`: search for the best network on a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bhsearch.cli import terminal

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

_DATA, _STUDY, _SPACE, _SPLIT, _PLACES = "Data", "Study", "Space", "Split", "Places"


def _option(text: str, panel: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False)


@app.command(
    epilog="Every option can stand in the file of --config under its long name, with _ for -. Research only: not for "
    "screening patients."
)
def run(
    data: Annotated[
        str | None, _option("Folder, CSV manifest, or phantom\\[:cases=120,...]. Default: phantom.", _DATA)
    ] = None,
    layout: Annotated[str | None, _option("auto, breakhis, idc, folders or manifest.", _DATA)] = None,
    case_pattern: Annotated[str | None, _option("Regular expression that takes the case from a path.", _DATA)] = None,
    class_map: Annotated[
        str | None, _option("Names of class folders or labels: benign=normal,malignant=cancer+invasive.", _DATA)
    ] = None,
    ignore_columns: Annotated[
        list[str] | None,
        _option(
            "Column of a manifest, or folder, that divides the data and is to have no effect; may be repeated.",
            _DATA,
            "--ignore-column",
            "--ignore-columns",
        ),
    ] = None,
    image_root: Annotated[str | None, _option("Folder with the images of a manifest. Default: its own.", _DATA)] = None,
    magnification: Annotated[str | None, _option("all, or one such as 100X.", _DATA)] = None,
    skip_unreadable: Annotated[
        bool | None, _option("Go on without unreadable images.", _DATA, "--skip-unreadable")
    ] = None,
    trials: Annotated[int | None, _option("Finished trials that the study shall have. Default: 50.", _STUDY)] = None,
    study: Annotated[str | None, _option("Name. Default: from data, regime, grouping, engine.", _STUDY)] = None,
    timeout: Annotated[float | None, _option("Seconds after which no trial is started.", _STUDY)] = None,
    max_failures: Annotated[
        int | None, _option("Failed trials in a row that end the study. Default: 5.", _STUDY)
    ] = None,
    workers: Annotated[
        int | None, _option("Processes that run trials. Default: one per GPU, else one; 0: none.", _STUDY)
    ] = None,
    trial_timeout: Annotated[float | None, _option("Seconds after which a trial is ended.", _STUDY)] = None,
    max_worker_memory: Annotated[float | None, _option("Megabytes after which a worker is replaced.", _STUDY)] = None,
    seed: Annotated[int | None, _option("Of sampler and training. Default: 0.", _STUDY)] = None,
    engine: Annotated[str | None, _option("optuna (default) or keras-tuner.", _STUDY)] = None,
    sampler: Annotated[
        str | None,
        _option(
            "Optuna: tpe (default), random, qmc, cmaes. KerasTuner: bayesian (default), random, hyperband, grid.",
            _STUDY,
        ),
    ] = None,
    config: Annotated[Path | None, _option("TOML file of settings.", _STUDY)] = None,
    regime: Annotated[str | None, _option("auto, frozen or finetune.", _SPACE)] = None,
    init_from: Annotated[
        str | None, _option("Frozen study that finetuning starts from.", _SPACE, "--init-from")
    ] = None,
    finetune_trials: Annotated[
        int | None, _option("Of the second study that auto makes on a GPU. Default: as --trials.", _SPACE)
    ] = None,
    warm_start_from: Annotated[
        str | None, _option("Studies on other data whose best points come first, comma between.", _SPACE)
    ] = None,
    patience: Annotated[
        int | None, _option("Finished trials in a row without a better one that end the study.", _STUDY)
    ] = None,
    pruner: Annotated[str | None, _option("none, median, halving or wilcoxon; for finetuning.", _STUDY)] = None,
    precision: Annotated[
        str | None, _option("Of finetuning: auto, float32, mixed_bfloat16 or mixed_float16.", _SPACE)
    ] = None,
    backbones: Annotated[str | None, _option("Names or .keras files, comma between, or auto.", _SPACE)] = None,
    image_size: Annotated[int | None, _option("Side in pixels. Default: 224.", _SPACE)] = None,
    image_sizes: Annotated[str | None, _option("More sides that finetuning searches, comma between.", _SPACE)] = None,
    resize: Annotated[str | None, _option("crop (default), squash or tiles.", _SPACE)] = None,
    feature_backend: Annotated[str | None, _option("For features: auto, openvino or keras.", _SPACE)] = None,
    folds: Annotated[int | None, _option("Folds of the development cases. Default: 5.", _SPLIT)] = None,
    repeats: Annotated[int | None, _option("Repeats of the folds. Default: 1.", _SPLIT)] = None,
    test_fraction: Annotated[float | None, _option("Share of the cases to seal. Default: 0.2.", _SPLIT)] = None,
    group_by: Annotated[str | None, _option("case (default); slide and image leak.", _SPLIT)] = None,
    ignore_predefined_split: Annotated[
        bool | None, _option("Ignore the data's own parts.", _SPLIT, "--ignore-predefined-split")
    ] = None,
    weights_dir: Annotated[str | None, _option("Folder of Keras weight files.", _PLACES)] = None,
    storage: Annotated[
        str | None, _option("Database of Optuna's studies. Default: sqlite:///optuna.db.", _PLACES)
    ] = None,
    tracking: Annotated[bool | None, _option("Whether MLflow keeps runs. Default: yes.", _PLACES)] = None,
    sync: Annotated[bool, _option("Only send to MLflow what waits in outbox/, and end.", _PLACES, "--sync")] = False,
    keep_models: Annotated[
        str | None, _option("Whose models MLflow keeps: all (default), best:N or none.", _PLACES)
    ] = None,
    quiet: Annotated[bool | None, _option("Print the result only.", _PLACES, "--quiet", "-q")] = None,
) -> None:
    """Search backbone, augmentation, learning rate and more; log every trial to MLflow.

    The test cases are sealed first, folds keep cases whole. The same command again continues the study.
    """
    options = dict(locals())
    file = options.pop("config")
    if options.pop("sync"):
        from bhsearch.tracking.upload import client

        client.sync(terminal.out.print)
        return
    from bhsearch.config import load_settings

    settings = load_settings(file, options)
    with terminal.starting(quiet=settings.quiet):
        from bhsearch.cli.progress import run_study

    run_study(settings)


if __name__ == "__main__":
    terminal.main(app, "python -m bhsearch.run")
