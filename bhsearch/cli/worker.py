"""`bhsearch worker`: join a study of `bhsearch run` from another terminal or machine."""

from __future__ import annotations

from typing import Any

from bhsearch.cli import terminal
from bhsearch.cli.options import RESEARCH_ONLY, Command, make_app, settings_options

app = make_app()


@app.command(cls=Command, epilog=RESEARCH_ONLY)
@settings_options(
    "storage", "study", "data", "weights_dir", "trials", "timeout", "budget", "workers", "workers_per_gpu", "launcher",
    "trial_timeout", "max_worker_memory", "robustness", "nested", "race_divisions", "only", "tracking", "quiet",
    required=("study",),
    defaults=False,
)  # fmt: skip
def worker(**settings: Any) -> None:
    """Run trials of a study until the study has the wanted number of finished trials.

    Options that are not given have the values of the study. Data, split and weights must be the same as in the study. A
    study on several machines needs an MLflow server, named by MLFLOW_TRACKING_URI.
    """
    with terminal.starting(quiet=bool(settings["quiet"])):
        from bhsearch.cli.progress import run_study
        from bhsearch.config import load_settings
        from bhsearch.study.resume.open import settings_of

        given = {key: value for key, value in settings.items() if value is not None}
        storage = load_settings(None, given).storage  # which the environment may name
        loaded = load_settings(None, settings_of(storage, given["study"]) | given)

    run_study(loaded)
