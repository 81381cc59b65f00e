"""`python -m bhsearch.dataset`, the same command as `bhsearch dataset`."""

from bhsearch.cli import terminal
from bhsearch.cli.dataset import app

__all__ = ["app"]

if __name__ == "__main__":
    terminal.main(app, "python -m bhsearch.dataset")
