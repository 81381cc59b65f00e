"""`python -m bhsearch.report`, the same command as `bhsearch report`."""

from bhsearch.cli import terminal
from bhsearch.cli.report import app

__all__ = ["app"]

if __name__ == "__main__":
    terminal.main(app, "python -m bhsearch.report")
