"""`python -m bhsearch.register`, the same command as `bhsearch register`."""

from bhsearch.cli import terminal
from bhsearch.cli.register import app

__all__ = ["app"]

if __name__ == "__main__":
    terminal.main(app, "python -m bhsearch.register")
