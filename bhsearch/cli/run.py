"""`bhsearch run`: search for the best network for a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from bhsearch.cli import terminal
from bhsearch.cli.options import RESEARCH_ONLY, Command, make_app, option, settings_options

app = make_app()


@app.command(
    cls=Command,
    epilog=f"A file for --config may contain every option under its long name, with _ for -. {RESEARCH_ONLY}",
)
@settings_options()
def run(
    config: Annotated[Path | None, option("TOML file of settings; options override it.", "FILE")] = None,
    **settings: Any,
) -> None:
    """Search backbones, augmentation and training parameters, and log every trial to MLflow.

    The test cases are sealed first, and all images of a case are in the same fold. Repeating the command continues
    the study.
    """
    from bhsearch.config import load_settings

    loaded = load_settings(config, settings)
    with terminal.starting(quiet=loaded.quiet):
        from bhsearch.cli.progress import run_study

    run_study(loaded)
