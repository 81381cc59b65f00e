"""Execute the notebooks, each in an empty folder, and write their outputs back.

python experiments/notebooks/execute.py            # all notebooks
python experiments/notebooks/execute.py --check    # execute only; write nothing
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
TIMEOUT_SECONDS = 300
PROGRESS = re.compile(r"\x1b\[\?25l.*?\x1b\[\?25h(?:\r?\n?\x1b\[1A\x1b\[2K|\r)?", re.DOTALL)
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def execute(file: Path) -> nbformat.NotebookNode:
    """Return a notebook with the outputs of a new execution, without times and machine names."""
    notebook = nbformat.read(file, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=TIMEOUT_SECONDS, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
        client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = without_progress(cell.outputs)
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return notebook


def without_progress(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Return outputs whose text on standard output is one piece, without colours and erased progress lines."""
    kept = [output for output in outputs if output.output_type != "stream"]
    text = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    text = ESCAPE.sub("", PROGRESS.sub("", text)).replace("\r", "").strip("\n")
    text = "\n".join(line.rstrip() for line in text.splitlines())
    return [*([nbformat.v4.new_output("stream", name="stdout", text=f"{text}\n")] if text else []), *kept]


def main() -> None:
    """Execute every notebook of this folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="execute only; write nothing")
    options = parser.parse_args()
    root = str(FOLDER.parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    for file in sorted(FOLDER.glob("*.ipynb")):
        notebook = execute(file)
        if not options.check:
            nbformat.write(notebook, file)
        print(f"{file.name}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells")


if __name__ == "__main__":
    main()
