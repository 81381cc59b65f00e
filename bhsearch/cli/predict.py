"""`bhsearch predict`: P(malignant) of images and cases by a registered model."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from bhsearch.cli import terminal
from bhsearch.cli.options import RESEARCH_ONLY, Command, make_app, option
from bhsearch.config import choices
from bhsearch.text import plural

app = make_app()
_FORMAT_OF_SUFFIX = {".csv": "csv", ".txt": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


@app.command(cls=Command, epilog=RESEARCH_ONLY)
def predict(
    paths: Annotated[
        list[str], typer.Argument(metavar="FILES_OR_FOLDERS", help="Images, folders of images, or a file of vectors.")
    ],
    model: Annotated[
        str | None, option("NAME, NAME@challenger, NAME/VERSION or a URI. [default: the only champion]", "MODEL")
    ] = None,
    case_pattern: Annotated[
        str | None,
        option(
            "Regular expression whose group finds the case in a path. [default: that of the model's data set, or the "
            "names of BreakHis and IDC]",
            "REGEX",
        ),
    ] = None,
    features_key: Annotated[
        str | None,
        option("Column of a file of vectors with the keys. [default: one with a known name, such as path]", "COLUMN"),
    ] = None,
    file_format: Annotated[
        str | None,
        option(
            "File format. [csv, jsonl; default: that of the suffix of --output, or csv]",
            "FORMAT",
            "--format",
            choices=choices.prediction_formats,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        option("File for the image rows; case rows are written beside it. [default: standard output]", "FILE"),
    ] = None,
    strict: Annotated[
        bool, option("Exit with code 1 if the images differ from the training images.", "", "--strict")
    ] = False,
) -> None:
    """Predict with the champion: one row per image, and one per case in a second file where cases are known.

    A model that was trained on vectors (--features) takes a Parquet, HDF5 or npz file of vectors of the same encoder.

    Images that cannot be read are listed and left out; the exit code is then 1, or 2 if none can be read. A warning
    lists what differs from the training images: image size, magnification, and drift of the cases.
    """
    with terminal.lasting_err() as console:
        with terminal.starting(console):
            from bhsearch.cli.progress import TerminalReporter
            from bhsearch.data.images.files import describe_left_out
            from bhsearch.lifecycle import predict
            from bhsearch.lifecycle.validation.training_facts import Batch, compare
            from bhsearch.lifecycle.vectors import predict as of_vectors
            from bhsearch.study.events import ProgressReporter

        chosen_format = choose_format(file_format, output)
        if output is not None:
            predict.check_output(output)
        reporter = TerminalReporter(console)
        table = of_vectors.open_vectors(paths) if of_vectors.are_vectors(paths) else None
        files = predict.find_files(paths) if table is None else predict.Files([], [], [])
        predict.check_pattern(
            case_pattern, paths, files.images if table is None else of_vectors.paths_of(table, features_key)
        )
        asked = predict.open_model(model, reporter)
        bad = files.bad
        case = predict.case_of(case_pattern or asked.case_pattern, paths)
        written: list[tuple[Path, int]] = []
        batch = Batch()
        aside = output is not None or _goes_to_a_file()  # otherwise the progress display could overwrite rows
        with (reporter if aside else ProgressReporter()).step("predicting") as progress:
            if table is not None:
                rows = of_vectors.predict(asked, table, features_key, case, progress, batch)
            else:
                of_vectors.require_images(asked)
                rows = predict.predict(asked, files.images, case, bad, progress, batch)
            if output is not None:
                written = predict.write_files(output, chosen_format, asked, rows)
            else:
                predict.write_to(sys.stdout, chosen_format, rows)
        if output is None:
            said = (
                f"Model {asked.uri}. P(malignant) of at least {asked.threshold:.6g} is labelled malignant. {asked.use}"
            )
            terminal.err.print(Text(said, style="dim"))
        if files.left_out:
            terminal.err.print(Text(describe_left_out(files.left_out), style="dim"), soft_wrap=True)
        for item in bad:
            terminal.err.print(Text(f"left out: {item.reason}", style="red"), soft_wrap=True)
        for path, n_rows in written:
            terminal.out.print(f"wrote {plural(n_rows, 'row')} to {path}", markup=False, soft_wrap=True)
        if len(written) == 1:
            terminal.out.print(predict.NO_CASES, style="dim", markup=False, soft_wrap=True)
        differences = compare(batch, asked.facts)
        if differences.unchecked:
            terminal.err.print(Text(differences.unchecked, style="dim"), soft_wrap=True)
        terminal.print_warnings(differences.warnings)
    if bad or (strict and differences.warnings):
        sys.exit(1)


def choose_format(kind: str | None, output: Path | None) -> str:
    """Return the output format: the given one, or the one that the suffix of the output file names.

    Args:
        kind: Format given by the user; None if none was given.
        output: Output file; None for standard output.

    Returns:
        The format; `csv` if neither names one.

    Raises:
        SettingsError: If the format is unknown, if the suffix names another format, or if no format is given and the
            suffix names none.
    """
    from bhsearch.errors import SettingsError

    formats = choices.prediction_formats()
    if kind is not None and kind not in formats:
        raise SettingsError(f"--format must be {' or '.join(formats)}, but got {kind!r}.")
    suffix = output.suffix.lower() if output is not None else ""
    named = _FORMAT_OF_SUFFIX.get(suffix)
    if kind is None and named is None and suffix:
        raise SettingsError(
            f"--output must end in {', '.join(_FORMAT_OF_SUFFIX)} if --format is not given, but got {str(output)!r}. "
            f"Change the suffix, or name the format with --format {' or '.join(formats)}."
        )
    if kind is not None and named is not None and kind != named:
        raise SettingsError(
            f"--format and the suffix of --output must agree, but got {kind} and {str(output)!r}. Change one of them."
        )
    return kind or named or formats[0]


def _goes_to_a_file() -> bool:
    """Return whether standard output is a regular file."""
    try:
        return stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
    except (OSError, ValueError):  # streams of notebooks and tests may have no descriptor
        return False
