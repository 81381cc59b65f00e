"""`python -m bhsearch.worker`: join a study that `bhsearch.run` has made, from another terminal or machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bhsearch.cli import terminal

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


def _option(text: str) -> Any:
    return typer.Option(help=text, show_default=False)


@app.command(epilog="Research only: not for screening patients.")
def worker(
    storage: Annotated[str, _option("Database of the study.")],
    study: Annotated[str, _option("Its name.")],
    data: Annotated[str | None, _option("Where the data lie here. Default: as in the study.")] = None,
    weights_dir: Annotated[str | None, _option("Folder of Keras weight files here.")] = None,
    trials: Annotated[int | None, _option("Finished trials that the study shall have.")] = None,
    timeout: Annotated[float | None, _option("Seconds after which no trial is started.")] = None,
    workers: Annotated[int | None, _option("Processes that run trials. Default: one per GPU, else one.")] = None,
    launcher: Annotated[str | None, _option("Where these processes run. Default: local.")] = None,
    trial_timeout: Annotated[float | None, _option("Seconds after which a trial is ended.")] = None,
    max_worker_memory: Annotated[float | None, _option("Megabytes after which a worker is replaced.")] = None,
    tracking: Annotated[bool | None, _option("Whether MLflow keeps runs. Default: yes.")] = None,
    quiet: Annotated[bool | None, typer.Option("--quiet", "-q", help="Print the result only.")] = None,
) -> None:
    """Run trials of a study until it has as many as it shall have.

    Data, split and weights must be those that the study was made with. MLflow's store is the one that
    MLFLOW_TRACKING_URI names: a server, where the study runs on several machines.
    """
    options = dict(locals())
    with terminal.starting(quiet=bool(quiet)):
        from bhsearch.cli.progress import run_study
        from bhsearch.config import load_settings
        from bhsearch.study.open import settings_of

        given = {key: value for key, value in options.items() if value is not None}
        settings = load_settings(None, settings_of(storage, study) | given)

    run_study(settings)


if __name__ == "__main__":
    terminal.main(app, "python -m bhsearch.worker")
