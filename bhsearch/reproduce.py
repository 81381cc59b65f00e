"""`python -m bhsearch.reproduce`, the same command as `bhsearch reproduce`."""

from bhsearch.cli import terminal
from bhsearch.cli.reproduce import app

__all__ = ["app"]

if __name__ == "__main__":
    terminal.main(app, "python -m bhsearch.reproduce")
