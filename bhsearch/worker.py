"""`python -m bhsearch.worker`, the same command as `bhsearch worker`."""

from bhsearch.cli import terminal
from bhsearch.cli.worker import app

__all__ = ["app"]

if __name__ == "__main__":
    terminal.main(app, "python -m bhsearch.worker")
