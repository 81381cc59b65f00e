"""`python -m bhsearch.validate`, the same command as `bhsearch validate`."""

from bhsearch.cli import terminal
from bhsearch.cli.validate import app

__all__ = ["app"]

if __name__ == "__main__":
    terminal.main(app, "python -m bhsearch.validate")
