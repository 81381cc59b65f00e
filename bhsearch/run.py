"""`python -m bhsearch.run`, the same command as `bhsearch run`."""

from bhsearch.cli import terminal
from bhsearch.cli.run import app

__all__ = ["app"]

if __name__ == "__main__":
    terminal.main(app, "python -m bhsearch.run")
